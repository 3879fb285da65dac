"""What each GGUF architecture is in Hugging Face terms: its config.json, its tensor names, and how weights differ."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessy_jax.models.config import MOST_LAYERS
from tessy_jax.models.gguf.reader import GGUFError, GGUFFile

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Tensor names inside a layer, GGUF's to Hugging Face's."""
_LLAMA_LAYER = _LAYER | {"ffn_norm": "post_attention_layernorm"}
_GEMMA3_LAYER = _LAYER | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Architecture:
    """How one GGUF architecture maps to Hugging Face.

    Attributes:
        layer: tensor names inside a layer, GGUF's to Hugging Face's.
        config: the architecture's own config.json entries.
        restore: undoes what llama.cpp's converter did to a tensor: (Hugging Face name, weights, config) -> weights.
    """

    layer: dict[str, str]
    config: Callable[[GGUFFile], dict[str, Any]]
    restore: Callable[[str, np.ndarray, dict[str, Any]], np.ndarray]


def _llama_config(file: GGUFFile) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": _head_dim(file, "llama"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    }


def _llama_restore(name: str, weights: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    # llama.cpp rotates neighbouring rows (2i, 2i+1), Hugging Face rows i and i + head_dim/2.
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return weights
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _gemma3_config(file: GGUFFile) -> dict[str, Any]:
    layers, heads = _layers(file), file.count("gemma3.attention.head_count")
    head_dim = _head_dim(file, "gemma3")
    every = file.count("gemma3.attention.sliding_window_pattern", 6)
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        # Not in the file: 27B (62 layers) scales by hidden size / heads, every other size by head_dim, as llama.cpp.
        "query_pre_attn_scalar": file.count("gemma3.embedding_length") // heads if layers == 62 else head_dim,
        "attn_logit_softcapping": file.get("gemma3.attn_logit_softcapping"),
        "final_logit_softcapping": file.get("gemma3.final_logit_softcapping"),
        "rope_local_base_freq": file.number("gemma3.rope.freq_base_swa", 10_000.0),
        "sliding_window": file.count("gemma3.attention.sliding_window"),
        # Five sliding layers, then a full one, where the file does not say: the architecture's constant pattern.
        "layer_types": ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(layers)],
    }


