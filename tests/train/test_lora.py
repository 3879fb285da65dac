"""LoRA: starts as the model, trains its adapters only, and what is merged is what was trained."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from tessy_jax import models
from tessy_jax.train.lora import LoRA
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.step import Compute, init, make_eval, make_step
from tests.kit import tiny
from tests.kit.training import Recorder, batch_of, distance, documents

LORA = LoRA(rank=3, alpha=12.0, targets=("q_proj", "down_proj"))


def test_training_with_adapters(tmp_path: Path) -> None:
    tiny.qwen3(tmp_path, num_hidden_layers=2)
    config = models.read_config(tmp_path)
    before = {name: np.asarray(x) for name, x in models.named_parameters(models.load(tmp_path)).items()}
    tokens, weights = documents([9, 14], config.vocab_size)
    batch = batch_of([[d] for d in tokens], [[w] for w in weights], 16)
    optimizer, compute = AdamW(peak=0.02, steps=50), Compute("float32", loss_chunk=16, attention="dense")
    state = init(config, models.named_parameters(models.load(tmp_path)), None, optimizer, LORA)
    assert len(state.params) == 2 * 2 * config.num_hidden_layers
    assert state.params["model.layers.1.mlp.down_proj.lora_A.weight"].shape == (3, config.intermediate_size)
    assert state.params["model.layers.1.mlp.down_proj.lora_B.weight"].shape == (config.hidden_size, 3)

    step = make_step(config, None, optimizer, compute, LORA)
    losses = []
    for _ in range(8):
        state, metrics = step(state, batch)
        losses.append(float(metrics.loss))
    whole = make_eval(config, None, compute)(
        init(config, models.named_parameters(models.load(tmp_path)), None, optimizer), batch
    )
    assert losses[0] == float(whole.loss / whole.weight)  # B is zero: the model as it was
    assert losses[-1] < 0.8 * losses[0]

    merged = {name: np.asarray(x) for name, x in LORA.merge(state.params, state.frozen).items()}
    assert set(merged) == set(before)
    for name, value in merged.items():
        np.testing.assert_array_equal(state.frozen[name], before[name])
        assert np.array_equal(value, before[name]) == (".q_proj." not in name and ".down_proj." not in name), name
    layer = "model.layers.1.self_attn.q_proj"
    a, b = (np.asarray(state.params[f"{layer}.lora_{x}.weight"], np.float64) for x in "AB")
    np.testing.assert_allclose(merged[f"{layer}.weight"], before[f"{layer}.weight"] + 4.0 * b @ a, rtol=0, atol=1e-6)

    # The exported model has the loss that was trained.
    exported = {name: np.array(x) for name, x in merged.items()}
    expected = make_eval(config, None, compute, LORA)(state, batch)
    plain = init(config, jax.tree.map(jax.numpy.asarray, exported), None, optimizer)
    assert float(make_eval(config, None, compute)(plain, batch).loss) == pytest.approx(float(expected.loss), rel=1e-6)


def test_gradients_of_adapters_are_torchs(tmp_path: Path) -> None:
    """Of A and B by the chain rule, from torch's gradient of the weight they belong to."""
    reference = tiny.qwen3(tmp_path, num_hidden_layers=2)
    config = models.read_config(tmp_path)
    tokens, weights = documents([15], config.vocab_size)
    batch = batch_of([tokens], [weights], 16)
    state = init(config, models.named_parameters(models.load(tmp_path)), None, Recorder(), LORA)
    layer = "model.layers.0.self_attn.q_proj"
    name_a, name_b = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
    a = np.asarray(state.params[name_a])
    b = np.random.default_rng(1).normal(size=state.params[name_b].shape).astype(np.float32) * 0.05
    state.params[name_b] = jax.numpy.asarray(b)

    weight = reference.get_parameter(f"{layer}.weight")
    with torch.no_grad():
        weight += torch.tensor(4.0 * b @ a)
    logits = reference(torch.tensor(tokens[0][None]).long()).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[0][1:]).long(), reduction="none")
    w = torch.tensor(weights[0][1:])
    ((nll * w).sum() / w.sum()).backward()

    state, _ = make_step(config, None, Recorder(), Compute("float32", loss_chunk=16, attention="dense"), LORA)(
        state, batch
    )
    grad = weight.grad.numpy()
    assert distance(state.optimizer[name_a], 4.0 * b.T @ grad) < 1e-4
    assert distance(state.optimizer[name_b], 4.0 * grad @ a.T) < 1e-4


