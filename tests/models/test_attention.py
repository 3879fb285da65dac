"""Blockwise attention against the dense one: values, gradients, what is skipped, what is held in memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tessy_jax import models
from tessy_jax.models.attention import blockwise, dense
from tessy_jax.models.mask import Mask

B, T, N, K, H = 2, 53, 6, 2, 5
SCALE = 0.3
SINKS = jnp.asarray([-2.0, 0.5, 3.0, 1.0, -0.5, 5.0])
# Documents of each row; what is left at its end is padding.
DOCUMENTS = ((20, 9, 24), (1, 31, 13))
CONTEXTS = (models.Full(), models.Sliding(11), models.Blocks(7))


def _packed() -> tuple[jax.Array, jax.Array]:
    """Segments and positions of the two rows."""
    segments, positions = np.zeros((B, T), np.int32), np.full((B, T), -1, np.int32)
    for row, lengths in enumerate(DOCUMENTS):
        at = 0
        for number, length in enumerate(lengths, start=1):
            segments[row, at : at + length] = number
            positions[row, at : at + length] = np.arange(length)
            at += length
    return jnp.asarray(segments), jnp.asarray(positions)


def _inputs() -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N * H))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


def _dense(q: Any, k: Any, v: Any, segments: Any, positions: Any, context: Mask, sinks: Any = None) -> Any:
    visible = context.visible(positions[:, :, None], positions[:, None, :])
    visible &= segments[:, :, None] == segments[:, None, :]
    return dense(q, k.swapaxes(1, 2), v.swapaxes(1, 2), visible, SCALE, sinks)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("block", [8, 64])  # several blocks with a ragged end; one block for all
def test_equals_dense_attention_and_its_gradients(context: Mask, block: int) -> None:
    segments, positions = _packed()
    q, k, v, wanted = _inputs()
    real = (positions >= 0)[..., None]

    def through(attention: Any) -> Any:
        def loss(q: Any, k: Any, v: Any) -> Any:
            out = jnp.where(real, attention(q, k, v), 0)
            return jnp.sum(out * wanted), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    (_, out), grads = through(lambda q, k, v: blockwise(q, k, v, segments, positions, context, SCALE, block))
    (_, expected), expected_grads = through(lambda q, k, v: _dense(q, k, v, segments, positions, context))
    assert float(jnp.abs(out - expected).max()) <= 2e-6
    for got, want in zip(grads, expected_grads, strict=True):
        assert float(jnp.linalg.norm(want)) > 1
        assert float(jnp.abs(got - want).max()) <= 5e-6


@pytest.mark.parametrize("attention", ["dense", "blocks"])
def test_a_sink_takes_part_in_the_sum_alone(attention: str) -> None:
    """Values and gradients of both ways, against a softmax with the sink as one more score, whose weight is dropped."""
    segments, positions = _packed()
    q, k, v, wanted = _inputs()
    context = models.Sliding(11)
    real = (positions >= 0)[..., None]

    def plain(q: Any, k: Any, v: Any, sinks: Any) -> Any:
        visible = context.visible(positions[:, :, None], positions[:, None, :])
        visible &= segments[:, :, None] == segments[:, None, :]
        k, v = (jnp.repeat(x, N // K, axis=2) for x in (k, v))
        scores = jnp.where(visible[:, None], jnp.einsum("bqnh,bsnh->bnqs", q, k) * SCALE, -jnp.inf)
        column = jnp.broadcast_to(sinks[None, :, None, None], (*scores.shape[:-1], 1))
        weights = jax.nn.softmax(jnp.concatenate([scores, column], axis=-1), axis=-1)[..., :-1]
        return jnp.einsum("bnqs,bsnh->bqnh", weights, v).reshape(B, T, N * H)

    def tested(q: Any, k: Any, v: Any, sinks: Any) -> Any:
        if attention == "dense":
            return _dense(q, k, v, segments, positions, context, sinks)
        return blockwise(q, k, v, segments, positions, context, SCALE, 8, sinks)

    def through(call: Any) -> Any:
        def loss(*inputs: Any) -> Any:
            out = jnp.where(real, call(*inputs), 0)
            return jnp.sum(out * wanted), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(q, k, v, SINKS)

    (_, out), grads = through(tested)
    (_, expected), expected_grads = through(plain)
    assert float(jnp.abs(out - expected).max()) <= 2e-6
    for got, want in zip(grads, expected_grads, strict=True):
        assert float(jnp.abs(want).max()) > 0.1
        assert float(jnp.abs(got - want).max()) <= 5e-6


def test_padding_gives_zero_and_no_gradient() -> None:
    segments, positions = _packed()
    q, k, v, wanted = _inputs()
    padding = np.asarray(positions[1] < 0)

    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(blockwise(q, k, v, segments, positions, models.Full(), SCALE, 8) * wanted)

    out = blockwise(q, k, v, segments, positions, models.Full(), SCALE, 8)
    assert padding.sum() == T - sum(DOCUMENTS[1])
    assert not np.any(np.asarray(out)[1, padding])
    for grad in jax.grad(loss, argnums=(0, 1, 2))(q, k, v):
        assert np.all(np.isfinite(grad))
        assert not np.any(np.asarray(grad)[1, padding])


def test_unseen_blocks_are_not_read() -> None:
    """NaN in a document before, in a later block and beyond the window reaches nobody."""
    length, block, window = 64, 8, 6
    q, k, v = (jnp.ones((1, length, 1, 4)) for _ in range(3))
    segments = jnp.asarray(np.repeat([[1, 2]], [16, 48], axis=1))
    positions = jnp.asarray(np.r_[np.arange(16), np.arange(48)][None])
    poison = k.at[0, :8].set(jnp.nan).at[0, 40:].set(jnp.nan)
    out = blockwise(q, poison, v, segments, positions, models.Sliding(window), 1.0, block)
    assert np.all(np.isfinite(np.asarray(out)[0, 16:40]))
    assert np.all(np.isnan(np.asarray(out)[0, :8]))


def test_a_train_row_never_holds_all_scores() -> None:
    """The compiled gradient has no array of T x T elements, and the dense one has."""
    length, heads = 1024, 2
    x = jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)
    where = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def gradient(attention: Any) -> str:
        def loss(q: Any, k: Any, v: Any, segments: Any, positions: Any) -> Any:
            return jnp.sum(jnp.square(attention(q, k, v, segments, positions)))

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x, where, where).compile()
        return compiled.as_text()

    text = gradient(lambda *a: blockwise(*a, models.Full(), SCALE, 128))
    assert f"{length},{length}" not in text
    assert f"{length},{length}" in gradient(lambda *a: _dense(*a, models.Full()))


def test_rows_and_heads_may_be_split_over_devices() -> None:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])
    segments, positions = _packed()
    q, k, v, wanted = _inputs()

    def loss(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(blockwise(q, k, v, segments, positions, models.Sliding(11), SCALE, 8) * wanted)

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    split = NamedSharding(mesh, PartitionSpec("fsdp", None, "tensor"))
    for got, want in zip(step(*jax.device_put((q, k, v), split)), step(q, k, v), strict=True):
        assert float(jnp.abs(got - want).max()) <= 5e-6
