"""Which rows are held out: decided by a hash of their prompt, so that all rows of a prompt are on one side.

A row's side does not depend on the other rows, so it keeps it when data are added (but for the one prompt that is moved
so that neither side is empty).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt64

from tessy_jax.data.sources import InputError


def hash_number(text: str) -> int:
    """The first 64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def held_out(ids: Sequence[str], share: float) -> list[bool]:
    """Whether each row is held out, by the id of its prompt: segments of one response, and responses to one prompt, are
    always on one side. At least one prompt is on each side; share 0 holds out nothing.

    Raises:
        InputError: there are fewer than two prompts.
    """
    wrong = "held_out: the segments are of one prompt only, which cannot be on both sides: annotate more"
    return held_out_numbers(np.array([hash_number(name) for name in ids], np.uint64), share, wrong).tolist()


def held_out_numbers(numbers: UInt64[np.ndarray, " N"], share: float, wrong: str) -> Bool[np.ndarray, " N"]:
    """Whether each row is held out, by the `hash_number` of its prompt: the numbers below `share` x 2^64 are.

    Args:
        wrong: the error's text where there are fewer than two prompts.

    Raises:
        InputError: there are fewer than two prompts, and the share is not 0.
    """
    if share == 0:
        return np.zeros(len(numbers), bool)
    ordered = np.unique(numbers)
    if len(ordered) < 2:
        raise InputError(wrong)
    count = int(np.searchsorted(ordered, np.uint64(share * 2**64)))
    return numbers < ordered[min(max(count, 1), len(ordered) - 1)]
