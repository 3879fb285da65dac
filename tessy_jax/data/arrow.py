"""Rows of Parquet and Arrow files; in the place of one that cannot be read, its error."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

_BATCH = 256
"""Rows of a Parquet file held in memory at a time."""

_UNREADABLE = (ValueError, OverflowError, pyarrow.ArrowException)
"""What Arrow raises for a text that is not UTF-8, or a date that Python does not have."""


def read_parquet(path: Path) -> Iterator[Any]:
    """The rows of a Parquet file; raises what pyarrow raises for a file that is none."""
    with pyarrow.parquet.ParquetFile(path) as table:
        yield from _rows(table.iter_batches(_BATCH))


def read_arrow(path: Path) -> Iterator[Any]:
    """The rows of an Arrow file or stream; raises what pyarrow raises for a file that is none."""
    with pyarrow.memory_map(str(path)) as source:
        try:
            stream = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:  # the file format, with a footer
            source.seek(0)
            reader = pyarrow.ipc.open_file(source)
            stream = (reader.get_batch(index) for index in range(reader.num_record_batches))
        yield from _rows(stream)


def _rows(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[Any]:
    for batch in batches:
        yield from _values(batch)


def _values(batch: pyarrow.RecordBatch) -> list[Any]:
    try:
        return list(batch.to_pylist())
    except _UNREADABLE as error:
        if batch.num_rows == 1:
            return [error]
        return [_values(batch.slice(number, 1))[0] for number in range(batch.num_rows)]
