"""Which config.json is which family. To add one: a config class with `block`, and a line here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tessy_jax.models.config import DecoderConfig, ModelConfigError
from tessy_jax.models.families.deepseek_v3 import DeepseekV3Config
from tessy_jax.models.families.gemma3 import Gemma3Config
from tessy_jax.models.families.gpt_oss import GptOssConfig
from tessy_jax.models.families.llama import LlamaConfig
from tessy_jax.models.families.qwen2 import Qwen2Config
from tessy_jax.models.families.qwen3 import Qwen3Config
from tessy_jax.models.families.qwen3_moe import Qwen3MoeConfig
from tessy_jax.text.files import read_json

ARCHITECTURES: dict[str, type[DecoderConfig]] = {
    "DeepseekV3ForCausalLM": DeepseekV3Config,
    "Gemma3ForCausalLM": Gemma3Config,
    "GptOssForCausalLM": GptOssConfig,
    "GptOssForTokenClassification": GptOssConfig,
    "LlamaForCausalLM": LlamaConfig,
    "LlamaForTokenClassification": LlamaConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen2ForTokenClassification": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
    "Qwen3ForTokenClassification": Qwen3Config,
    "Qwen3MoeForCausalLM": Qwen3MoeConfig,
    "Qwen3MoeForTokenClassification": Qwen3MoeConfig,
}
"""HF class name (config.json: architectures[0]) -> family. transformers has no Gemma3ForTokenClassification."""


def config_from_hf(raw: Mapping[str, Any], where: str = "config.json") -> DecoderConfig:
    """The contents of a config.json -> its family's config. Raises ModelConfigError."""
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelConfigError(
            f"{where}: architectures: {name!r:.80} is not supported; supported: {', '.join(sorted(ARCHITECTURES))}."
        )
    return ARCHITECTURES[name].from_hf(raw, where)


def read_config(folder: str | Path) -> DecoderConfig:
    """Read `folder`/config.json. Raises ModelConfigError: missing, damaged, or not supported."""
    path = Path(folder) / "config.json"
    if not Path(folder).is_dir():
        raise ModelConfigError(f"{folder}: no such folder. Give a folder with a Hugging Face checkpoint.")
    if not path.is_file():
        raise ModelConfigError(f"{path}: no such file. A Hugging Face checkpoint has it beside its weights.")
    config = config_from_hf(read_json(path, ModelConfigError), str(path))
    if config.rotary_dim % 2:
        raise ModelConfigError(f"{path}: head_dim: is {config.rotary_dim}; RoPE turns pairs, so it must be even.")
    return config
