"""Which rows are held out for evaluation: a hash of the id of their prompt decides."""

import hashlib
from collections.abc import Sequence

from tessy_jax.data.sources import InputError


def held_out(ids: Sequence[str], share: float) -> list[bool]:
    """Whether each row is held out. All rows of one prompt (its responses, and the segments of these) are on one side,
    and other rows do not matter, except that each side has at least one prompt.

    Args:
        ids: of the prompt of each row.
        share: of the prompts to hold out, from 0 to 1; 0 holds out nothing.

    Raises:
        InputError: there are fewer than two prompts.
    """
    if share == 0:
        return [False] * len(ids)
    number = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in set(ids)}
    ordered = sorted(number.values())
    if len(ordered) < 2:
        raise InputError("held_out: the segments are of one prompt only, which cannot be on both sides: annotate more")
    count = sum(value < share * 2**64 for value in ordered)
    border = ordered[min(max(count, 1), len(ordered) - 1)]
    return [number[name] < border for name in ids]
