"""Sampling: one random number per row and token, drawn by the inverse of the cumulative distribution.

The filters come in the usual order (vLLM's): temperature, top-k, top-p, min-p. What is left is renormalised and
laid out in vocabulary order; the token is the first whose cumulative probability exceeds the row's uniform number.
That number is a pure function of (seed, record, sample, byte offset, author), so a row does not depend on its
neighbours, its slot or the batch.
"""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

# Bisection steps for the top-p threshold without top-k: 40 halvings take an interval of 1 below float32's resolution
# at 1e-10.
_BISECTIONS = 40


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one role chooses its next token. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 filter
    nothing.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __call__(self, logits: Float[Array, "B V"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
        """The next token of each row; `logits` are float32 with -inf where a token is not allowed."""
        if self.temperature == 0.0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            return self._among_candidates(logits, uniform)
        return _draw(self._filter(jax.nn.softmax(logits, axis=-1)), uniform)

    def _among_candidates(self, logits: Float[Array, "B V"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
        """Top-k leaves few tokens: sort those instead of the vocabulary."""
        best, ids = lax.top_k(logits, self.top_k)
        p = jax.nn.softmax(best, axis=-1)
        before = jnp.cumsum(p, axis=-1) - p
        p = jnp.where((before < self.top_p) & (p >= self.min_p * p[:, :1]), p, 0.0)
        order = jnp.argsort(ids, axis=-1)
        chosen = _draw(jnp.take_along_axis(p, order, axis=-1), uniform)
        return jnp.take_along_axis(ids, jnp.take_along_axis(order, chosen[:, None], axis=-1), axis=-1)[:, 0]

    def _filter(self, p: Float[Array, "B V"]) -> Float[Array, "B V"]:
        floor = self.min_p * p.max(axis=-1, keepdims=True)
        if self.top_p < 1.0:
            floor = jnp.maximum(floor, _nucleus_floor(p, self.top_p))
        return jnp.where(p >= floor, p, 0.0)


def _nucleus_floor(p: Float[Array, "B V"], top_p: float) -> Float[Array, "B 1"]:
    """The largest t for which the tokens with probability >= t hold at least `top_p`: top-p without a sort."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.sum(jnp.where(p >= middle, p, 0.0), axis=-1, keepdims=True) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    top = p.max(axis=-1, keepdims=True)
    low, _ = lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(top), top * 1.000001))
    return low


def _draw(p: Float[Array, "B V"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
    """The first index whose cumulative share of `p` exceeds `uniform`."""
    cumulative = jnp.cumsum(p, axis=-1)
    # Strictly below the total, and never on a token of probability zero, whatever the rounding of the sum.
    target = jnp.minimum(uniform * cumulative[:, -1], jnp.nextafter(cumulative[:, -1], jnp.zeros(())))
    return jnp.argmax((cumulative > target[:, None]) & (p > 0), axis=-1).astype(jnp.int32)


def row_key(seed: int, record: str, sample: int) -> np.ndarray:
    """The random key `uint32[2]` of one row, a function of the run's seed, the record's id and the sample's index."""
    digest = hashlib.sha256(f"{seed}\x00{record}\x00{sample}".encode()).digest()
    return np.frombuffer(digest[:8], np.uint32).copy()


def uniforms(
    keys: UInt32[Array, "B 2"], offset: Int[Array, " B"], author: Int[Array, " B"] | int
) -> Float[Array, " B"]:
    """One number in [0, 1) per row, for the token of `author` that starts at byte `offset` of the text."""

    def one(data: Array, at: Array, author: Array) -> Array:
        key = jax.random.wrap_key_data(data, impl="threefry2x32")
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, at), author))

    return jax.vmap(one)(keys, offset, jnp.broadcast_to(jnp.asarray(author), offset.shape))
