"""Every odd configuration that loads is saved so that it reads the same: here, and in transformers on torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tessy_jax import models
from tessy_jax.models.rope import Rope
from tests.kit import tiny

LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0}
LONG_YARN = YARN | {"original_max_position_embeddings": 1024}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}


def rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": parameters}


def gemma(sliding: dict[str, Any], full: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"sliding_attention": sliding, "full_attention": full}} | more


ODD: list[tuple[str, dict[str, Any]]] = [
    ("llama", rope(**DEFAULT)),
    ("llama", rope(**LINEAR) | {"attention_bias": True, "num_key_value_heads": 1}),
    ("llama", rope(**YARN) | {"mlp_bias": True}),
    ("llama", rope(**LLAMA3) | {"max_position_embeddings": 64}),
    ("llama", rope(**LONG_YARN, attention_factor=1.25, truncate=False) | {"tie_word_embeddings": True}),
    ("llama", rope(**LONG_YARN, beta_fast=16.0, beta_slow=2.0) | {"hidden_act": "gelu"}),
    ("llama", {"head_dim": None, "num_key_value_heads": 4, "num_hidden_layers": 1}),
    ("gemma3", gemma(LINEAR, DEFAULT)),
    ("gemma3", gemma(LONG_YARN, LINEAR)),
    ("gemma3", gemma(LINEAR | {"factor": 8.0}, LINEAR, layer_types=["sliding_attention"] * 5)),
    ("gemma3", gemma(LLAMA3 | {"original_max_position_embeddings": 64}, DEFAULT, tie_word_embeddings=False)),
    ("gemma3", gemma(DEFAULT, LONG_YARN, layer_types=["full_attention"] * 5)),
    ("gemma3", {"layer_types": None, "num_hidden_layers": 6, "attention_bias": True}),
    ("qwen2", {"use_sliding_window": False, "layer_types": None, "tie_word_embeddings": True}),
    ("qwen2", {"layer_types": ["sliding_attention", "full_attention"], "num_key_value_heads": 3}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1, "layer_types": None}),
    ("qwen3", rope(**YARN) | {"attention_bias": True, "tie_word_embeddings": False}),
    ("qwen3_classifier", rope(**LINEAR) | {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": None}),
    ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 9, "norm_topk_prob": False}),
    ("qwen3_moe", rope(**LINEAR) | {"decoder_sparse_step": 2, "mlp_only_layers": [], "tie_word_embeddings": True}),
    ("qwen3_moe", {"mlp_only_layers": [0, 1, 2], "attention_bias": True}),
    ("gpt_oss", rope(**DEFAULT) | {"layer_types": ["full_attention"] * 3}),
    ("gpt_oss", rope(**LINEAR) | {"layer_types": None, "num_hidden_layers": 2, "head_dim": 14}),
    ("gpt_oss", {"attention_bias": False, "tie_word_embeddings": True, "swiglu_limit": 7.0}),
    ("deepseek_v3", rope(**DEFAULT) | {"q_lora_rank": None, "attention_bias": True}),
    ("deepseek_v3", rope(**LINEAR) | {"rope_interleave": False, "norm_topk_prob": False}),
    ("deepseek_v3", rope(**LONG_YARN, mscale=0.7) | {"first_k_dense_replace": 3, "tie_word_embeddings": True}),
]
"""(family, changes of the tiny configuration)."""

OLD: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 4.0}}),
    ("llama", {"rope_theta": 77.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 512}),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": None, "original_max_position_embeddings": 1024}}),
    ("qwen2", {"rope_theta": 99.0, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    ("qwen3", {"rope_parameters": LINEAR, "rope_scaling": {"rope_type": "linear", "factor": 5.0}}),
    ("gemma3", {"rope_theta": 5e3, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 2}}),
    ("gemma3", gemma(LINEAR, DEFAULT, rope_scaling={"rope_type": "linear", "factor": 2.0})),
]
"""(family, what config.json has instead of its RoPE): the keys of transformers 4, or of both."""


def angles(config: models.DecoderConfig) -> list[tuple[np.ndarray, float]]:
    """Frequencies and amplitude of each layer."""
    return [(rope.frequencies(config.rotary_dim), rope.scaling.amplitude) for rope in config.ropes]


def their_angles(model: Any) -> list[tuple[np.ndarray, float]]:
    """The same of a torch model."""
    rotary, layers = model.model.rotary_emb, model.config.num_hidden_layers
    if hasattr(rotary, "inv_freq"):
        return [(rotary.inv_freq.numpy(), rotary.attention_scaling)] * layers
    kinds = model.config.layer_types
    return [(getattr(rotary, f"{k}_inv_freq").numpy(), getattr(rotary, f"{k}_attention_scaling")) for k in kinds]


def read(kind: type, folder: Path) -> Any:
    how = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model, report = kind.from_pretrained(folder, output_loading_info=True, **how)
    assert not any(report.values()), report
    return model.eval()


def check(folder: Path, kind: type) -> None:
    """What is in the folder is read as transformers reads it, and saved so that both read the same again."""
    theirs = read(kind, folder)
    model = models.load(folder)
    for (ours, amplitude), (expected, scaling) in zip(angles(model.config), their_angles(theirs), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)
        assert amplitude == pytest.approx(scaling)
    out = folder.with_name("out")
    for base in (folder, None):
        models.save_hf(model, out / str(base is None), base=base)
        assert models.read_config(out / str(base is None)) == model.config
    tokens = torch.arange(60)[None] % model.config.vocab_size
    with torch.no_grad():
        assert torch.equal(read(kind, out / "False")(tokens).logits, theirs(tokens).logits)
        assert torch.equal(read(kind, out / "True")(tokens).logits, theirs(tokens).logits)


@pytest.mark.parametrize(("family", "changes"), ODD)
def test_odd_configurations_are_saved_as_they_are(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    kind = type(getattr(tiny, family)(tmp_path / "in", **changes))
    check(tmp_path / "in", kind)


@pytest.mark.parametrize(("family", "changes"), OLD)
def test_old_keys_are_read_as_transformers_reads_them(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    kind = type(getattr(tiny, family)(tmp_path / "in"))
    file = tmp_path / "in/config.json"
    raw = json.loads(file.read_text())
    del raw["rope_parameters"]
    file.write_text(json.dumps(raw | changes))
    check(tmp_path / "in", kind)


def test_a_missing_original_context_is_the_models(files: dict[str, dict[str, Any]]) -> None:
    raw = files["llama"] | {"rope_parameters": YARN, "max_position_embeddings": 2048}
    assert models.config_from_hf(raw).ropes[0].scaling.original_max_position_embeddings == 2048
    assert isinstance(models.config_from_hf(raw).ropes[0], Rope)
