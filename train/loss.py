"""Cross-entropy that never holds the logits of all tokens: [T, V] is the largest array of a naive train step.

For a row of 32,768 tokens and a vocabulary of 151,936, float32 logits take 20 GB, and their gradient as much again.
Here a scan forms the logits of one chunk of tokens at a time. `weighted_loss` also forms the gradients in that same
pass, as Liger Kernel does (Hsu et al., arXiv 2410.10989): logits are computed once, not again on the way back.
"""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Int

from tessy_jax.models import CausalLM, Model, TokenClassifier

Losses = tuple[Float32[Array, ""], Float32[Array, "B T"], Bool[Array, "B T"]]
"""(sum of weights * nll, -log p of each target in nats, whether none was likelier). Only the sum has a gradient."""


class Objective(Protocol):
    """What a model learns at each place."""

    def __call__(
        self,
        model: Model,
        hidden: Float[Array, "B T D"],
        targets: Int[Array, "B T"],
        weights: Float[Array, "B T"],
        chunk: int,
        mesh: Mesh | None,
        rows: tuple[str, ...],
    ) -> Losses:
        """
        Args:
            model, hidden: the model, and its final hidden states.
            targets: see `Batch`; any where the weight is 0.
            weights: of the targets in the loss.
            chunk, mesh, rows: see `weighted_loss`.
        """
        ...


def next_token(
    model: Model,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk: int,
    mesh: Mesh | None,
    rows: tuple[str, ...],
) -> Losses:
    """The objective of a language model: the cross-entropy of the next token."""
    assert isinstance(model, CausalLM), "a token classifier has no next token to learn"
    return weighted_loss(hidden, model.output_weight(), targets, weights, chunk, mesh, rows)


def token_class(
    model: Model,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk: int,
    mesh: Mesh | None,
    rows: tuple[str, ...],
) -> Losses:
    """The objective of a token classifier: the cross-entropy of the labels. There are few, so nothing is chunked.

    With the weights of a step normalised it is torch's CrossEntropyLoss, class weights and ignored places included, as
    in HF's …ForTokenClassification (transformers/loss/loss_utils.py, ForTokenClassification).
    """
    assert isinstance(model, TokenClassifier), "a language model has no labels to learn"
    scores = model.scores(hidden)
    chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(scores, axis=-1) - chosen
    return jnp.sum(weights * nll), jax.lax.stop_gradient(nll), chosen == jnp.max(scores, axis=-1)


def token_losses(
    hidden: Float[Array, "B T D"], weight: Float[Array, "V D"], targets: Int[Array, "B T"], chunk: int
) -> tuple[Float32[Array, "B T"], Bool[Array, "B T"]]:
    """(-log p of each target in nats, whether no other token is likelier), with logits and softmax in float32.

    Args:
        hidden: final hidden states.
        weight: the output matrix.
        targets: ids; any id where there is none, for which the result is finite and meaningless.
        chunk: tokens whose logits exist at once.
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
) -> tuple[Float32[Array, ""], Float32[Array, "B T"], Bool[Array, "B T"]]:
    """(sum of weights * nll, and what `token_losses` gives). Only the sum has a gradient.

    Args:
        chunk: tokens per device whose logits exist at once.
        mesh, rows: the mesh, and those of its axes that split the rows.
    """
    if not rows:
        loss, nll, correct = _weighted_loss(hidden, weight, targets, weights, chunk)
        return loss, jax.lax.stop_gradient(nll), correct

    def local(hidden: Array, weight: Array, targets: Array, weights: Array) -> Any:
        # Each device goes through its own rows; gradients of the matrix are summed over devices once, not per chunk.
        weight = jax.lax.pcast(weight, rows, to="varying").astype(hidden.dtype)
        loss, nll, correct = weighted_loss(hidden, weight, targets, weights, chunk)
        return jax.lax.psum(loss, rows), nll, correct

    split, whole = PartitionSpec(rows), PartitionSpec()
    spread = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(split, whole, split, split),
        out_specs=(whole, split, split),
        axis_names=frozenset(rows),
    )
    # As float32, so that the sum over devices is: the CPU compiler (jax 0.10.2) aborts on one of bfloat16 numbers.
    return spread(hidden, weight.astype(jnp.float32), targets, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _weighted_loss(hidden: Array, weight: Array, targets: Array, weights: Array, chunk: int) -> Any:
    nll, correct = token_losses(hidden, weight, targets, chunk)
    return jnp.sum(weights * nll), nll, correct


def _forward(hidden: Array, weight: Array, targets: Array, weights: Array, chunk: int) -> Any:
    """The loss, and its gradients as residuals."""

    def one(grad_weight: Array, part: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        x, target, w = part
        probabilities, nll, correct = _softmax(x, weight, target)
        grad_logits = (probabilities - _is_target(probabilities, target)) * w[..., None]
        grad_logits = grad_logits.astype(x.dtype)
        grad_x = jnp.einsum("btv,vd->btd", grad_logits, weight)
        # [D, V]: as [V, D] a CPU first writes the gradient of the logits out again, transposed.
        grad = jnp.einsum("btd,btv->dv", x, grad_logits, preferred_element_type=jnp.float32)
        return grad_weight + grad, (nll, correct, grad_x)

    length, columns = targets.shape[1], _columns(targets, chunk)
    start = jnp.zeros_like(weight.T, jnp.float32)
    parts = (_split(hidden, columns), _split(targets, columns), _split(weights, columns))
    grad_weight, out = jax.lax.scan(one, start, parts)
    nll, correct, grad_hidden = (_join(x, length) for x in out)
    return (jnp.sum(weights * nll), nll, correct), (grad_hidden, grad_weight.T.astype(weight.dtype), nll)


def _backward(chunk: int, residuals: Any, cotangents: Any) -> Any:
    grad_hidden, grad_weight, nll = residuals
    scale = cotangents[0]
    return (
        scale.astype(grad_hidden.dtype) * grad_hidden,
        scale.astype(grad_weight.dtype) * grad_weight,
        None,
        scale * nll,
    )


_weighted_loss.defvjp(_forward, _backward)


def _softmax(x: Array, weight: Array, target: Array) -> tuple[Array, Array, Array]:
    """Of one chunk: (probabilities [B C V], nll [B C], correct [B C])."""
    logits = jnp.einsum("btd,vd->btv", x, weight, preferred_element_type=jnp.float32)
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
    """The inverse of `_split`."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
