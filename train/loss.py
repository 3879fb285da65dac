"""Cross-entropy in chunks of tokens, so that the logits of all tokens, [T, V], never exist at once.

They would be the largest array of a train step: for a row of 32,768 tokens and a vocabulary of 151,936 they take 20 GB
in float32, and their gradient as much again. Here a scan forms the logits of one chunk at a time. `weighted_loss` forms
the gradients in the same pass, as Liger Kernel does (Hsu et al., arXiv 2410.10989), so logits are computed only once.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int

from tessy_jax.models import CausalLM, Model, TokenClassifier
from tessy_jax.models.products import einsum


class Losses(NamedTuple):
    """Losses of the targets of a micro-batch.

    Attributes:
        total: sum of weights * nll. Only this has a gradient.
        nll: -log p of each target, in nats.
        correct: whether no other target was likelier.
    """

    total: Float32[Array, ""]
    nll: Float32[Array, "B T"]
    correct: Bool[Array, "B T"]


@dataclass(frozen=True)
class Targets:
    """What is to be learned at each place of a micro-batch, and how its loss is computed.

    Attributes:
        ids: token ids or labels; any where the weight is 0.
        weights: of the targets in the loss.
        chunk: tokens per device whose logits exist at once.
        mesh: the devices; None: one.
        rows: axes of the mesh that split the rows.
    """

    ids: Int[Array, "B T"]
    weights: Float[Array, "B T"]
    chunk: int
    mesh: Mesh | None = None
    rows: tuple[str, ...] = ()


Objective = Callable[[Model, Float[Array, "B T D"], Targets], Losses]
"""What a model learns: (model, its final hidden states, targets) -> losses."""


def next_token(model: Model, hidden: Float[Array, "B T D"], targets: Targets) -> Losses:
    """The objective of a language model: the cross-entropy of the next token."""
    assert isinstance(model, CausalLM), "a token classifier has no next token to learn"
    ids, weights, rows = targets.ids, targets.weights, targets.rows
    return weighted_loss(hidden, model.output_weight(), ids, weights, targets.chunk, targets.mesh, rows)


def token_class(model: Model, hidden: Float[Array, "B T D"], targets: Targets) -> Losses:
    """The objective of a token classifier: the cross-entropy of the labels. There are few, so nothing is chunked.

    With the weights of a step normalised it is torch's CrossEntropyLoss, class weights and ignored places included, as
    in HF's …ForTokenClassification (transformers/loss/loss_utils.py, ForTokenClassification).
    """
    assert isinstance(model, TokenClassifier), "a language model has no labels to learn"
    scores = model.scores(hidden)
    chosen = jnp.take_along_axis(scores, targets.ids[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(scores, axis=-1) - chosen
    correct = chosen == jnp.max(scores, axis=-1)
    return Losses(jnp.sum(targets.weights * nll), jax.lax.stop_gradient(nll), correct)


def token_losses(
    hidden: Float[Array, "B T D"], weight: Float[Array, "V D"], targets: Int[Array, "B T"], chunk: int
) -> tuple[Float32[Array, "B T"], Bool[Array, "B T"]]:
    """Loss of each target; logits and softmax are float32.

    Args:
        hidden: final hidden states.
        weight: the output matrix.
        targets: ids; any id where there is none, for which the result is finite and meaningless.
        chunk: tokens whose logits exist at once.

    Returns:
        (-log p of each target in nats, whether no other token is likelier).
    """
    length, columns = targets.shape[1], _columns(targets, chunk)
    parts = (_split(hidden, columns), _split(targets, columns))
    nll, correct = jax.lax.map(lambda part: _softmax(part[0], weight, part[1])[1:], parts)
    return _join(nll, length), _join(correct, length)


def weighted_loss(
    hidden: Float[Array, "B T D"],
    weight: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk: int,
    mesh: Mesh | None = None,
    rows: tuple[str, ...] = (),
) -> Losses:
    """Losses of a language model, with the gradients formed in the same pass.

    Args:
        hidden: final hidden states.
        weight: the output matrix.
        targets, weights, chunk, mesh, rows: see `Targets`.
    """
    if not rows:
        losses = _weighted_loss(hidden, weight, targets, weights, chunk)
        return losses._replace(nll=jax.lax.stop_gradient(losses.nll))

    def local(hidden: Array, weight: Array, targets: Array, weights: Array) -> Losses:
        # Each device goes through its own rows; gradients of the matrix are summed over devices once, not per chunk.
        weight = jax.lax.pcast(weight, rows, to="varying").astype(hidden.dtype)
        losses = weighted_loss(hidden, weight, targets, weights, chunk)
        return losses._replace(total=jax.lax.psum(losses.total, rows))

    split, whole = PartitionSpec(rows), PartitionSpec()
    spread = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(split, whole, split, split),
        out_specs=Losses(whole, split, split),  # type: ignore[arg-type]  # specs in the shape of the result
        axis_names=frozenset(rows),
    )
    # As float32, so that the sum over devices is: the CPU compiler (jax 0.10.2) aborts on one of bfloat16 numbers.
    return spread(hidden, weight.astype(jnp.float32), targets, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _weighted_loss(hidden: Array, weight: Array, targets: Array, weights: Array, chunk: int) -> Losses:
    nll, correct = token_losses(hidden, weight, targets, chunk)
    return Losses(jnp.sum(weights * nll), nll, correct)


def _forward(hidden: Array, weight: Array, targets: Array, weights: Array, chunk: int) -> Any:
    """The loss, and its gradients as residuals."""

    def one(grad_weight: Array, part: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        x, target, w = part
        probabilities, nll, correct = _softmax(x, weight, target)
        grad_logits = (probabilities - _is_target(probabilities, target)) * w[..., None]
        grad_logits = grad_logits.astype(x.dtype)
        grad_x = einsum("btv,vd->btd", grad_logits, weight)
        # [D, V]: as [V, D] a CPU first writes the gradient of the logits out again, transposed.
        grad = einsum("btd,btv->dv", x, grad_logits, preferred_element_type=jnp.float32)
        return grad_weight + grad, (nll, correct, grad_x)

    length, columns = targets.shape[1], _columns(targets, chunk)
    start = jnp.zeros_like(weight.T, jnp.float32)
    parts = (_split(hidden, columns), _split(targets, columns), _split(weights, columns))
    grad_weight, out = jax.lax.scan(one, start, parts)
    nll, correct, grad_hidden = (_join(x, length) for x in out)
    losses = Losses(jnp.sum(weights * nll), nll, correct)
    return losses, (grad_hidden, grad_weight.T.astype(weight.dtype), nll)


def _backward(chunk: int, residuals: Any, cotangents: Losses) -> Any:
    grad_hidden, grad_weight, nll = residuals
    scale = cotangents.total
    return (
        scale.astype(grad_hidden.dtype) * grad_hidden,
        scale.astype(grad_weight.dtype) * grad_weight,
        None,
        scale * nll,
    )


_weighted_loss.defvjp(_forward, _backward)


def _softmax(x: Array, weight: Array, target: Array) -> tuple[Array, Array, Array]:
    """(probabilities [B C V], nll [B C], correct [B C]) of one chunk."""
    logits = einsum("btd,vd->btv", x, weight, preferred_element_type=jnp.float32)
    highest = jnp.max(logits, axis=-1, keepdims=True)
    exponentials = jnp.exp(logits - highest)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    # A masked sum, not a gather: it fuses, and each device sums its own part of a split vocabulary.
    chosen = jnp.sum(jnp.where(_is_target(logits, target), logits, 0.0), axis=-1, keepdims=True)
    nll = jnp.log(total) + highest - chosen
    return exponentials / total, nll[..., 0], (chosen == highest)[..., 0]


def _is_target(logits: Array, target: Array) -> Bool[Array, "B C V"]:
    return jax.lax.broadcasted_iota(target.dtype, logits.shape, 2) == target[..., None]


def _columns(targets: Array, chunk: int) -> int:
    """Tokens of each row in a chunk."""
    rows, length = targets.shape
    steps = -(-length // max(1, min(length, chunk // rows)))
    return -(-length // steps)


def _split(x: Array, columns: int) -> Array:
    """[B, T, ...] -> [chunks, B, columns, ...], the last one padded with zeros."""
    rows, length = x.shape[:2]
    chunks = -(-length // columns)
    x = jnp.pad(x, [(0, 0), (0, chunks * columns - length)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(rows, chunks, columns, *x.shape[2:]).swapaxes(0, 1)


def _join(x: Array, length: int) -> Array:
    """[chunks, B, columns, ...] -> [B, length, ...]: the inverse of `_split`."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
