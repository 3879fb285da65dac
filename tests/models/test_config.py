"""Configs: both key styles, and every field is read."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tessy_jax import models
from tessy_jax.models.config import DecoderConfig
from tessy_jax.models.formats.fp8 import BlockFp8
from tests.kit import tiny

OTHER = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": None,
    "head_dim": 6,
    "masks": None,
    "ropes": None,
    "activation": "gelu",
    "rms_norm_eps": 0.1,
    "attention_bias": None,
    "mlp_bias": True,
    "tie_word_embeddings": None,
    "max_position_embeddings": 8,
    "labels": ("a", "b", "c"),
    "query_pre_attn_scalar": 3,
    "moe_intermediate_size": 14,
    "num_experts": 7,
    "num_experts_per_tok": 2,
    "norm_topk_prob": False,
    "int8": True,
    "num_local_experts": 7,
    "swiglu_alpha": 1.0,
    "swiglu_limit": 0.5,
    "experts_stored": "mxfp4",
    "dense_layers": None,
    "qk_nope_head_dim": 8,
    "v_head_dim": 7,
    "kv_lora_rank": 12,
    "q_lora_rank": None,
    "rope_interleave": False,
    "n_routed_experts": 12,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 2.5,
    "storage": BlockFp8(8, 4),
}
"""For each field of a config, another value."""

WITHOUT_MEANING = {
    ("qwen3_classifier", "tie_word_embeddings"),  # a classifier has no output matrix to tie
    ("gpt_oss", "activation"),  # its experts have one of their own
    ("deepseek_v3", "num_key_value_heads"),  # always the number of heads: `from_hf` refuses another
}
"""Fields of all families that mean nothing in this one."""


def other(config: DecoderConfig, field: str) -> Any:
    if field == "masks":
        return (models.Sliding(3), *config.masks[1:])
    if field == "ropes":
        return (*config.ropes[:-1], dataclasses.replace(config.ropes[-1], theta=17.0))
    if field in ("attention_bias", "tie_word_embeddings"):
        return not getattr(config, field)
    if field == "num_key_value_heads":
        return 1 if config.num_key_value_heads > 1 else config.num_attention_heads
    if field == "dense_layers":
        return (0,) if isinstance(config.dense_layers, tuple) else 2
    return OTHER[field]


def output(config: DecoderConfig, params: Any) -> Any:
    """The outputs of the config's model with these parameters, or the error."""
    graphdef, _ = nnx.split(models.abstract(config))
    tokens = jnp.arange(12)[None]
    try:
        cache = models.init_cache(config, batch=1, length=12, slack=12)
    except models.ModelConfigError as error:
        return str(error)

    model = nnx.merge(graphdef, params)  # not jitted: most operations are those of the other fields, compiled already
    hidden, _ = model(tokens, tokens, cache)
    return np.asarray((model.scores if config.labels else model.logits)(hidden))


def random_parameters(config: DecoderConfig) -> Any:
    """Of NumPy: JAX would compile a program for every shape."""
    rng, specs = np.random.default_rng(0), models.describe(config)
    arrays = {
        name: rng.normal(0, 0.3, spec.shape) if spec.fill is None else np.full(spec.shape, spec.fill)
        for name, spec in specs.items()
    }
    arrays = {name: jnp.asarray(array, specs[name].dtype_in(jnp.float32)) for name, array in arrays.items()}
    return nnx.split(models.with_parameters(config, arrays))[1]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_field_of_a_config_is_read(files: dict[str, dict[str, Any]], family: str) -> None:
    """Another value changes the parameters, or else the outputs with the same parameters, or is refused."""
    config = models.config_from_hf(files[family])
    shapes = {name: spec.shape for name, spec in models.describe(config).items()}
    params = random_parameters(config)
    base = output(config, params)
    for field in dataclasses.fields(config):
        if (family, field.name) in WITHOUT_MEANING or field.name == "kernel":  # which is to change nothing
            continue
        changed = dataclasses.replace(config, **{field.name: other(config, field.name)})
        try:
            same = {name: spec.shape for name, spec in models.describe(changed).items()} == shapes
        except models.ModelConfigError:
            continue
        if same:
            got = output(changed, params)
            assert isinstance(got, str) or np.abs(got - base).max() > 1e-3, f"{field.name} is not read"


YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 1024}

CHANGES: dict[str, list[dict[str, Any]]] = {
    "llama": [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0}},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"head_dim": None},
        {"hidden_act": "gelu"},
        {"num_hidden_layers": 3},
        {"tie_word_embeddings": True},
        {"architectures": ["LlamaForTokenClassification"]},
    ],
    "qwen3": [
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1, "layer_types": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}},
        {"attention_bias": True},
        {"head_dim": 16},
    ],
    "qwen2": [
        {"use_sliding_window": False, "layer_types": None},
        {"rope_parameters": {**YARN, "factor": 5.0}},
        {"rope_parameters": {**YARN, "original_max_position_embeddings": 512}},
        {"rope_parameters": {**YARN, "beta_fast": 16.0}},
        {"rope_parameters": {**YARN, "beta_slow": 2.0}},
        {"rope_parameters": {**YARN, "truncate": False}},
        {"rope_parameters": {**YARN, "attention_factor": 1.0}},
        {"rope_parameters": {**YARN, "mscale": 0.5, "mscale_all_dim": 1.0}},
    ],
    "qwen3_moe": [
        {"use_sliding_window": True, "sliding_window": 9},
        {"num_experts": 5, "num_local_experts": 5},
        {"num_experts_per_tok": 2},
        {"norm_topk_prob": False},
        {"moe_intermediate_size": 20},
        {"mlp_only_layers": []},
        {"decoder_sparse_step": 2},
    ],
    "gpt_oss": [
        {"sliding_window": 8},
        {"layer_types": ["full_attention"] * 3},
        {"layer_types": None, "num_hidden_layers": 4},
        {"num_local_experts": 5},
        {"num_experts_per_tok": 2},
        {"swiglu_alpha": 1.5},
        {"swiglu_limit": 7.0},
        {"attention_bias": False},
        {"head_dim": None, "hidden_size": 28},
        {"rope_parameters": {**YARN, "truncate": True}},
        {"rope_parameters": {**YARN, "truncate": False, "factor": 5.0}},
        {"rope_parameters": {"rope_type": "default"}},
        {"architectures": ["GptOssForTokenClassification"]},
        {"quantization_config": {"quant_method": "mxfp4"}, "hidden_size": 32, "intermediate_size": 32},
    ],
    "deepseek_v3": [
        {"q_lora_rank": None},
        {"kv_lora_rank": 12},
        {"qk_nope_head_dim": 8},
        {"qk_rope_head_dim": 6},
        {"v_head_dim": 8},
        {"rope_interleave": False},
        {"attention_bias": True},
        {"first_k_dense_replace": 2},
        {"moe_intermediate_size": 12},
        {"n_routed_experts": 9, "num_local_experts": 9},
        {"n_shared_experts": 1},
        {"num_experts_per_tok": 2},
        {"n_group": 2},
        {"topk_group": 3},
        {"norm_topk_prob": False},
        {"routed_scaling_factor": 1.0},
        {"hidden_act": "gelu"},
        {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.8}},
        {"tie_word_embeddings": True},
        {"quantization_config": tiny.FP8},
    ],
    "gemma3": [
        {"sliding_window": 8},
        {"layer_types": ["full_attention"] * 5},
        {"layer_types": None, "sliding_window_pattern": 5},
        {"query_pre_attn_scalar": 13},
        {"hidden_activation": "silu"},
        {"tie_word_embeddings": False},
    ],
}
"""Changes of a config.json that must change the config, or be refused."""


@pytest.mark.parametrize("family", list(CHANGES))
def test_every_field_of_a_file_is_read(files: dict[str, dict[str, Any]], family: str) -> None:
    base = models.config_from_hf(files[family])
    for change in CHANGES[family]:
        assert models.config_from_hf(files[family] | change) != base, change


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_both_key_styles_say_the_same(files: dict[str, dict[str, Any]], family: str) -> None:
    """`to_hf` writes the keys of transformers 4; the file has those of 5."""
    config = models.config_from_hf(files[family])
    old = config.to_hf()
    assert "rope_theta" in old
    assert "rope_parameters" not in old
    assert models.config_from_hf(old) == config
