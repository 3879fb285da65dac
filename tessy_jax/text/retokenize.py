"""Canonical tokens of a growing text, without encoding the whole text each time.

`encode(text[:n])` is by definition the canonical tokenisation of the first n bytes. When the text grows or is rolled
back, only the tokens behind the last *sync point* can change; `sync.py` says where those are and proves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessy_jax.text.sync import sync_rule
from tessy_jax.text.tokenizer import ContentTokenizer


@dataclass(frozen=True)
class TokenEdit:
    """A change of a token buffer: forget the last `drop` tokens, then append `ids`, which end at the byte offsets
    `ends` of the whole text.
    """

    drop: int
    ids: list[int]
    ends: list[int]


class Retokenizer:
    """Keeps a token buffer canonical while its text changes. It has no state: the caller holds text and tokens."""

    def __init__(self, tokenizer: ContentTokenizer):
        self.tokenizer = tokenizer
        self._rule = sync_rule(tokenizer)

    def encode(self, text: bytes, start: int, end: int) -> tuple[list[int], list[int]]:
        """Ids of `text[start:end]` on its own, and where they end in `text`."""
        ids, ends = self.tokenizer.encode(bytes(text[start:end]))
        return ids, [start + e for e in ends]

    def tail(self, text: bytes, old: int, new: int) -> TokenEdit:
        """The change from the canonical tokens of `text[:old]` to those of `text[:new]`; either may be the longer.

        Both offsets must stand between characters. The result is as small as can be: tokens equal in id and end are
        kept.
        """
        if old == new:
            return TokenEdit(0, [], [])
        start = self.sync_before(text, min(old, new))
        return change(self.encode(text, start, old), self.encode(text, start, new))

    def sync_before(self, text: bytes, known: int) -> int:
        """The last p such that the tokens of `text[:n]` are those before p, the same for every n >= known, and those
        of `text[p:n]`; 0 if none.
        """
        return self._rule.last_sync(text, known)

    def prefix_stable(self, text: bytes, p: int) -> bool:
        """Whether it is certain, seen from the bytes around p alone, that `encode(text[:p])` begins
        `encode(text[:q])` for each q > p.

        `False` means that encoding must decide.
        """
        return 0 < p < len(text) and self._rule.prefix_stable(text, p)

    def nested(self, text: bytes, old: int, word_ends: Sequence[int]) -> tuple[TokenEdit, int]:
        """The change to the tokens of one of several words, from which the tokens of every word before it can be read.

        `word_ends` (ascending, not empty) are the ends of words; the result is the change from `text[:old]` to
        `text[:word_ends[i]]`, and i: the furthest word reached while each word's canonical tokens begin the next
        one's.
        """
        reached = 0
        while reached + 1 < len(word_ends) and self._begins(text, word_ends[reached], word_ends[reached + 1]):
            reached += 1
        return self.tail(text, old, word_ends[reached]), reached

    def _begins(self, text: bytes, end: int, longer: int) -> bool:
        """Whether the tokens of `text[:end]` begin those of `text[:longer]`."""
        return self.prefix_stable(text, end) or self.tail(text, end, longer).drop == 0


def change(before: tuple[list[int], list[int]], after: tuple[list[int], list[int]]) -> TokenEdit:
    """The change from one list of (ids, ends) to another: tokens are dropped from the first that differs on."""
    same = 0
    for a, b in zip(zip(*before, strict=True), zip(*after, strict=True), strict=False):
        if a != b:
            break
        same += 1
    return TokenEdit(len(before[0]) - same, after[0][same:], after[1][same:])
