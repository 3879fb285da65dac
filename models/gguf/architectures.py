"""What each GGUF architecture is in Hugging Face terms: its config.json, its tensor names, and how weights differ."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

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
        "head_dim": file.get("llama.rope.dimension_count")
        or file["llama.embedding_length"] // file["llama.attention.head_count"],
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
    layers, heads = file["gemma3.block_count"], file["gemma3.attention.head_count"]
    head_dim = file["gemma3.attention.key_length"]
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        # Not in the file: 27B (62 layers) scales by hidden size / heads, every other size by head_dim, as llama.cpp.
        "query_pre_attn_scalar": file["gemma3.embedding_length"] // heads if layers == 62 else head_dim,
        "attn_logit_softcapping": file.get("gemma3.attn_logit_softcapping"),
        "final_logit_softcapping": file.get("gemma3.final_logit_softcapping"),
        "rope_local_base_freq": 10000.0,
        "sliding_window": file["gemma3.attention.sliding_window"],
        # Five sliding layers, then a full one: the architecture's constant pattern, not in the file.
        "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)],
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
    name = file["general.architecture"]
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
        GGUFError: unsupported architecture or rope scaling, or missing metadata.
    """
    arch = architecture_of(file)
    prefix = file["general.architecture"]
    return arch.config(file) | {
        "vocab_size": file.shape("token_embd.weight")[0],
        "max_position_embeddings": file[f"{prefix}.context_length"],
        "num_hidden_layers": file[f"{prefix}.block_count"],
        "hidden_size": file[f"{prefix}.embedding_length"],
        "intermediate_size": file[f"{prefix}.feed_forward_length"],
        "num_attention_heads": file[f"{prefix}.attention.head_count"],
        "num_key_value_heads": file[f"{prefix}.attention.head_count_kv"],
        "attention_dropout": 0.0,
        "rms_norm_eps": file.number(f"{prefix}.attention.layer_norm_rms_epsilon"),
        "rope_theta": file.number(f"{prefix}.rope.freq_base"),
        "rope_scaling": _rope_scaling(file, prefix),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **token_ids(file),
        "torch_dtype": dtype,
        "use_cache": True,
    }


def token_ids(file: GGUFFile) -> dict[str, int]:
    """The ids of the beginning, end and padding tokens that the file names: what generation_config.json holds."""
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    ids = {name: file.get(f"tokenizer.ggml.{key}") for name, key in keys.items()}
    return {name: token for name, token in ids.items() if token is not None}


def _rope_scaling(file: GGUFFile, prefix: str) -> dict[str, Any] | None:
    kind = file.get(f"{prefix}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise GGUFError(f"{file.path}: rope scaling {kind!r} is not supported (only 'linear' and none)")
    return {"rope_type": "linear", "factor": file.number(f"{prefix}.rope.scaling.factor")}


def hf_names(file: GGUFFile) -> dict[str, str]:
    """The Hugging Face name of each GGUF tensor of the file, in file order.

    Raises:
        GGUFError: the file has a tensor that the architecture does not know, or lacks one that it needs.
    """
    names = dict(_expected_names(file))
    optional = {"output.weight"}
    if unknown := [name for name in file.tensors if name not in names]:
        raise GGUFError(
            f"{file.path}: tensor {unknown[0]} is not part of architecture {file['general.architecture']!r} as"
            f" supported here ({len(unknown)} such tensors); use the model's own Hugging Face folder instead"
        )
    if missing := [name for name in names if name not in file.tensors and name not in optional]:
        raise GGUFError(f"{file.path}: tensor {missing[0]} is missing ({len(missing)} in all); download the file again")
    return {name: names[name] for name in file.tensors}


def _expected_names(file: GGUFFile) -> Iterator[tuple[str, str]]:
    yield "token_embd.weight", "model.embed_tokens.weight"
    for i in range(file[f"{file['general.architecture']}.block_count"]):
        for gguf_name, hf_name in architecture_of(file).layer.items():
            yield f"blk.{i}.{gguf_name}.weight", f"model.layers.{i}.{hf_name}.weight"
    yield "output_norm.weight", "model.norm.weight"
    yield "output.weight", "lm_head.weight"
