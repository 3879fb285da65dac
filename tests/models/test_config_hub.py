"""Configs as they lie on the hub, in the keys of transformers 4: what they come to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tessy_jax import models
from tessy_jax.models.rope import LinearScaling, Llama3, Rope, Unscaled

R1 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
"""As on the hub, without what this package does not read."""


def test_transformers_4_files() -> None:
    """SmolLM2-135M, Llama 3.1 and Gemma 3 270m (excerpts)."""
    smol = models.config_from_hf(
        {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rope_scaling": None,
            "rope_theta": 100000,
            "rms_norm_eps": 1e-05,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        }
    )
    assert (smol.head_dim, smol.ropes[0]) == (64, Rope(1e5, Unscaled()))
    assert models.parameter_count(smol) == 134_515_008
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    scaled = models.config_from_hf(smol.to_hf() | {"rope_scaling": {"rope_type": "llama3", **llama3}})
    assert scaled.ropes[0].scaling == Llama3(**llama3)
    gemma = models.config_from_hf(
        {
            "architectures": ["Gemma3ForCausalLM"],
            "vocab_size": 262144,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "max_position_embeddings": 32768,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "sliding_window": 512,
            "query_pre_attn_scalar": 256,
            "rms_norm_eps": 1e-06,
            "_sliding_window_pattern": 6,
        }
    )
    assert [i for i, c in enumerate(gemma.masks) if c == models.Full()] == [5, 11, 17]
    assert gemma.ropes[4:6] == (Rope(1e4), Rope(1e6, LinearScaling(8.0)))
    assert models.parameter_count(gemma) == 268_098_176


def test_deepseek_r1() -> None:
    """671B parameters as published, 576 numbers per token and layer in the cache, and YaRN's scale of the scores."""
    config = models.config_from_hf(R1)
    assert models.parameter_count(config) == 671_026_419_200
    attention = models.abstract(config).model.layers[0].self_attn
    assert attention.scale == pytest.approx(0.135234, abs=1e-6)
    cache = jax.eval_shape(lambda: models.init_cache(config, 3, 1000, 64, jnp.bfloat16))
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) == 61 * 3 * 1000 * 576 * 2
    assert config.cache_spec.elements == 576


def test_gpt_oss_as_released() -> None:
    """config.json of openai/gpt-oss-20b (excerpt); the count is that of the model card, the ramp that of its code."""
    raw = {
        "architectures": ["GptOssForCausalLM"],
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "attention_bias": True,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
    }
    floats = models.config_from_hf(raw)
    packed = models.config_from_hf(raw | {"quantization_config": {"quant_method": "mxfp4"}})
    assert models.parameter_count(floats) == 20_914_757_184
    assert 12.8 < models.parameter_bytes(packed, "bfloat16") / 2**30 < 12.9  # 41.8 GB in bfloat16
    assert floats.masks[:2] == (models.Sliding(128), models.Full())
    rope = floats.ropes[0]
    assert rope.scaling.amplitude == pytest.approx(1.34657, abs=1e-5)
    kept = Rope(150000.0).frequencies(64) / rope.frequencies(64)
    assert np.flatnonzero(kept > 1.0001)[0] == 9  # above 8.09
    assert np.flatnonzero(kept > 31.9999)[0] == 18  # above 17.40
