"""Words and loops on the device: what `text.cuts` finds, in a window of each row's bytes."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt8

from tessy_jax.text.repetition import Repetition
from tessy_jax.text.words import LONG_WORD
from tessy_jax.text_jax.arrays import behind, gather
from tessy_jax.text_jax.characters import CharClass, is_lead, is_white, next_kind

NONE = np.iinfo(np.int32).max
"""Where there is no place."""


def first(where: Bool[Array, "B X"]) -> Int[Array, " B"]:
    """The first place where it holds, or NONE."""
    return jnp.min(jnp.where(where, jnp.arange(where.shape[1]), NONE), axis=1)


def word_ends(
    text: UInt8[Array, "B X"],
    kind: UInt8[Array, "B X"],
    sampled: Bool[Array, "B X"],
    start: int,
    limit: int,
) -> tuple[Int[Array, "B W"], Bool[Array, " B"]]:
    """Where the complete words from `start` on end, W = `limit` of them at most, NONE beyond; and whether there are
    more. See `cuts.next_cut`; a character of kind UNKNOWN decides nothing.

    Args:
        text, kind: the bytes of the window, and the kinds of their characters (OUTSIDE: not known).
        sampled: places where a sampled token ends.
    """
    before, after = behind(kind, 1), next_kind(text, kind)
    line = (before == CharClass.NEWLINE) & (kind != CharClass.NEWLINE) & (kind != CharClass.OUTSIDE)
    space = (kind == CharClass.SPACE) & ~is_white(before)
    unknown = (after == CharClass.OUTSIDE) | (after == CharClass.UNKNOWN) | (before == CharClass.UNKNOWN)
    undecided = space & unknown
    cut = line | (space & ~unknown & ~is_white(after))
    long = sampled & is_lead(text) & (kind != CharClass.OUTSIDE)
    at = jnp.arange(text.shape[1])

    def following(last: Int[Array, " B"]) -> Int[Array, " B"]:
        near = first((cut | undecided) & (at > last[:, None]))
        far = first(long & (at >= last[:, None] + LONG_WORD))
        waits = jnp.any(undecided & (at == near[:, None]), axis=1)
        return jnp.where(near < far, jnp.where(waits, NONE, near), far)

    def step(carry: tuple) -> tuple:
        ends, last, i = carry
        found = jnp.where(last == NONE, NONE, following(jnp.minimum(last, text.shape[1])))
        return ends.at[:, i].set(found), found, i + 1

    def going_on(carry: tuple) -> Bool[Array, ""]:
        _, last, i = carry
        return (i <= limit) & jnp.any(last != NONE)

    rows = text.shape[0]
    none = jnp.full((rows, limit + 1), NONE)
    ends, _, _ = lax.while_loop(going_on, step, (none, jnp.full(rows, start), jnp.zeros((), jnp.int32)))
    return ends[:, :limit], ends[:, limit] != NONE


def may_loop(text: UInt8[Array, "B X"], ends: Int[Array, "B W"], rule: Repetition) -> Bool[Array, " B"]:
    """Whether the text may loop (`Repetition.loops`) at one of `ends`, places in the window; NONE are none.

    It compares the hash of the last bytes with those of the same number of bytes, up to `max_unit` bytes earlier: equal
    bytes have equal hashes. The window must begin `look_back(rule)` before the first of `ends`, or earlier.
    """
    base = np.uint32(0x01000193)
    powers = np.cumprod(np.full(text.shape[1] + 1, base, np.uint32), dtype=np.uint32)
    sums = jnp.pad(jnp.cumsum(text.astype(jnp.uint32) * powers[1:], axis=1, dtype=jnp.uint32), ((0, 0), (1, 0)))
    hashes = sums - behind(sums, rule.probe_bytes)
    units = np.arange(1, rule.max_unit + 1)
    here = jnp.where(ends == NONE, 0, ends)
    now = gather(hashes, here)[:, :, None]
    places = here[:, :, None] - units
    earlier = gather(hashes, places.reshape(len(text), -1)).reshape(places.shape)
    same = now == earlier * powers[units - 1]
    return jnp.any(same & (ends != NONE)[:, :, None], axis=(1, 2))


def look_back(rule: Repetition) -> int:
    """Bytes before a place that `may_loop` reads."""
    return rule.max_unit + rule.probe_bytes
