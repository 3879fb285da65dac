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
    """A change of a list of tokens: drop the last `drop`, then append `ids`.

    Attributes:
        drop: how many tokens to drop.
        ids: the tokens to append.
        ends: the byte offset of the whole text at which each of `ids` ends.
    """

    drop: int
    ids: list[int]
    ends: list[int]


class Retokenizer:
    """Says how the canonical tokens of a text change with it. It has no state: the caller holds text and tokens."""

    def __init__(self, tokenizer: ContentTokenizer):
        self.tokenizer = tokenizer
        self._rule = sync_rule(tokenizer)

    def encode(self, text: bytes, start: int, end: int) -> tuple[list[int], list[int]]:
        """Ids of `text[start:end]` on its own, and where they end in `text`."""
        ids, ends = self.tokenizer.encode(bytes(text[start:end]))
        return ids, [start + e for e in ends]

    def edit(self, text: bytes, old: int, new: int) -> TokenEdit:
        """The change from the canonical tokens of `text[:old]` to those of `text[:new]`; either may be the longer.

        "one two" from 3 to 7: drop none, append [" two"]. From 6 to 7: drop [" tw"], append [" two"].

        Both offsets must stand between characters. The change is as small as can be: tokens equal in id and end are
        kept.
        """
        if old == new:
            return TokenEdit(0, [], [])
        start = self.sync_before(text, min(old, new))
        return change(self.encode(text, start, old), self.encode(text, start, new))

    def sync_before(self, text: bytes, known: int) -> int:
        """The last place p < `known` from which on the text may be tokenised by itself, whatever follows `known`.

        For every n >= `known` the tokens of `text[:n]` are those before p, always the same, and those of `text[p:n]`.
        0 where no such place is known.
        """
        return self._rule.last_sync(text, known)

    def prefix_stable(self, text: bytes, p: int) -> bool:
        """Whether the tokens of `text[:p]` begin those of `text[:q]` for each q > p, as far as the bytes around p tell.

        False: they may or may not, and encoding must decide.
        """
        return 0 < p < len(text) and self._rule.prefix_stable(text, p)

    def edit_through(self, text: bytes, old: int, word_ends: Sequence[int]) -> tuple[TokenEdit, int]:
        """One change that gives the canonical tokens at the end of each of several words, as far as one change can.

        The tokens of "one" begin those of "one two", which begin those of "one two three": the last of the three lists
        has the others in it. "a.\\n" and "a.\\n\\n" have no such list: ".\\n" is one token and ".\\n\\n" another.

        Args:
            old: where the text ended whose tokens are changed.
            word_ends: where the words end; ascending, not empty.

        Returns:
            The change from the tokens of `text[:old]` to those of `text[:word_ends[i]]`, and i: the last word such that
            the tokens at the end of each word up to it begin those at the end of the next.
        """
        reached = 0
        while reached + 1 < len(word_ends) and self._begins(text, word_ends[reached], word_ends[reached + 1]):
            reached += 1
        return self.edit(text, old, word_ends[reached]), reached

    def _begins(self, text: bytes, end: int, longer: int) -> bool:
        """Whether the tokens of `text[:end]` begin those of `text[:longer]`."""
        return self.prefix_stable(text, end) or self.edit(text, end, longer).drop == 0


def change(before: tuple[list[int], list[int]], after: tuple[list[int], list[int]]) -> TokenEdit:
    """The change from some tokens (ids, ends) to others: the first that differs is dropped, and all behind it."""
    same = 0
    for a, b in zip(zip(*before, strict=True), zip(*after, strict=True), strict=False):
        if a != b:
            break
        same += 1
    return TokenEdit(len(before[0]) - same, after[0][same:], after[1][same:])