EXPERTS = {"qwen3_moe": ("experts.gate_proj", "experts.down_proj"), "gpt_oss": ("experts.gate_up_proj",)}


@pytest.mark.parametrize("family", list(EXPERTS))
def test_adapters_of_experts(tmp_path: Path, family: str) -> None:
    """Each expert has its own: the merged matrices are the frozen ones and alpha / rank * B A of that expert."""
    getattr(tiny, family)(tmp_path, num_hidden_layers=1, mlp_only_layers=[], layer_types=["full_attention"])
    config = models.read_config(tmp_path)
    tuning = LoRA(rank=2, alpha=6.0, targets=("q_proj", *EXPERTS[family]))
    trained, frozen = tuning.split(models.named_parameters(models.load(tmp_path)), jax.random.key(0))
    shapes = {name: tuple(d.size for d in dims) for name, dims in tuning.dims(config).items()}
    assert {name: value.shape for name, value in trained.items()} == shapes
    random = np.random.default_rng(0)
    trained = {name: random.normal(size=value.shape).astype(np.float32) for name, value in trained.items()}
    merged = tuning.merge(trained, frozen)
    for name, before in frozen.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" not in trained:
            assert merged[name] is before
            continue
        a, b = (trained[f"{layer}.lora_{x}.weight"].astype(np.float64) for x in "AB")
        for expert in range(len(before)) if before.ndim == 3 else ():
            expected = before[expert] + 3.0 * (b[expert] @ a[expert]).T
            np.testing.assert_allclose(merged[name][expert], expected, rtol=0, atol=1e-5)
    assert sum(value.ndim == 3 for value in trained.values()) == 2 * len(EXPERTS[family])


def test_a_sparse_student_says_what_gets_adapters(tmp_path: Path) -> None:
    tiny.qwen3_moe(tmp_path, num_hidden_layers=3)  # the second layer is dense
    mixed, attention = models.read_config(tmp_path), ("q_proj", "k_proj", "v_proj", "o_proj")
    said = LoRA(rank=2, alpha=4).coverage(mixed)
    assert all(f"3 {target}" in said.partition("; none on ")[0] for target in attention)
    assert "1 gate_proj" in said.partition("; none on ")[0]
    assert "2 experts.gate_proj" in said.partition("; none on ")[2]
    tiny.qwen3_moe(tmp_path, num_hidden_layers=2, mlp_only_layers=[])
    sparse = models.read_config(tmp_path)
    with pytest.raises(
        ValueError, match=r"'gate_proj' is in this model a matrix of experts: name it 'experts\.gate_proj'"
    ):
        LoRA(rank=2, alpha=4).dims(sparse)
    assert "none on" in LoRA(rank=2, alpha=4, targets=attention).coverage(sparse)
    tiny.gpt_oss(tmp_path, num_hidden_layers=1, layer_types=["full_attention"])
    with pytest.raises(ValueError, match=r"'down_proj' is in this model a matrix of experts.*\(q_proj would remain\)"):
        LoRA(rank=2, alpha=4, targets=("q_proj", "down_proj")).dims(models.read_config(tmp_path))


def test_an_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    tiny.qwen3(tmp_path, num_hidden_layers=2)
    config = models.read_config(tmp_path)
    message = "lora.targets: 'gate_prj' is no linear layer of this model; did you mean gate_proj?"
    with pytest.raises(ValueError, match=re.escape(message)):
        LoRA(rank=2, alpha=4, targets=("q_proj", "gate_prj")).dims(config)
