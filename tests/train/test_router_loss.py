"""The routers' loss against transformers (load_balancing_loss_func, in the model's own loss): value and gradients."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from tessy_jax import models
from tessy_jax.models.balance import Balance
from tessy_jax.train.learner import RULES
from tessy_jax.train.step import Compute, init, make_step
from tessy_jax.train.student import Student
from tests.kit import tiny
from tests.kit.training import Recorder, batch_of, distance, documents

COEFFICIENT = 0.7


@pytest.mark.parametrize(("layers", "experts", "each", "padding"), [(1, 4, 1, 0), (3, 6, 2, 5), (2, 5, 5, 3)])
def test_the_loss_is_transformers(layers: int, experts: int, each: int, padding: int) -> None:
    random = np.random.default_rng(layers)
    logits = random.normal(size=(layers, 2, 9, experts)).astype(np.float32)
    real = np.arange(9)[None] < np.array([[9], [9 - padding]])
    balance = Balance.empty(experts)
    for layer in logits:
        balance = balance.add(jnp.asarray(layer), each, jnp.asarray(real))
    theirs = tuple(torch.tensor(layer.reshape(-1, experts)) for layer in logits)
    expected = load_balancing_loss_func(theirs, experts, each, torch.tensor(real.astype(np.int64)))
    assert float(balance.loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("family", "router"), [("qwen3_moe", "mlp.gate.weight"), ("gpt_oss", "mlp.router.weight")])
def test_gradients_are_torchs(tmp_path: Path, family: str, router: str) -> None:
    """One row is padded, and a layer of Qwen's is dense."""
    dense = {"num_hidden_layers": 2, "mlp_only_layers": [1]}
    layers = {"qwen3_moe": dense, "gpt_oss": {"num_hidden_layers": 1, "layer_types": ["full_attention"]}}[family]
    changes = {"output_router_logits": True, "router_aux_loss_coef": COEFFICIENT}
    reference = getattr(tiny, family)(tmp_path, **changes | layers)
    config = models.read_config(tmp_path)
    tokens, _ = documents([12, 9], config.vocab_size)
    weights = [np.ones(len(one), np.float32) for one in tokens]
    state = init(config, models.named_parameters(models.load(tmp_path)), None, Recorder())
    compute = Compute("float32", remat="none", loss_chunk=16, attention="dense")
    step = make_step(config, None, Recorder(), compute, router_loss=COEFFICIENT)
    state, metrics = step(state, batch_of([[one] for one in tokens], [[one] for one in weights], 12))

    ids = torch.tensor(np.stack([np.pad(one, (0, 12 - len(one))) for one in tokens]).astype(np.int64))
    real = torch.arange(12)[None] < torch.tensor([[12], [9]])
    out = reference(ids, attention_mask=real.long(), labels=torch.where(real, ids, -100))
    out.loss.backward()
    assert float(metrics.loss) + COEFFICIENT * out.aux_loss.item() == pytest.approx(out.loss.item(), rel=1e-5)
    for name in (f"model.layers.0.{router}", "model.embed_tokens.weight"):
        theirs = reference.get_parameter(name).grad.numpy()
        assert distance(state.optimizer[name], theirs) < 1e-4, name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"output_router_logits": True, "router_aux_loss_coef": 0.25}, 0.25),
        ({"output_router_logits": True, "router_aux_loss_coef": None}, 0.001),
        ({"output_router_logits": False, "router_aux_loss_coef": 0.25}, 0.0),
        ({"router_aux_loss_coef": 0.25}, 0.0),
    ],
)
@pytest.mark.parametrize(("family", "spreads"), [("qwen3_moe", True), ("gpt_oss", True), ("qwen3", False)])
def test_config_json_asks_for_it(
    tmp_path: Path, family: str, spreads: bool, settings: dict[str, Any], expected: float
) -> None:
    getattr(tiny, family)(tmp_path)
    file = tmp_path / "config.json"
    raw = {key: value for key, value in json.loads(file.read_text()).items() if "router" not in key}
    file.write_text(json.dumps(raw | settings))
    student: Any = SimpleNamespace(folder=tmp_path, model=models.read_config(tmp_path), rules=RULES)
    assert Student.router_loss.fget(student) == (expected if spreads else 0.0)  # type: ignore[attr-defined]
    student.rules = 1  # a run of an earlier version
    assert Student.router_loss.fget(student) == 0.0  # type: ignore[attr-defined]
