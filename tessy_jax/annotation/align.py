"""Where the phrases that an annotator listed stand in the text.

Phrases are looked for verbatim, in the order of the list, case included; only white space is free: any run of it in a
phrase stands for any run of it in the text, and none is needed at a phrase's ends. A phrase begins and ends at word
boundaries, so that "so" is not found inside "solution", "it" not inside "it's", and "so" not inside "so-called".
"""

import re
from collections.abc import Iterable, Sequence

from tessy_jax.data.segments import StyleSpan
from tessy_jax.text.boundaries import is_boundary


class AlignError(ValueError):
    """A phrase is not in the text where it should be; the message says which and why."""


def locate(text: str, phrases: Iterable[str]) -> list[StyleSpan]:
    """The spans of `phrases`, one each, in order.

    Each phrase is found as early as possible after the end of the one before. Where the list does not fit that way, a
    phrase may overlap the one before, as long as it does not begin before it and is not the same span again.

    Raises:
        AlignError: a phrase is empty, not in the text, inside a longer word only, or out of order.
    """
    candidates = [(phrase, occurrences(text, phrase)) for phrase in phrases]
    for phrase, found in candidates:
        if not found:
            raise AlignError(_absent(text, phrase))
    return _in_order(candidates, overlapping=False) or _in_order(candidates, overlapping=True) or _refuse(candidates)


def occurrences(text: str, phrase: str) -> list[StyleSpan]:
    """All places at which a phrase stands between word boundaries, also overlapping ones."""
    return [span for span in _matches(text, phrase) if is_boundary(text, span.start) and is_boundary(text, span.end)]


def _matches(text: str, phrase: str) -> list[StyleSpan]:
    """All places of a phrase, inside words too."""
    words = phrase.split()
    if not words:
        return []
    pattern = r"\s+".join(map(re.escape, words))
    return [StyleSpan(m.start(1), m.end(1)) for m in re.finditer(rf"(?=({pattern}))", text)]


def _in_order(candidates: Sequence[tuple[str, list[StyleSpan]]], overlapping: bool) -> list[StyleSpan]:
    """The earliest span of each phrase that fits behind the one before; empty where there is none."""
    placed: list[StyleSpan] = []
    for _, found in candidates:
        last = placed[-1] if placed else StyleSpan(0, 0)
        fits = (s for s in found if (last.start <= s.start and s not in placed if overlapping else last.end <= s.start))
        span = next(fits, None)
        if span is None:
            return []
        placed.append(span)
    return placed


def _refuse(candidates: Sequence[tuple[str, list[StyleSpan]]]) -> list[StyleSpan]:
    """Raises AlignError for the first phrase that has no place behind those before it; no phrases have no places."""
    for count in range(1, len(candidates) + 1):
        if not _in_order(candidates[:count], overlapping=True):
            phrase, found = candidates[count - 1]
            listed = sum(other == phrase for other, _ in candidates[:count])
            if listed > len(found):
                raise AlignError(f"{phrase!r} is listed {listed} times and stands in the text {len(found)} times")
            raise AlignError(f"{phrase!r} is out of order: it stands before the phrase listed before it")
    return []


def _absent(text: str, phrase: str) -> str:
    if not phrase.strip():
        return "an empty phrase"
    if inside := _matches(text, phrase):
        start, end = inside[0].start, inside[0].end
        while not is_boundary(text, start):
            start -= 1
        while not is_boundary(text, end):
            end += 1
        return f"{phrase!r} stands only inside a longer word: {text[start:end]!r}"
    return f"{phrase!r} is not in the text"
