"""Words and loops on the device: what `text.words` and `text.repetition` find, in a window of each row's bytes."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt8

from tessy_jax.text.repetition import Repetition
from tessy_jax.text.words import LONG_WORD
from tessy_jax.text_jax.arrays import behind, gather
from tessy_jax.text_jax.characters import CharClass, is_lead, is_white, next_class

NONE = np.iinfo(np.int32).max
"""Where there is no place."""


def first(where: Bool[Array, "B X"]) -> Int[Array, " B"]:
    """The first place of each row where it holds, or NONE."""
    return jnp.min(jnp.where(where, jnp.arange(where.shape[1]), NONE), axis=1)


def word_ends(
    text: UInt8[Array, "B X"],
    classes: UInt8[Array, "B X"],
    sampled: Bool[Array, "B X"],
    start: int,
    limit: int,
) -> tuple[Int[Array, "B W"], Bool[Array, " B"]]:
    """The ends of the complete words from `start` on, as `text.words.next_cut` finds them.

    Args:
        text: the bytes of the window.
        classes: the classes of their characters: OUTSIDE is what is not known yet, and UNKNOWN decides nothing.
        sampled: places where a sampled token ends.
        start: where the first word begins.
        limit: W, how many words to find at most.

    Returns:
        The end of each word, NONE beyond the last; and whether there are more than `limit`.
    """
    before, after = behind(classes, 1), next_class(text, classes)
    line = (before == CharClass.NEWLINE) & (classes != CharClass.NEWLINE) & (classes != CharClass.OUTSIDE)
    space = (classes == CharClass.SPACE) & ~is_white(before)
    unknown = (after == CharClass.OUTSIDE) | (after == CharClass.UNKNOWN) | (before == CharClass.UNKNOWN)
    undecided = space & unknown
    cut = line | (space & ~unknown & ~is_white(after))
    long = sampled & is_lead(text) & (classes != CharClass.OUTSIDE)
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
    """Whether the text up to one of `ends` may end in a loop (`Repetition.loops`). Where it says no, there is none.

    A loop's last bytes stand in the text once more, a unit earlier. So their hash is compared with those of as many
    bytes that end 1 to `max_unit` bytes earlier.

    Args:
        text: the bytes of the window, which begins `look_back(rule)` bytes before the first of `ends`, or earlier.
        ends: places in the window; NONE: no place.
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
    """How many bytes before a place `may_loop` reads."""
    return rule.max_unit + rule.probe_bytes
