"""One step against torch on real weights; what must not matter (packing, micro-batches, devices, remat) does not."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from jax.sharding import AxisType

from tessy_jax import models
from tessy_jax.train.data.batches import Batch
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.remat import REMAT, in_turn
from tessy_jax.train.step import Compute, batch_sharding, init, make_eval, make_step
from tests.kit import ROOT, tiny
from tests.kit.products import float32_products
from tests.kit.training import Recorder, batch_of, distance, documents

EXACT = Compute("float32", remat="none", attention="dense", loss_chunk=32)


def gradients(folder: Path, batch: Batch, compute: Compute = EXACT, mesh: Any = None) -> tuple[Any, dict[str, Any]]:
    """(metrics, gradients) of one step."""
    config = models.read_config(folder)
    params = models.named_parameters(models.load(folder, mesh=mesh, rules=models.TRAINING))
    state = init(config, params, mesh, Recorder())
    state, metrics = make_step(config, mesh, Recorder(), compute)(state, batch)
    return metrics, jax.tree.map(np.asarray, state.optimizer)


def same(ours: tuple[Any, dict[str, Any]], expected: tuple[Any, dict[str, Any]], bound: float = 1e-5) -> None:
    """Losses, gradients and sums are equal but for rounding."""
    np.testing.assert_allclose(ours[0].loss, expected[0].loss, rtol=bound)
    np.testing.assert_allclose(ours[0].grad_norm, expected[0].grad_norm, rtol=bound)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=bound), ours[0].sums, expected[0].sums)
    for name, value in expected[1].items():
        assert distance(ours[1][name], value) <= bound, name


def test_one_step_is_torchs_on_real_weights(demo_weights: Path) -> None:
    """SmolLM2-135M, float32: two documents packed in one row, a third in another; in torch one after the other.

    torch's cross-entropy is taken in float64: in float32 it sums the 49,152 exponentials of a token with an error that
    moves the loss by 9e-6 and gradients by up to 2.6e-4 from those of a model all in float64 (ours: 6e-7 and 3e-5).
    """
    folder = demo_weights / "smollm2-135m-instruct"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = np.array(tokenizer((ROOT / "CONTRIBUTING.md").read_text()).input_ids, np.int32)
    tokens = [ids[:60], ids[200:230], ids[300:375]]
    weights = [np.where(np.arange(len(t)) < 12, 0, np.where(np.arange(len(t)) % 3, 1, 0.5)) for t in tokens]

    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total = sum(w.sum() for w in weights)
    loss = 0.0
    for t, w in zip(tokens, weights, strict=True):
        logits = reference(torch.tensor(t[None]).long()).logits[0, :-1].double()
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(t[1:]).long(), reduction="none")
        part = (nll * torch.tensor(w[1:])).sum() / total
        part.backward()
        loss += part.item()
    theirs = {name: tensor.grad.numpy() for name, tensor in reference.named_parameters()}
    norm = np.sqrt(sum(np.square(grad, dtype=np.float64).sum() for grad in theirs.values()))

    batch = batch_of([tokens[:2], tokens[2:]], [weights[:2], weights[2:]], 96)
    metrics, ours = gradients(folder, batch)
    worst = max(theirs, key=lambda name: distance(ours[name], theirs[name]))
    print(
        f"loss {loss:.7f}, ours {metrics.loss:.7f}; worst gradient {distance(ours[worst], theirs[worst]):.1e} {worst}"
    )
    assert abs(float(metrics.loss) - loss) <= 1e-5
    assert abs(float(metrics.grad_norm) / norm - 1) <= 1e-5
    assert set(ours) == set(theirs)
    for name, grad in theirs.items():
        assert distance(ours[name], grad) <= 1e-4, name


@pytest.mark.parametrize("attention", ["dense", "blocks"])
def test_packing_changes_nothing(tmp_path: Path, attention: str) -> None:
    """Gemma 3 with a window of 7: four documents in four rows, or in two with padding."""
    tiny.gemma3(tmp_path, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
    tokens, weights = documents([11, 20, 17, 9], 101)
    alone = batch_of([[t] for t in tokens], [[w] for w in weights], 31)
    packed = batch_of([tokens[:2], tokens[2:]], [weights[:2], weights[2:]], 31)
    compute = dataclasses.replace(EXACT, attention=attention)
    expected, ours = gradients(tmp_path, alone), gradients(tmp_path, packed, compute)
    same(ours, expected)
    assert int(ours[0].sums.tokens_all) == 57
    assert int(ours[0].sums.tokens) == 57 - sum(n // 3 for n in (11, 20, 17, 9))
    assert ours[0].sums.count.tolist() == [0, 20, 17, 16, 0]


@pytest.mark.parametrize("attention", ["dense", "blocks"])
def test_a_step_multiplies_float32_in_float32(tmp_path: Path, attention: str) -> None:
    """Its gradients too, on every platform; see models/products.py."""
    tiny.qwen3(tmp_path)
    config = models.read_config(tmp_path)
    state = init(config, models.named_parameters(models.load(tmp_path, rules=models.TRAINING)), None, Recorder())
    step = make_step(config, None, Recorder(), dataclasses.replace(EXACT, attention=attention))
    tokens, weights = documents([5, 9], config.vocab_size)
    batch = batch_of([tokens], [weights], 16)
    assert float32_products(step, state, batch) == []


def test_micro_batches_and_remat_change_nothing_and_bfloat16_little(tmp_path: Path) -> None:
    """Micro-batches have different token counts, so that a mean of their means would show."""
    tiny.qwen3(tmp_path, num_hidden_layers=2)
    tokens, weights = documents([31, 5, 8, 24], 89)
    rows, row_weights = [[t] for t in tokens], [[w] for w in weights]
    expected = gradients(tmp_path, batch_of(rows, row_weights, 31))
    for remat in REMAT:
        compute = dataclasses.replace(EXACT, remat=remat)
        same(gradients(tmp_path, batch_of(rows, row_weights, 31, micro=4), compute), expected)

    exact, grads = expected
    rounded, near = gradients(
        tmp_path, batch_of(rows, row_weights, 31, micro=4), dataclasses.replace(EXACT, dtype="bfloat16")
    )
    assert 0 < abs(float(rounded.loss - exact.loss)) <= 0.03 * float(exact.loss)
    for name, grad in grads.items():
        assert near[name].dtype == jnp.float32
        assert distance(near[name], grad) <= 0.2, name


@pytest.mark.parametrize("remat", REMAT)
def test_a_blocks_gradients_are_formed_before_those_of_the_block_below(tmp_path: Path, remat: str) -> None:
    """The hidden states' gradient leaves a block through a barrier that all gradients of its weights reach."""
    tiny.qwen3(tmp_path, num_hidden_layers=2)
    config = models.read_config(tmp_path)
    model = models.load(tmp_path)
    graph, params = nnx.split(model)
    tokens = jnp.arange(5)[None]

    def loss(params: Any) -> jax.Array:
        memory = models.Packed(jnp.ones_like(tokens), tuple(config.masks))
        return nnx.merge(graph, params)(tokens, tokens, memory, in_turn(remat, None, models.TRAINING))[0].sum()

    program = jax.make_jaxpr(jax.grad(loss))(params)
    barriers = [e for e in program.jaxpr.eqns if e.primitive.name == "optimization_barrier"]
    sizes = sorted(a.shape for a in jax.tree.leaves(nnx.state(model.model.layers[0], nnx.Param)))
    for barrier in barriers:
        assert sorted(v.aval.shape for v in barrier.outvars) == sorted([*sizes, (1, 5, config.hidden_size)])
    assert len(barriers) == 2


