"""Which earlier tokens a token sees. One small object per kind of mask, so that attention has one code path.

Positions count from 0 in each row: `q` is that of the token that looks, `p` that of the token looked at.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

HIDDEN = jnp.finfo(jnp.float32).min
"""Score of what is not seen: finite, so that a token that sees nothing makes no NaN."""


@dataclass(frozen=True)
class Mask:
    """What all masks have in common: a token sees itself and earlier tokens only."""

    def reach(self, length: int) -> int:
        """How many tokens (itself included) the farthest-seeing of the first `length` tokens can see."""
        raise NotImplementedError

    def visible(self, q: Int[Array, "..."], p: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Whether the token at q sees the token at p, elementwise. Negative p means "no token" and is never seen."""
        raise NotImplementedError

    def slots(self, length: int, slack: int) -> int:
        """Cache slots for rows of up to `length` tokens, given `slack` >= chunk + deepest rollback (see cache.py)."""
        return min(length, self.reach(length) + slack)


@dataclass(frozen=True)
class Full(Mask):
    """Every earlier token."""

    def reach(self, length: int) -> int:
        return length

    def visible(self, q: Int[Array, "..."], p: Int[Array, "..."]) -> Bool[Array, "..."]:
        return (p >= 0) & (p <= q)


@dataclass(frozen=True)
class Sliding(Mask):
    """The last `window` tokens, the token itself included (HF: `kv > q - window`)."""

    window: int

    def __post_init__(self) -> None:
        _positive("Sliding.window", self.window)

    def reach(self, length: int) -> int:
        return min(length, self.window)

    def visible(self, q: Int[Array, "..."], p: Int[Array, "..."]) -> Bool[Array, "..."]:
        return (p >= 0) & (p <= q) & (q - p < self.window)


@dataclass(frozen=True)
class Blocks(Mask):
    """The token's own block of `block` tokens up to itself, and the whole block before: at most 2 * block tokens.

    With block 4, token 9 sees 4..9 and token 12 sees 8..12.
    """

    block: int

    def __post_init__(self) -> None:
        _positive("Blocks.block", self.block)

    def reach(self, length: int) -> int:
        return min(length, 2 * self.block)

    def visible(self, q: Int[Array, "..."], p: Int[Array, "..."]) -> Bool[Array, "..."]:
        # Floor division of a padding position (-1) gives an earlier start; it sees nothing anyway, as p >= 0 > q.
        start = jnp.maximum(0, (q // self.block - 1) * self.block)
        return (p >= start) & (p <= q)


class PackedMask(NamedTuple):
    """Who sees whom in rows that hold several documents: a token sees tokens of its own document, as `mask` says.

    Attributes:
        mask: within a document.
        segments: number of each token's document; each document of a row has its own.
        positions: of each token in its document, ascending by one; negative: padding, which nobody sees.
    """

    mask: Mask
    segments: Int[Array, "B T"]
    positions: Int[Array, "B T"]

    def visible(self) -> Bool[Array, "B T T"]:
        """Whether token i of a row (second axis) sees token j (third axis)."""
        same = self.segments[:, :, None] == self.segments[:, None, :]
        return same & self.mask.visible(self.positions[:, :, None], self.positions[:, None, :])


class RingMask(NamedTuple):
    """What new tokens see of the slots of a cache's rows, where the token at position p lies in slot p % slots.

    Attributes:
        mask: what a token sees.
        positions: of the new tokens in their rows; negative: padding, which sees nothing.
        slots: of a row. For a token at q slot s holds position q - ((q - s) mod slots), see cache.py.
    """

    mask: Mask
    positions: Int[Array, "B C"]
    slots: int

    def visible(self, at: Int[Array, " P"] | None = None) -> Bool[Array, "B C P"]:
        """Whether each token sees what the slots `at` hold; None: all slots."""
        looking = self.positions[:, :, None]
        held = looking - (looking - (jnp.arange(self.slots) if at is None else at)) % self.slots
        return self.mask.visible(looking, held)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}: a token sees at least itself, so give 1 or more.")
