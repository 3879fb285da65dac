"""Byte-pair encoding on the device: whether tokens side by side are how their bytes are encoded, without encoding.

Inside a pre-token the canonical tokens are those in which *every two neighbours are the encoding of their own
bytes*. For let all of them be, and let a merge go over a border at some step of the encoding: until then nothing went
over any border, so each token was put together as it is alone, in the same order; then the same merge was the best of
those two tokens' bytes too, and the two of them would be encoded otherwise. (The converse holds as well: bytes of two
neighbours are encoded as they are in the whole.)

Two tokens are the encoding of their bytes if no merge joins a part x that ends the left one with a part y that begins
the right one while both are there. Ranks only grow on the way (a merge's rank is above those that make its halves), so
x is there from its own rank to that of the merge that takes it up, y likewise, and looking at all such pairs takes
one walk down the right edge of the left token's tree and the left edge of the right one's.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from tessy_jax.text.tokenizer import BYTE_OF, ContentTokenizer, halves
from tessy_jax.text_jax.arrays import Leaf

NEVER = np.iinfo(np.int32).max
"""Rank of a merge that does not exist: above all others."""


class Merges(struct.PyTreeNode):
    """A vocabulary's merges. Their rank is their number in tokenizer.json: lower ones are done first.

    Attributes:
        buckets: (left, right, rank) of each merge, in U buckets of W by `_bucket`; -1 where one is not full.
        rank: of the merge that makes each token, -1 where none does.
        left, right: the two tokens that this merge joins.
        alone: whether a token's bytes are encoded as that token, by merges that are known here. A token that two
            merges make, or none, is not.
    """

    buckets: Int[Leaf, "U W 3"]
    rank: Int[Leaf, " V"]
    left: Int[Leaf, " V"]
    right: Int[Leaf, " V"]
    alone: Bool[Leaf, " V"]

    @classmethod
    def of(cls, tokenizer: ContentTokenizer) -> "Merges | None":
        """The tables of a byte-level vocabulary; None where encoding a pre-token is not just merging."""
        model = tokenizer.spec["model"]
        ids = model["vocab"]
        odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk")
        if not tokenizer.byte_level or any(model.get(key) for key in odd):
            return None
        pairs = [halves(merge) for merge in model["merges"]]
        merges = np.array([(ids[a], ids[b], ids[a + b]) for a, b in pairs], np.int32).reshape(-1, 3)
        size = tokenizer.vocab_size
        rank, left, right = np.full(size, -1, np.int32), *np.zeros((2, size), np.int32)
        order = np.arange(len(merges), dtype=np.int32)
        rank[merges[:, 2]], left[merges[:, 2]], right[merges[:, 2]] = order, merges[:, 0], merges[:, 1]
        tables = cls(_buckets(merges[:, :2]), rank, left, right, np.zeros(size, bool))
        alone = _alone(tables, merges, [ids[byte] for byte in BYTE_OF if byte in ids])
        if model.get("ignore_merges") and not alone[list(ids.values())].all():
            return None  # there a whole pre-token may be a token that no merges make
        return tables.replace(alone=alone)

    def joined(self, left: Int[Array, "*S"], right: Int[Array, "*S"]) -> Bool[Array, "*S"]:
        """Whether two neighbours are the encoding of their bytes. Both must be `alone`."""
        return ~self._crossed(left, right, jnp.full(left.shape, NEVER))

    def _crossed(self, left: Array, right: Array, until: Array) -> Array:
        """Whether a merge of a rank below `until` goes over the border of two tokens while they are put together."""

        rank, left_half, right_half = (jnp.asarray(a) for a in (self.rank, self.left, self.right))

        def climbing_down(carry: tuple) -> Array:
            x, y, _, _, crossed = carry
            return jnp.any(~crossed & (jnp.maximum(rank[x], rank[y]) >= 0))

        def step(carry: tuple) -> tuple:
            x, y, x_until, y_until, crossed = carry
            rank_x, rank_y = rank[x], rank[y]
            # The later merge is undone. One rule that makes both makes the left one first.
            x_first = rank_x > rank_y
            some = jnp.maximum(rank_x, rank_y) >= 0
            x_until = jnp.where(some & x_first, rank_x, x_until)
            y_until = jnp.where(some & ~x_first, rank_y, y_until)
            x = jnp.where(some & x_first, right_half[x], x)
            y = jnp.where(some & ~x_first, left_half[y], y)
            return x, y, x_until, y_until, crossed | self._merges(x, y, x_until, y_until)

        crossed = self._merges(left, right, until, until)
        return lax.while_loop(climbing_down, step, (left, right, until, until, crossed))[-1]

    def _merges(self, x: Array, y: Array, x_until: Array, y_until: Array) -> Array:
        """Whether x and y merge before another merge takes one of them up; of equal ones the left one comes first."""
        buckets = jnp.asarray(self.buckets)
        found = buckets[_bucket(x, y, len(buckets))]
        hit = (found[..., 0] == x[..., None]) & (found[..., 1] == y[..., None])
        rank = jnp.min(jnp.where(hit, found[..., 2], NEVER), axis=-1)
        return (rank < x_until) & (rank <= y_until)


def _bucket(left: Any, right: Any, count: int) -> Any:
    """The bucket of a pair; `count` is a power of two."""
    mixed = left.astype(jnp.uint32) * np.uint32(0x9E3779B1) ^ right.astype(jnp.uint32) * np.uint32(0x85EBCA77)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    return ((mixed ^ (mixed >> np.uint32(13))) & np.uint32(count - 1)).astype(jnp.int32)


def _buckets(pairs: np.ndarray) -> np.ndarray:
    """Merges by bucket, two in each on average."""
    count = 1 << max(0, (len(pairs) // 2).bit_length())
    where = _bucket(pairs[:, 0], pairs[:, 1], count)
    order = np.argsort(where, kind="stable")
    first = np.searchsorted(where[order], np.arange(count))
    place = np.arange(len(pairs)) - first[where[order]]
    table = np.full((count, int(place.max(initial=0)) + 1, 3), -1, np.int32)
    table[where[order], place] = np.concatenate([pairs[order], order[:, None]], axis=1)
    return table


def _alone(tables: Merges, merges: np.ndarray, single: list[int]) -> np.ndarray:
    """`Merges.alone`: bytes, and tokens of good halves whose border nothing crosses before they are joined."""
    rank = tables.rank
    made = np.bincount(merges[:, 2], minlength=len(rank))
    early = np.arange(len(merges)) <= np.maximum(rank[merges[:, 0]], rank[merges[:, 1]])
    whole = made == 1
    whole &= ~np.asarray(jax.jit(Merges._crossed)(tables, tables.left, tables.right, rank))
    whole[single] = made[single] == 0
    whole[merges[early, :2].ravel()] = False
    while True:  # as often as the deepest tree is deep
        halves_too = whole & ((rank == -1) | (whole[tables.left] & whole[tables.right]))
        if (halves_too == whole).all():
            return whole
        whole = halves_too
