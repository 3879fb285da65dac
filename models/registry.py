"""Which config.json is which family. To add one: a config class with `block`, and a line here."""

import json
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
    names = raw.get("architectures") or [None]
    if names[0] not in ARCHITECTURES:
        raise ModelConfigError(
            f"{where}: architectures: {names[0]!r} is not supported; supported: {', '.join(sorted(ARCHITECTURES))}."
        )
    return ARCHITECTURES[names[0]].from_hf(raw, where)


def read_config(folder: str | Path) -> DecoderConfig:
    """Read `folder`/config.json. Raises ModelConfigError: missing, not JSON, or not supported."""
    path = Path(folder) / "config.json"
    if not Path(folder).is_dir():
        raise ModelConfigError(f"{folder}: no such folder. Give a folder with a Hugging Face checkpoint.")
    if not path.is_file():
        raise ModelConfigError(f"{path}: no such file. A Hugging Face checkpoint has it beside its weights.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelConfigError(f"{path}: is not valid JSON ({error}). Download the file again.") from None
    return config_from_hf(raw, str(path))
