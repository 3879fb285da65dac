"""Annotated segments from files: run directories of `annotate`, its rows, and rows of the released format."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tessy_jax.data.inputs import BadRow, Reject, kind, present, row_object
from tessy_jax.data.released import from_released, is_released
from tessy_jax.data.segments import Annotated, Segment, StyleSpan, merge
from tessy_jax.data.sources import data_path, rows


def read_annotated(paths: Iterable[Path]) -> Iterator[Annotated | Reject]:
    """Every row of run directories of `annotate`, or of files of its or the released format.

    Released rows name their response by `id_ddm`; one without it is a response of its own.

    Raises:
      InputError: a path is missing, unreadable, of an unknown kind or empty.
    """
    released: Counter[str] = Counter()
    for path in paths:
        for row in rows(data_path(path)):
            identity: str | None = None
            try:
                value = row_object(row)
                identity = str(value.get("id", value.get("id_ddm", ""))) or None
                if is_released(value):
                    name = identity or hashlib.sha256(str(value["think_text"]).encode()).hexdigest()[:16]
                    text, spans = from_released(value)
                    yield Annotated(Segment(name, 0, released[name], None, text), spans)
                    released[name] += 1
                else:
                    yield _ours(value)
            except BadRow as problem:
                yield Reject.of(row, identity, str(problem))


def _ours(value: dict[str, Any]) -> Annotated:
    wanted: dict[str, type] = {"id": str, "sample_index": int, "segment": int, "text": str, "spans": list}
    for name, of in wanted.items():
        if name not in value:
            raise BadRow(f"no field '{name}': not a line of annotate, nor of the released format; {present(value)}")
        if not isinstance(value[name], of):
            raise BadRow(f"field '{name}' is {kind(value[name])}, not what annotate writes")
    text = value["text"]
    spans = [_span(text, span, f"spans[{i}]") for i, span in enumerate(value["spans"])]
    segment = Segment(value["id"], value["sample_index"], value["segment"], value.get("offset"), text)
    if not text.strip():
        raise BadRow("field 'text' is empty")
    return Annotated(segment, merge(spans), bool(value.get("truncated", False)))


def _span(text: str, span: Any, place: str) -> StyleSpan:
    start, end = (span.get("start"), span.get("end")) if isinstance(span, dict) else (None, None)
    if not isinstance(start, int) or not isinstance(end, int):
        raise BadRow(f"{place} must be an object with the characters start and end")
    if not 0 <= start < end <= len(text):
        raise BadRow(f"{place}: {start}..{end} leaves the text of {len(text)} characters")
    return StyleSpan(start, end)
