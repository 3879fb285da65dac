"""Configs: both key styles, every field read, what is not implemented refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tessy_jax import models
from tessy_jax.models.config import DecoderConfig
from tessy_jax.models.formats.fp8 import BlockFp8
from tests.kit import tiny

FAMILIES = ["llama", "gemma3", "qwen3", "qwen3_classifier", "qwen2", "qwen3_moe", "gpt_oss", "deepseek_v3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """config.json of each tiny checkpoint, as this transformers writes it (5.x keys)."""
    out = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        getattr(tiny, family)(folder)
        out[family] = json.loads((folder / "config.json").read_text())
    return out


#: For each field of a config, another value.
OTHER = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": None,
    "head_dim": 6,
    "contexts": None,
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

#: Fields of all families that mean nothing in this one.
WITHOUT_MEANING = {
    ("qwen3_classifier", "tie_word_embeddings"),  # a classifier has no output matrix to tie
    ("gpt_oss", "activation"),  # its experts have one of their own
    ("deepseek_v3", "num_key_value_heads"),  # always the number of heads: `from_hf` refuses another
}


def other(config: DecoderConfig, field: str) -> Any:
    if field == "contexts":
        return (models.Sliding(3), *config.contexts[1:])
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


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_of_a_config_is_read(files: dict[str, dict[str, Any]], family: str) -> None:
    """Another value changes the parameters, or else the outputs with the same parameters, or is refused."""
    config = models.config_from_hf(files[family])
    shapes = {name: spec.shape for name, spec in models.describe(config).items()}
    _, params = nnx.split(models.from_config(config, jax.random.key(0), std=0.3))
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
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}

#: Changes of a config.json that must change the config, or be refused.
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
        {"quantization_config": FP8},
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


@pytest.mark.parametrize("family", list(CHANGES))
def test_every_field_of_a_file_is_read(files: dict[str, dict[str, Any]], family: str) -> None:
    base = models.config_from_hf(files[family])
    for change in CHANGES[family]:
        assert models.config_from_hf(files[family] | change) != base, change


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "llama",
        {"hidden_act": "relu"},
        "hidden_act: is 'relu', which is not implemented; implemented: gelu, gelu_pytorch_tanh, silu.",
    ),
    ("llama", {"hidden_size": None}, "hidden_size: is missing; every model of this family needs it."),
    ("llama", {"vocab_size": "97"}, "vocab_size: is '97'; it must be a positive integer."),
    ("llama", {"num_key_value_heads": 3}, "num_key_value_heads: is 3, which does not divide 4 attention heads."),
    (
        "llama",
        {"quantization_config": {"quant_method": "fp8"}},
        "quantization_config.quant_method: is 'fp8', which is not implemented for llama; "
        "implemented: checkpoints in bfloat16, float16 or float32.",
    ),
    (
        "llama",
        {"rope_parameters": None, "rope_scaling": {"type": "longrope", "factor": 4.0}},
        "rope_parameters.rope_type: is 'longrope', which is not implemented; "
        "implemented: default, linear, llama3, yarn.",
    ),
    (
        "llama",
        {"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        "rope_parameters.original_max_position_embeddings: is None; this rope_type needs a number.",
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
        "rope_parameters.original_max_position_embeddings: is None; this rope_type needs a number.",
    ),
    (
        "qwen3",
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
        "rope_parameters.partial_rotary_factor: is not 1, which is not implemented.",
    ),
    (
        "qwen3",
        {"layer_types": ["sliding_attention"] * 3},
        "layer_types: has 'sliding_attention', which needs a setting that is missing or unsupported.",
    ),
    ("qwen3", {"layer_types": ["full_attention"]}, "layer_types: has 1 entries for 3 layers."),
    (
        "qwen3_classifier",
        {"id2label": {"1": "style"}},
        "id2label: is {'1': 'style'}; it must map '0', '1', … to label names.",
    ),
    ("qwen3_moe", {"num_experts_per_tok": 9}, "num_experts_per_tok: is 9, but there are 6 experts."),
    (
        "gpt_oss",
        {"quantization_config": {"quant_method": "fp8"}},
        "quantization_config.quant_method: is 'fp8', which is not implemented for gpt_oss; "
        "implemented: mxfp4, checkpoints in bfloat16, float16 or float32.",
    ),
    (
        "gpt_oss",
        {"quantization_config": {"quant_method": "mxfp4"}},
        "hidden_size: is 26; MXFP4 needs a multiple of 32.",
    ),
    ("gpt_oss", {"num_experts_per_tok": 9}, "num_experts_per_tok: is 9, but there are 6 experts."),
    ("gpt_oss", {"hidden_act": "gelu"}, "hidden_act: is 'gelu', which is not implemented; implemented: silu."),
    (
        "gpt_oss",
        {"rope_parameters": None},
        "rope_scaling: is missing; every model of this family needs it, or rope_parameters.",
    ),
    (
        "deepseek_v3",
        {"num_key_value_heads": 2},
        "num_key_value_heads: differs from num_attention_heads; every head has its own here.",
    ),
    (
        "deepseek_v3",
        {"scoring_func": "softmax"},
        "scoring_func: is 'softmax', which is not implemented; implemented: sigmoid.",
    ),
    (
        "deepseek_v3",
        {"topk_method": "greedy"},
        "topk_method: is 'greedy', which is not implemented; implemented: noaux_tc.",
    ),
    (
        "deepseek_v3",
        {"quantization_config": {"quant_method": "awq"}},
        "quantization_config.quant_method: is 'awq', which is not implemented for deepseek_v3; "
        "implemented: fp8, checkpoints in bfloat16, float16 or float32.",
    ),
    (
        "deepseek_v3",
        {"quantization_config": FP8 | {"weight_block_size": None}},
        "quantization_config.weight_block_size: is None; it must be two sizes.",
    ),
    (
        "deepseek_v3",
        {"quantization_config": FP8 | {"fmt": "e5m2"}},
        "quantization_config.fmt: is 'e5m2'; only 'e4m3' is implemented.",
    ),
    (
        "deepseek_v3",
        {"quantization_config": FP8 | {"activation_scheme": "static"}},
        "quantization_config.activation_scheme: is 'static'; only 'dynamic' is implemented.",
    ),
    ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq: is 2; only 1 is implemented."),
    (
        "deepseek_v3",
        {"n_group": 4},
        "n_group: is 4: 6 experts make no groups of equal size, at least 2 each.",
    ),
    ("deepseek_v3", {"topk_group": 4}, "topk_group: is 4, but there are 3 groups."),
    ("deepseek_v3", {"num_experts_per_tok": 5}, "num_experts_per_tok: is 5, but 2 groups have 4."),
    (
        "gemma3",
        {"final_logit_softcapping": 30.0},
        "final_logit_softcapping: is 30.0, which is not implemented; only null or false is.",
    ),
    (
        "gemma3",
        {"attn_logit_softcapping": 50.0},
        "attn_logit_softcapping: is 50.0, which is not implemented; only null or false is.",
    ),
    (
        "gemma3",
        {"use_bidirectional_attention": True},
        "use_bidirectional_attention: is True, which is not implemented; only null or false is.",
    ),
    (
        "gemma3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        "rope_parameters: has 'rope_theta' where full_attention and sliding_attention belong.",
    ),
    (
        "qwen3",
        {"architectures": ["MambaForCausalLM"]},
        "architectures: 'MambaForCausalLM' is not supported; supported: DeepseekV3ForCausalLM, Gemma3ForCausalLM, "
        "GptOssForCausalLM, GptOssForTokenClassification, LlamaForCausalLM, LlamaForTokenClassification, "
        "Qwen2ForCausalLM, Qwen2ForTokenClassification, Qwen3ForCausalLM, Qwen3ForTokenClassification, "
        "Qwen3MoeForCausalLM, Qwen3MoeForTokenClassification.",
    ),
]


@pytest.mark.parametrize(("family", "change", "message"), REFUSED)
def test_what_is_not_implemented_is_refused(
    files: dict[str, dict[str, Any]], family: str, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(models.ModelConfigError) as error:
        models.config_from_hf(files[family] | change, "here/config.json")
    assert str(error.value) == f"here/config.json: {message}"


def test_a_missing_or_broken_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(models.ModelConfigError) as error:
        models.read_config(tmp_path / "none")
    assert str(error.value) == f"{tmp_path / 'none'}: no such folder. Give a folder with a Hugging Face checkpoint."
    path = tmp_path / "config.json"
    with pytest.raises(models.ModelConfigError) as error:
        models.read_config(tmp_path)
    assert str(error.value) == f"{path}: no such file. A Hugging Face checkpoint has it beside its weights."
    path.write_text("{")
    with pytest.raises(models.ModelConfigError, match=r"config\.json: is not valid JSON .* Download the file again\.$"):
        models.read_config(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_key_styles_say_the_same(files: dict[str, dict[str, Any]], family: str) -> None:
    """`to_hf` writes the keys of transformers 4; the file has those of 5."""
    config = models.config_from_hf(files[family])
    old = config.to_hf()
    assert "rope_theta" in old
    assert "rope_parameters" not in old
    assert models.config_from_hf(old) == config


def test_more_context_than_the_model_has_is_refused(files: dict[str, dict[str, Any]]) -> None:
    config = models.config_from_hf(files["qwen3"])
    with pytest.raises(models.ModelConfigError) as error:
        models.init_cache(config, 1, 5000, 8)
    assert str(error.value) == (
        "a context of 5000 tokens was asked of a model with max_position_embeddings 4096 (config.json): "
        "ask for less, or set the model's RoPE scaling and limit."
    )
    models.init_cache(config, 1, 5000, 8, context=models.Blocks(128))  # no token sees more than 256


@pytest.mark.parametrize("make", [models.Sliding, models.Blocks])
def test_an_empty_context_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="is 0: a token sees at least itself, so give 1 or more"):
        make(0)
