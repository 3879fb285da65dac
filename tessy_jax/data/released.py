"""The record format of the released annotations: {"id_ddm", "think_text", "pred_result": [{"span", "start", "end"}]}.

`think_text` is the text of one segment; offsets are characters of it. Segments of one response share its `id_ddm`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tessy_jax.data.hashing import hash_text
from tessy_jax.data.inputs import BadRow, kind
from tessy_jax.data.segments import Annotated, Segment, StyleSpan, merge
from tessy_jax.text.boundaries import is_boundary


def is_released(row: Mapping[str, Any]) -> bool:
    """Whether a row is an annotated segment of the released format."""
    return "think_text" in row and "pred_result" in row


class ReleasedSegments:
    """Released rows as segments. They do not say which segment of its response each is: they are numbered as they come.

    rows of "a", "b", "a"  ->  segments a/0, b/0, a/1
    """

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def take(self, row: Mapping[str, Any], name: str | None) -> Annotated:
        """The next row, of the response with this name; without a name the row is a response of its own.

        Raises:
            BadRow: as for `from_released`.
        """
        text, spans = from_released(row)
        name = name or hash_text(text)[:16]
        index = self._taken[name]
        self._taken[name] += 1
        return Annotated(Segment(name, 0, index, None, text), spans)


def to_released(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of `annotate` in the released format."""
    text = row["text"]
    spans = [{"span": text[s["start"] : s["end"]], "start": s["start"], "end": s["end"]} for s in row["spans"]]
    return {"id_ddm": row["id"], "think_text": text, "pred_result": spans}


def from_released(row: Mapping[str, Any]) -> tuple[str, list[StyleSpan]]:
    """Text and spans of a released row, the spans sorted and without overlap.

    Raises:
        BadRow: a field is missing, or a span is not where it says, or it ends or begins within a word (the released
            script looked for phrases without word boundaries, so that "so" is also labelled inside "solution").
    """
    text, found = row.get("think_text"), row.get("pred_result")
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"field 'think_text' must be a text, not {kind(text) if not isinstance(text, str) else 'empty'}")
    if not isinstance(found, list):
        raise BadRow(f"field 'pred_result' must be a list, not {kind(found)}")
    return text, merge(_span(text, item, f"pred_result[{index}]") for index, item in enumerate(found))


def _span(text: str, item: Any, place: str) -> StyleSpan:
    if not isinstance(item, Mapping):
        raise BadRow(f"{place} must be an object with span, start and end, not {kind(item)}")
    start, end = (_offset(item, name, place) for name in ("start", "end"))
    if not 0 <= start < end <= len(text):
        raise BadRow(f"{place}: {start}..{end} leaves the text of {len(text)} characters")
    if text[start:end] != item.get("span"):
        raise BadRow(f"{place}: at {start}..{end} stands {text[start:end]!r}, not {item.get('span')!r}")
    if not (is_boundary(text, start) and is_boundary(text, end)):
        raise BadRow(f"{place}: {text[start:end]!r} stands inside a longer word")
    return StyleSpan(start, end)


def _offset(item: Mapping[str, Any], name: str, place: str) -> int:
    value = item.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRow(f"{place}.{name} must be an integer, not {kind(value)}")
    return value