def _gemma3_restore(name: str, weights: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    # llama.cpp stores 1 + w of every RMSNorm; Hugging Face stores w.
    return weights - np.float32(1) if name.endswith("norm.weight") else weights


ARCHITECTURES = {
    "gemma3": Architecture(_GEMMA3_LAYER, _gemma3_config, _gemma3_restore),
    "llama": Architecture(_LLAMA_LAYER, _llama_config, _llama_restore),
}


def architecture_of(file: GGUFFile) -> Architecture:
    """The file's architecture.

    Raises:
        GGUFError: it is not one of `ARCHITECTURES`.
    """
    name = file.text("general.architecture")
    if name not in ARCHITECTURES:
        raise GGUFError(
            f"{file.path}: architecture {name!r} is not supported; supported: {', '.join(ARCHITECTURES)}."
            " Use the model's own Hugging Face folder instead"
        )
    return ARCHITECTURES[name]


def hf_config(file: GGUFFile, dtype: str) -> dict[str, Any]:
    """The file's config.json, in the key names that transformers 4 and 5 both read.

    Args:
        dtype: what the weights will be stored as, "float32" or "bfloat16".

    Raises:
        GGUFError: unsupported architecture or rope scaling, or missing metadata, or some that would be lost.
    """
    arch = architecture_of(file)
    prefix = file.text("general.architecture")
    _refuse_unread(file, prefix)
    heads = file.count(f"{prefix}.attention.head_count")
    return arch.config(file) | {
        "vocab_size": file.shape("token_embd.weight")[0],
        "max_position_embeddings": file.count(f"{prefix}.context_length"),
        "num_hidden_layers": _layers(file),
        "hidden_size": file.count(f"{prefix}.embedding_length"),
        "intermediate_size": file.count(f"{prefix}.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.count(f"{prefix}.attention.head_count_kv", heads),
        "attention_dropout": 0.0,
        "rms_norm_eps": file.number(f"{prefix}.attention.layer_norm_rms_epsilon"),
        "rope_theta": file.number(f"{prefix}.rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(file, prefix),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **token_ids(file),
        "torch_dtype": dtype,
        "use_cache": True,
    }


def token_ids(file: GGUFFile) -> dict[str, int]:
    """The ids of the beginning, end and padding tokens that the file names: what generation_config.json holds."""
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {
        name: file.count(f"tokenizer.ggml.{key}", least=0)
        for name, key in keys.items()
        if f"tokenizer.ggml.{key}" in file.keys
    }


def _rope_scaling(file: GGUFFile, prefix: str) -> dict[str, Any] | None:
    """As llama.cpp reads it (src/llama-model.cpp, load_hparams): without a type it is linear, without a factor 1, and
    older files have the factor under another name.
    """
    kind = file.text(f"{prefix}.rope.scaling.type", "linear")
    if kind == "none":
        return None
    if kind != "linear":
        raise GGUFError(f"{file.path}: rope scaling {kind!r} is not supported (only 'linear' and none)")
    factor = file.number(f"{prefix}.rope.scaling.factor", file.number(f"{prefix}.rope.scale_linear", 0.0))
    return {"rope_type": "linear", "factor": factor} if factor not in (0.0, 1.0) else None


def _layers(file: GGUFFile) -> int:
    key = f"{file.text('general.architecture')}.block_count"
    if (count := file.count(key)) > MOST_LAYERS:
        raise GGUFError(f"{file.path}: {key}: is {count}; it is {MOST_LAYERS} at most")
    return count


def _head_dim(file: GGUFFile, prefix: str) -> int:
    """Elements of a head's query, key and value, all of which RoPE turns; in llama.cpp they may differ."""
    default = file.count(f"{prefix}.embedding_length") // file.count(f"{prefix}.attention.head_count")
    size = file.count(f"{prefix}.attention.key_length", default)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := file.count(f"{prefix}.{key}", size)) != size:
            raise GGUFError(f"{file.path}: {prefix}.{key}: is {other}; only that of a key, {size}, is supported")
    return size


_READ = {
    *("block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "attention.sliding_window", "attention.sliding_window_pattern"),
    *("rope.dimension_count", "rope.freq_base", "rope.freq_base_swa", "rope.scale_linear"),
    *("rope.scaling.type", "rope.scaling.factor", "attn_logit_softcapping", "final_logit_softcapping"),
}
"""Metadata of an architecture that is read here, after its name and a dot; or that says what others do."""

_WITHOUT_EFFECT = {
    *("rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scaling.yarn_log_multiplier"),
    *("rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_beta_fast"),
    *("rope.scaling.yarn_beta_slow", "tensor_data_layout", "use_parallel_residual"),
}
"""Metadata that changes nothing in the models that are read here: of YaRN, and of other architectures."""


def _refuse_unread(file: GGUFFile, prefix: str) -> None:
    """Raises GGUFError for metadata that llama.cpp may compute with and the folder would not have."""
    neutral = {"attention.causal": True, "rope.scaling.attn_factor": 1.0}
    for key in file.keys:
        name = key.removeprefix(f"{prefix}.")
        if name == key or name in _READ | _WITHOUT_EFFECT:
            continue
        if (value := file.get(key)) and value != neutral.get(name):
            raise GGUFError(
                f"{file.path}: {key}: is {value!r:.60}, which is not supported here; use the model's own Hugging Face "
                "folder instead"
            )


def hf_names(file: GGUFFile) -> dict[str, str]:
    """The Hugging Face name of each GGUF tensor of the file, in file order.

    Raises:
        GGUFError: the file has a tensor that the architecture does not know, or lacks one that it needs.
    """
    names = dict(_expected_names(file))
    optional = {"output.weight"}
    if unknown := [name for name in file.tensors if name not in names]:
        raise GGUFError(
            f"{file.path}: tensor {unknown[0]} is not part of architecture {file.text('general.architecture')!r} as"
            f" supported here ({len(unknown)} such tensors); use the model's own Hugging Face folder instead"
        )
    if missing := [name for name in names if name not in file.tensors and name not in optional]:
        raise GGUFError(f"{file.path}: tensor {missing[0]} is missing ({len(missing)} in all); download the file again")
    return {name: names[name] for name in file.tensors}


def _expected_names(file: GGUFFile) -> Iterator[tuple[str, str]]:
    yield "token_embd.weight", "model.embed_tokens.weight"
    for i in range(_layers(file)):
        for gguf_name, hf_name in architecture_of(file).layer.items():
            yield f"blk.{i}.{gguf_name}.weight", f"model.layers.{i}.{hf_name}.weight"
    yield "output_norm.weight", "model.norm.weight"
    yield "output.weight", "lm_head.weight"
