"""Segments of thinking text, and the style spans in them: what `annotate` writes and predictors learn from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class StyleSpan:
    """A half-open range of characters."""

    start: int
    end: int


def merge(spans: Iterable[StyleSpan]) -> list[StyleSpan]:
    """The same characters as sorted spans without overlap; spans that only touch stay two."""
    merged: list[StyleSpan] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            merged[-1] = StyleSpan(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


@dataclass(frozen=True)
class Segment:
    """A window of thinking text.

    Attributes:
      id, sample_index: of the response.
      index: number of the window; windows of one response do not overlap.
      start: character of the thinking text at which it begins; None: not known.
      text: from its first word to its last.
    """

    id: str
    sample_index: int
    index: int
    start: int | None
    text: str

    @property
    def key(self) -> tuple[str, int, int]:
        """Unique within a run."""
        return self.id, self.sample_index, self.index


@dataclass(frozen=True)
class Annotated:
    """A segment with its style spans: characters of its text, sorted, without overlap.

    `truncated`: the reply was cut off, so that spans at the end may be missing.
    """

    segment: Segment
    spans: list[StyleSpan]
    truncated: bool = False

    def to_row(self, annotator: str) -> dict[str, Any]:
        """The line of the output."""
        row = {
            "id": self.segment.id,
            "sample_index": self.segment.sample_index,
            "segment": self.segment.index,
            "offset": self.segment.start,
            "text": self.segment.text,
            "spans": [{"start": span.start, "end": span.end} for span in self.spans],
            "annotator": annotator,
        }
        return row | {"truncated": True} if self.truncated else row
