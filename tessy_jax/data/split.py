"""Which rows are held out: decided by a hash of the id of their prompt."""

import hashlib
from collections.abc import Sequence

from tessy_jax.data.sources import InputError


def held_out(ids: Sequence[str], share: float) -> list[bool]:
    """Whether each row is held out, decided by the id of its prompt alone: segments of one response, and responses to
    one prompt, are always on one side. At least one prompt is on each side; share 0 holds out nothing.

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