@pytest.mark.parametrize(("family", "attention"), [("qwen3", "blocks"), ("gemma3", "dense")])
def test_eight_devices_are_one(tmp_path: Path, family: str, attention: str) -> None:
    """fsdp 4 x tensor 2; two steps of AdamW with two micro-batches, and an evaluation."""
    layers = {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3" else {}
    getattr(tiny, family)(tmp_path, vocab_size=90, num_hidden_layers=2, **layers)
    config = models.read_config(tmp_path)
    tokens, weights = documents([31, 5, 8, 24, 30, 12, 19, 7], 90)
    batch = batch_of([[t] for t in tokens], [[w] for w in weights], 31, micro=2)
    optimizer = AdamW(peak=1e-3, steps=10, weight_decay=0.1)
    compute = dataclasses.replace(EXACT, remat="block", attention=attention)

    def run(mesh: Any) -> tuple[list[Any], Any, Any]:
        params = models.named_parameters(models.load(tmp_path, mesh=mesh, rules=models.TRAINING))
        state = init(config, params, mesh, optimizer)
        step, evaluate = make_step(config, mesh, optimizer, compute), make_eval(config, mesh, compute)
        data = batch if mesh is None else jax.device_put(batch, batch_sharding(mesh))
        out = []
        for _ in range(2):
            state, metrics = step(state, data)
            out.append(metrics)
        return out, evaluate(state, data), state

    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
    one, eight = run(None), run(mesh)
    for a, b in zip(jax.tree.leaves(one[:2]), jax.tree.leaves(eight[:2]), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    assert float(one[0][1].loss) < float(one[0][0].loss)
    assert int(eight[2].step) == 2

    up = "model.layers.0.mlp.up_proj.weight"
    parts = (eight[2].params[up], eight[2].optimizer[1].mu[up], eight[2].optimizer[1].nu[up])
    assert {tuple(x.sharding.spec) for x in parts} == {("tensor", "fsdp")}
    for name, value in one[2].params.items():
        # Where a gradient is almost 0, Adam's first steps follow its rounding: at most by the learning rate.
        assert np.abs(np.asarray(eight[2].params[name]) - np.asarray(value)).mean() <= 1e-6, name


@pytest.mark.parametrize(
    ("axes", "dtype"), [({"data": 2, "fsdp": 2, "tensor": 2}, "bfloat16"), ({"fsdp": 1, "tensor": 2}, "float32")]
)
def test_other_meshes_and_bfloat16_on_them(tmp_path: Path, axes: dict[str, int], dtype: str) -> None:
    """The CPU compiler once aborted on the first, and refused the second."""
    tiny.llama(tmp_path, vocab_size=90, num_hidden_layers=1)
    tokens, weights = documents([31, 5, 8, 24], 90)
    batch = batch_of([[t] for t in tokens], [[w] for w in weights], 31)
    compute = dataclasses.replace(EXACT, dtype=dtype)
    devices = jax.devices()[: math.prod(axes.values())]
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=devices)
    one, split = gradients(tmp_path, batch, compute), gradients(tmp_path, batch, compute, mesh)
    same(split, one, 1e-5 if dtype == "float32" else 2e-2)


def test_parts_are_summed_apart(tmp_path: Path) -> None:
    """Against an evaluation with weight on one part only; the weight itself does not matter to them.

    Targets of the first row are the tokens that torch finds likeliest, those of the second the ids after them.
    """
    reference = tiny.qwen3(tmp_path, num_hidden_layers=2)
    config = models.read_config(tmp_path)
    tokens, weights = documents([31, 31], 89)
    batch = batch_of([[t] for t in tokens], [[w] for w in weights], 31)
    likeliest = reference(torch.tensor(batch.tokens[0]).long()).logits.argmax(-1).numpy()
    targets = (likeliest + np.array([[0], [1]])) % 89
    batch = dataclasses.replace(batch, targets=targets[None].astype(np.int32))
    state = init(config, models.named_parameters(models.load(tmp_path)), None, Recorder())
    evaluate = make_eval(config, None, EXACT)
    sums = evaluate(state, batch)
    for part in (1, 2, 3):
        only = dataclasses.replace(batch, weights=(batch.parts == part).astype(np.float32))
        alone = evaluate(state, only)
        np.testing.assert_allclose(alone.loss, sums.nll[part], rtol=1e-6)
        assert int(alone.tokens) == int(sums.count[part])
        np.testing.assert_array_equal(alone.nll, sums.nll)
    assert float(sums.nll[0]) == float(sums.nll[4]) == 0
    assert sums.count.tolist() == [0, 20, 20, 20, 0]
    assert sums.correct.tolist() == [0, 10, 10, 10, 0]
