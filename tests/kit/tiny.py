"""Tiny random Hugging Face checkpoints, written by transformers: the reference for the ports.

All sizes differ from each other (width, feed-forward, heads x head size, vocabulary), so that a transposed or misread
tensor cannot fit by accident. Weights are larger than usual at initialisation, so that logits are far from uniform.
Each function writes `folder` and returns the torch model in eval mode with eager attention.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
import transformers

FAMILIES = ["llama", "gemma3", "qwen3", "qwen3_classifier", "qwen2", "qwen3_moe", "gpt_oss", "deepseek_v3"]
"""The functions below whose checkpoints all tests of configurations read."""

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
"""The `quantization_config` of DeepSeek's checkpoints."""


def llama(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """Llama with Llama 3.1's RoPE scaling, whose blend zone lies within the tiny model's wavelengths."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = {
        "vocab_size": 97,
        "hidden_size": 24,
        "intermediate_size": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 5e5, "original_max_position_embeddings": 64, **scaling},
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    return _save(transformers.LlamaForCausalLM, transformers.LlamaConfig(**config | changes), folder, seed)


def gemma3(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """Gemma 3 with a window of 7, every second layer full (two of five), and linear scaling on the full ones."""
    kinds = ["sliding_attention", "full_attention"]
    config = {
        "vocab_size": 101,
        "hidden_size": 20,
        "intermediate_size": 36,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 14,
        "max_position_embeddings": 4096,
        "sliding_window": 7,
        "layer_types": [kinds[layer % 2] for layer in range(changes.get("num_hidden_layers", 5))],
        "query_pre_attn_scalar": 11,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
        },
        "initializer_range": 0.2,
    }
    return _save(transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig(**config | changes), folder, seed)


def qwen3(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """Qwen3 with tied embeddings."""
    return _save(transformers.Qwen3ForCausalLM, _qwen3_config(**changes), folder, seed)


def qwen3_classifier(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """Qwen3 token classifier with two labels."""
    labels = {"id2label": {0: "capability", 1: "style"}, "label2id": {"capability": 0, "style": 1}}
    return _save(transformers.Qwen3ForTokenClassification, _qwen3_config(**labels | changes), folder, seed)


def qwen2(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """Qwen2 with a window of 7 in its upper layer, and YaRN whose ramp lies within the tiny heads."""
    config = {
        "vocab_size": 91,
        "hidden_size": 30,
        "intermediate_size": 46,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "use_sliding_window": True,
        "sliding_window": 7,
        "max_window_layers": 1,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    return _save(transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**config | changes), folder, seed)


def qwen3_moe(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """Qwen3 with 6 experts, 3 of them at a time, and a dense layer between."""
    config = {
        "vocab_size": 94,
        "hidden_size": 22,
        "intermediate_size": 38,
        "moe_intermediate_size": 18,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    return _save(transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(**config | changes), folder, seed)


def gpt_oss(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """GPT-OSS with 6 experts, 3 at a time, a window of 7 in two layers of three, and YaRN that is not rounded."""
    config = {
        "vocab_size": 93,
        "hidden_size": 26,
        "intermediate_size": 18,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "swiglu_limit": 1.5,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 4096,
        "sliding_window": 7,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "truncate": False,
        },
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    return _save(transformers.GptOssForCausalLM, transformers.GptOssConfig(**config | changes), folder, seed)


def gpt_oss_mxfp4(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """The same with experts of random bytes, of 64 and 128 values a row; the torch model has them unpacked."""
    folder = Path(folder)
    changes = {"hidden_size": 64, "intermediate_size": 128} | changes
    config = gpt_oss(folder, seed=seed, **changes).config
    random = np.random.default_rng(seed)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inside, outside = tensors.pop(name).shape
        tensors[name + "_blocks"] = random.integers(0, 256, (experts, outside, inside // 32, 16), np.uint8)
        tensors[name + "_scales"] = random.integers(121, 125, (experts, outside, inside // 32), np.uint8)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    left = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": left}
    raw = config.to_dict() | {"quantization_config": settings, "architectures": ["GptOssForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(raw))
    return unpacked(folder)


def unpacked(folder: Path | str) -> Any:
    """An MXFP4 checkpoint as a torch model in float32."""
    return transformers.GptOssForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=transformers.Mxfp4Config(dequantize=True),
        attn_implementation="eager",
        experts_implementation="eager",
    ).eval()


def deepseek_v3(folder: Path | str, *, seed: int = 0, **changes: Any) -> Any:
    """DeepSeek-V3 with a dense layer and two of 6 experts in 3 groups, and YaRN with both mscales."""
    config = {
        "vocab_size": 86,
        "hidden_size": 26,
        "intermediate_size": 42,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_routed_experts": 6,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "n_group": 3,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.7,
        "q_lora_rank": 19,
        "kv_lora_rank": 11,
        "qk_nope_head_dim": 10,
        "qk_rope_head_dim": 8,
        "v_head_dim": 9,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "mscale": 0.7,
            "mscale_all_dim": 0.9,
        },
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    return _save(transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(**config | changes), folder, seed)


def _qwen3_config(**changes: Any) -> Any:
    config = {
        "vocab_size": 89,
        "hidden_size": 28,
        "intermediate_size": 52,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    return transformers.Qwen3Config(**config | changes)


def _save(kind: Any, config: Any, folder: Path | str, seed: int) -> Any:
    config._attn_implementation = config._experts_implementation = "eager"
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():  # constants at initialisation would hide a swapped norm or a dropped bias
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight += 0.3 * torch.randn_like(weight)
        for name, buffer in model.named_buffers():
            if name.endswith("bias"):  # DeepSeek's e_score_correction_bias
                buffer += 0.3 * torch.randn_like(buffer)
    model.save_pretrained(folder)
    return model
