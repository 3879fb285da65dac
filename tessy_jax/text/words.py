"""Words: where a span may end (the cut points of a trace), and the end of thinking in text.

A cut point is a function of the bytes and of the ends of the sampled tokens alone, and it is confirmed by bytes after
it. So text seen byte by byte has the same cut points as text seen at once, which makes a trace independent of how
many tokens are generated per turn.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

LONG_WORD = 48
"""Bytes after which a word may end at the end of any sampled token."""

# The characters with the Unicode property White_Space, in UTF-8.
_SPACE = rb"(?:[\t-\r ]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80)"
_BLANK = re.compile(_SPACE + rb"+")
_ONE_SPACE = re.compile(_SPACE)
# All that may begin one of them and is not yet one: more bytes are needed to tell.
_MAYBE_SPACE = re.compile(rb"\xc2|\xe1(?:\x9a)?|\xe2(?:[\x80\x81])?|\xe3(?:\x80)?")


def is_blank(word: bytes) -> bool:
    """Whether a word (whole characters) is white space only."""
    return _BLANK.fullmatch(word) is not None


def _space_at(text: bytes, at: int, known: int) -> bool | None:
    """Whether the character at `at` is white space; `None` while too few bytes are known to tell."""
    if at >= known:
        return None
    if text[at] < 0x80:
        return text[at] == 0x20 or 0x09 <= text[at] <= 0x0D
    if _ONE_SPACE.match(text, at, known):
        return True
    return None if _MAYBE_SPACE.fullmatch(text, at, known) else False


def _space_before(text: bytes, at: int) -> bool:
    return any(_ONE_SPACE.fullmatch(text, max(0, at - width), at) for width in (1, 2, 3))


def next_cut(
    text: bytes, last: int, ends: Sequence[int], known: int, *, closed: bool = False, long_word: int = LONG_WORD
) -> int | None:
    """The first cut point after `last`, or `None` while the bytes below `known` do not confirm one.

    Args:
        text: the whole buffer, UTF-8; only bytes below `known` are read.
        last: the previous cut point (or where the words begin).
        ends: byte offsets where sampled tokens end, ascending.
        known: how many bytes of `text` there are.
        closed: nothing follows `known` (a structural event): what is left after the last cut point is the final word.
        long_word: bytes after which a word may end at any of `ends` that ends a whole character.

    A cut point is one of: (1) before a single space that follows a non-space and is followed by a non-space; (2) just
    after a run of CR and LF; (3) an end in `ends`, at least `long_word` bytes after `last`. The first position whose
    bytes do not yet decide stops the search, so a later one is never returned before it.
    """
    stop = known
    for i in range(bisect_left(ends, last + long_word), len(ends)):
        if ends[i] >= known:
            break
        if text[ends[i]] & 0xC0 != 0x80:
            stop = ends[i]
            break
    for p in range(last + 1, stop):
        if text[p - 1] in b"\r\n":
            if text[p] not in b"\r\n":
                return p
        elif text[p] == 0x20 and not _space_before(text, p):
            blank = _space_at(text, p + 1, known)
            if blank is None and not closed:
                return None
            if blank is False:
                return p
    if stop < known:
        return stop
    return known if closed and last < known else None


@dataclass(frozen=True)
class CompleteWords:
    """The complete words of a stretch of text, and what ends it.

    Attributes:
        ends: byte offsets where they end.
        blank: whether each is white space only.
        event_at: where the text ends because thinking ended; None: it did not, or not within the limit of words.
        more: whether there are more complete words than the limit.
    """

    ends: list[int]
    blank: list[bool]
    event_at: int | None
    more: bool


def words(
    text: bytes, start: int, ends: Sequence[int], known: int, marker: bytes | None, event: bool, limit: int
) -> CompleteWords:
    """The complete words of `text[start:known]`, in order (docs/algorithm.md, "Words" and "End of thinking").

    "one two thr" has the words "one" and " two", which end at 3 and 7; " thr" may go on.

    Args:
        text: the whole buffer, UTF-8; only bytes below `known` are read.
        start: where the first word begins.
        ends: byte offsets where sampled tokens end, ascending.
        known: how many bytes of `text` there are.
        marker: a textual end of thinking, if the model has one. It counts when it lies behind the last cut point
            confirmed before its own last byte; it then completes the final word, and nothing behind it exists.
        event: a structural token was sampled at `known`, so that the rest is the final word.
        limit: how many words to return at most.
    """
    found: list[int] = []
    last = start
    while True:
        at = text.find(marker, last, known) if marker else -1
        # With the marker's last byte the text ends; before it, the marker is ordinary text.
        cut = next_cut(text, last, ends, known) if at < 0 else next_cut(text, last, ends, at + len(marker or b"") - 1)
        event_at = None
        if cut is None and (at >= 0 or event):
            event_at = at if at >= 0 else known
            cut = _final(text, last, ends, event_at)
        if cut is None or cut == last:
            return _words(text, start, found, event_at, False)
        if len(found) == limit:
            return _words(text, start, found, None, True)
        found.append(cut)
        last = cut
        if event_at == cut:
            return _words(text, start, found, event_at, False)


def _final(text: bytes, last: int, ends: Sequence[int], event_at: int) -> int:
    """The next cut point of text that ends at `event_at`."""
    return next_cut(text, last, ends, event_at, closed=True) or last


def _words(text: bytes, start: int, found: list[int], event_at: int | None, more: bool) -> CompleteWords:
    starts = [start, *found[:-1]]
    return CompleteWords(found, [is_blank(text[a:b]) for a, b in zip(starts, found, strict=False)], event_at, more)
