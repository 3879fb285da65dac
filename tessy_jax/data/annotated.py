"""Annotated segments from files: run directories of `annotate`, its lines, and rows of the released format."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tessy_jax.data.inputs import BadRow, Reject, row_object, why
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.released import ReleasedSegments, is_released
from tessy_jax.data.segments import Annotated, SegmentKey
from tessy_jax.data.sources import InputError, data_path, files, rows

ConvertedT = TypeVar("ConvertedT")


def read_annotated(paths: Iterable[Path]) -> Iterator[Annotated | Reject]:
    """Every row of run directories of `annotate`, or of files of its or the released format; a row that cannot be used
    comes as a `Reject`, and the reading goes on.

    Raises:
        InputError: a path is missing, unreadable, of an unknown kind or empty.
    """
    return convert_annotated(paths, lambda found: found)


def convert_annotated(
    paths: Iterable[Path], convert: Callable[[Annotated], ConvertedT]
) -> Iterator[ConvertedT | Reject]:
    """What `convert` makes of every row of `read_annotated`; a row for which it raises anything comes as a `Reject`."""
    released = ReleasedSegments()
    for path in paths:
        for row in rows(data_path(path)):
            identity: str | None = None
            try:
                value = row_object(row)
                identity = str(value.get("id", value.get("id_ddm", ""))) or None
                found = released.take(value, identity) if is_released(value) else Annotated.from_row(value)
                converted = convert(found)
            except Exception as problem:
                yield Reject.of(row, identity, why(problem))
            else:
                yield converted


def read_annotation(path: Path) -> dict[SegmentKey, Annotated]:
    """All that one run of `annotate` has written so far, by segment; a line that is still being written is left out.

    Raises:
        InputError: the path is missing or has no files of rows, or a line is no annotated segment.
    """
    if not path.expanduser().exists():
        raise InputError(f"no such file or folder: {path}")
    found = {}
    for file in files(data_path(path)):
        for line, row in read_objects(file):
            try:
                annotated = Annotated.from_row(row or {})
            except BadRow:
                raise InputError(
                    f"line {line} of {file} is no annotated segment: give the directories of two `annotate` runs"
                ) from None
            found[annotated.segment.key] = annotated
    return found
