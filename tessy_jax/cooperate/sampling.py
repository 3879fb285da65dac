"""Sampling: one random number per row and token, drawn by the inverse of the cumulative distribution.

The filters come in the usual order (vLLM's): temperature, top-k, top-p, min-p. What is left is renormalised and
laid out in vocabulary order; the token is the first whose cumulative probability exceeds the row's uniform number.
That number is a pure function of (seed, record, sample, byte offset, author), so a row does not depend on its
neighbours, its slot or the batch.

`Sampling` is one setting for all rows, and static; `RowSettings` is the same rule for rows that differ, with the
numbers of each row in arrays.
"""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from tessy_jax.text_jax.arrays import Leaf

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


class RowSettings(struct.PyTreeNode):
    """What each row asks for. One compiled program serves rows that differ in all of it.

    Attributes:
        temperature, top_k, top_p, min_p: see `Sampling`.
        max_tokens: of thinking and answer together.
        stop_ids: tokens that end the answer and are no part of it; -1 where there are fewer.
    """

    temperature: Float[Leaf, "*B"]
    top_k: Int[Leaf, "*B"]
    top_p: Float[Leaf, "*B"]
    min_p: Float[Leaf, "*B"]
    max_tokens: Int[Leaf, "*B"]
    stop_ids: Int[Leaf, "*B N"]

    @classmethod
    def empty(cls, batch: int, stop_ids: int) -> "RowSettings":
        """Of empty slots, on the host, with room for so many `stop_ids`."""
        number, whole = np.zeros(batch, np.float32), np.zeros(batch, np.int32)
        return cls(number, whole, number.copy(), number.copy(), whole.copy(), np.full((batch, stop_ids), -1, np.int32))

    def spent(self, tokens: Int[Array, " B"]) -> Bool[Array, " B"]:
        """The rows that may write no more than so many tokens."""
        return tokens >= self.max_tokens

    def stops(self, token: Int[Array, " B"]) -> Bool[Array, " B"]:
        """The rows whose answer ends before this token."""
        return jnp.any(token[:, None] == self.stop_ids, axis=1)

    def choose(self, logits: Float[Array, "B V"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
        """The token that each row's `Sampling` would choose. What no row asks for is not computed."""
        greedy = self.temperature == 0
        best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        drawn = lax.cond(jnp.all(greedy), lambda: best, lambda: self._draw(logits, uniform))
        return jnp.where(greedy, best, drawn)

    def _draw(self, logits: Float[Array, "B V"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
        drawn = self.temperature > 0  # the others are left as they are, and ask for nothing
        logits = logits / jnp.where(drawn, self.temperature, 1)[:, None]
        few = drawn & (self.top_k > 0) & (self.top_k < logits.shape[-1])
        k = jnp.where(few, self.top_k, logits.shape[-1])[:, None]
        logits = lax.cond(jnp.any(few), lambda: jnp.where(_highest(logits, k), logits, -jnp.inf), lambda: logits)

        p = jax.nn.softmax(logits, axis=-1)
        floor = self.min_p[:, None] * p.max(axis=-1, keepdims=True)
        top_p = self.top_p[:, None]
        nucleus = drawn[:, None] & (top_p < 1)
        floor = lax.cond(
            jnp.any(nucleus),
            lambda: jnp.where(nucleus, jnp.maximum(floor, _nucleus_floor(p, top_p)), floor),
            lambda: floor,
        )
        return _draw(jnp.where(p >= floor, p, 0.0), uniform)


def _highest(values: Float[Array, "B V"], k: Int[Array, "B 1"]) -> Bool[Array, "B V"]:
    """The k highest values of each row, of equal ones the first, without a sort.

    Floats stand in the order of their bits, as whole numbers that are halved again and again to find the k-th highest.
    """
    bits = lax.bitcast_convert_type(jnp.where(values == 0, 0.0, values), jnp.int32)  # -0.0 is 0.0
    order = lax.bitcast_convert_type(bits ^ jnp.where(bits < 0, jnp.int32(-1), jnp.int32(-(2**31))), jnp.uint32)

    def halve(step: Array, least: Array) -> Array:
        higher = least | (jnp.uint32(1) << (31 - step).astype(jnp.uint32))
        return jnp.where(jnp.sum(order >= higher, axis=-1, keepdims=True) >= k, higher, least)

    least = lax.fori_loop(0, 32, halve, jnp.zeros(k.shape, jnp.uint32))
    above, equal = order > least, order == least
    return above | (equal & (jnp.cumsum(equal, axis=-1) <= k - jnp.sum(above, axis=-1, keepdims=True)))


def _nucleus_floor(p: Float[Array, "B V"], top_p: float | Float[Array, "B 1"]) -> Float[Array, "B 1"]:
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
