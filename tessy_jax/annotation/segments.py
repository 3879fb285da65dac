"""Segments of thinking text: windows of whole words, drawn by hash so that the same ones are drawn again."""

import hashlib
import re
from dataclasses import dataclass

from tessy_jax.data.segments import Segment

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Thoughts:
    """The thinking text of one response.

    Attributes:
        id, sample_index: of the response.
        text: without white space at its ends.
    """

    id: str
    sample_index: int
    text: str


def draw(thoughts: Thoughts, words: int, per_response: int, seed: int) -> list[Segment]:
    """At most `per_response` windows of `words` words (separated by white space), in the order of the text.

    The text is laid out in windows without overlap, from a word on that its hash decides; those with the lowest hashes
    are drawn. So a window depends on the response's id, sample and text and on the seed alone, and a higher
    `per_response` adds windows to those of a lower one. A text of fewer words is one window.
    """
    found = [match.span() for match in _WORD.finditer(thoughts.text)]
    if not found:
        return []
    words = min(words, len(found))
    count, spare = divmod(len(found), words)
    first = _hash(thoughts, seed, "first") % (spare + 1)
    drawn = sorted(range(count), key=lambda index: _hash(thoughts, seed, index))[:per_response]

    def segment(index: int) -> Segment:
        begin = first + index * words
        start, end = found[begin][0], found[begin + words - 1][1]
        return Segment(thoughts.id, thoughts.sample_index, index, start, thoughts.text[start:end])

    return [segment(index) for index in sorted(drawn)]


def _hash(thoughts: Thoughts, seed: int, what: str | int) -> int:
    name = repr((seed, thoughts.id, thoughts.sample_index, what))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
