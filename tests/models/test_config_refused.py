"""What is refused, and what is said: files that ask for what is not implemented, caches and masks that cannot be."""

from pathlib import Path
from typing import Any

import pytest

from tessy_jax import models
from tests.kit import tiny

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
        "rope_scaling.rope_type: is 'longrope', which is not implemented; implemented: default, linear, llama3, yarn.",
    ),
    (
        "llama",
        {"rope_parameters": None, "rope_scaling": {"type": "yarn"}},
        "rope_scaling.factor: is None; this rope_type needs a number.",
    ),
    (
        "llama",
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
        "rope_parameters.low_freq_factor: is None; this rope_type needs a number.",
    ),
    (
        "qwen3",
        {"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
        "rope_parameters.high_freq_factor: is 4; it must be above low_freq_factor, 4.",
    ),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: is not 1, which is not implemented."),
    ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps: is '1e-5'; it must be a number."),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings: is 'yes'; it must be true or false."),
    ("llama", {"num_hidden_layers": 10**6}, "num_hidden_layers: is 1000000; it is 10000 at most."),
    ("gemma3", {"layer_types": "full_attention"}, "layer_types: is 'full_attention'; it must be a list of names."),
    (
        "llama",
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
        {"quantization_config": tiny.FP8 | {"weight_block_size": None}},
        "quantization_config.weight_block_size: is None; it must be two sizes.",
    ),
    (
        "deepseek_v3",
        {"quantization_config": tiny.FP8 | {"fmt": "e5m2"}},
        "quantization_config.fmt: is 'e5m2'; only 'e4m3' is implemented.",
    ),
    (
        "deepseek_v3",
        {"quantization_config": tiny.FP8 | {"activation_scheme": "static"}},
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
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "rope_scaling.rope_type: is missing; every model of this family needs it.",
    ),
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


def test_more_context_than_the_model_has_is_refused(files: dict[str, dict[str, Any]]) -> None:
    config = models.config_from_hf(files["qwen3"])
    with pytest.raises(models.ModelConfigError) as error:
        models.init_cache(config, 1, 5000, 8)
    assert str(error.value) == (
        "a context of 5000 tokens was asked of a model with max_position_embeddings 4096 (config.json): "
        "ask for less, or set the model's RoPE scaling and limit."
    )
    models.init_cache(config, 1, 5000, 8, mask=models.Blocks(128))  # no token sees more than 256


@pytest.mark.parametrize("make", [models.Sliding, models.Blocks])
def test_an_empty_mask_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="is 0: a token sees at least itself, so give 1 or more"):
        make(0)
