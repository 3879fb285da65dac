"""Segments of thinking text, and the style spans in them: what `annotate` writes and predictors learn from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from tessy_jax.data.inputs import BadRow, kind, present

SegmentKey = tuple[str, int, int]
"""Which segment of an annotation: id and sample of the response, and number of the segment."""

_FIELDS: dict[str, type] = {"id": str, "sample_index": int, "segment": int, "text": str, "spans": list}
"""Fields that every line of `annotate` has."""


@dataclass(frozen=True, order=True)
class StyleSpan:
    """A half-open range of characters."""

    start: int
    end: int


def merge(spans: Iterable[StyleSpan]) -> list[StyleSpan]:
    """The same characters as sorted spans without overlap; spans that only touch stay two.

    0..4, 2..6, 6..8  ->  0..6, 6..8
    """
    merged: list[StyleSpan] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            merged[-1] = StyleSpan(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


@dataclass(frozen=True)
class Segment:
    """A part of the thinking text of one response.

    Attributes:
        id, sample_index: of the response.
        index: number of the segment in its response; segments of one response do not overlap.
        start: character of the thinking text at which it begins; None: not known.
        text: from its first word to its last.
    """

    id: str
    sample_index: int
    index: int
    start: int | None
    text: str

    @property
    def key(self) -> SegmentKey:
        """Tells the segment apart from all others of a run."""
        return self.id, self.sample_index, self.index


@dataclass(frozen=True)
class Annotated:
    """A segment whose style was found.

    Attributes:
        spans: where the style is: characters of the segment's text, sorted, without overlap.
        truncated: the annotator's reply was cut off, so that spans at the end may be missing.
    """

    segment: Segment
    spans: list[StyleSpan]
    truncated: bool = False

    def to_row(self, annotator: str) -> dict[str, Any]:
        """The line of `annotate` that says so; `annotator` is the name of who found the spans."""
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

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """The inverse of `to_row`, the annotator's name apart.

        Raises:
            BadRow: a field is missing or wrong, or a span is not within the text.
        """
        for name, wanted in _FIELDS.items():
            if name not in row:
                raise BadRow(f"no field '{name}': not a line of annotate, nor of the released format; {present(row)}")
            if not isinstance(row[name], wanted):
                raise BadRow(f"field '{name}' is {kind(row[name])}, not what annotate writes")
        text = row["text"]
        spans = [_span(text, span, f"spans[{index}]") for index, span in enumerate(row["spans"])]
        if not text.strip():
            raise BadRow("field 'text' is empty")
        segment = Segment(row["id"], row["sample_index"], row["segment"], row.get("offset"), text)
        return cls(segment, merge(spans), bool(row.get("truncated", False)))


def _span(text: str, span: Any, place: str) -> StyleSpan:
    start, end = (span.get("start"), span.get("end")) if isinstance(span, dict) else (None, None)
    if not isinstance(start, int) or not isinstance(end, int):
        raise BadRow(f"{place} must be an object with the characters start and end")
    if not 0 <= start < end <= len(text):
        raise BadRow(f"{place}: {start}..{end} leaves the text of {len(text)} characters")
    return StyleSpan(start, end)
