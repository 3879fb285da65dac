"""Rows of input files: JSON lines, gzip, Parquet, Arrow, and folders of these."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from tessy_jax.errors import UserError

_BATCH = 256
"""Rows of a Parquet file held in memory at a time."""


class InputError(UserError, ValueError):
    """The input as a whole cannot be read; the message is meant for the user."""


class RawRow(NamedTuple):
    """One row as read.

    Attributes:
        file, line: where it stands; lines count from 1, and so do the rows of a table.
        value: what it holds; None where it cannot be read.
        raw: the line as text; empty for a row of a table.
        problem: why it cannot be read; None where it can.
    """

    file: Path
    line: int
    value: Any
    raw: str
    problem: str | None = None


def rows(path: Path) -> Iterator[RawRow]:
    """All rows of a file or dataset folder, in order, streamed.

    Raises:
        InputError: at the call, where the path is missing, unreadable, of an unknown kind or empty.
    """
    if not path.exists():
        raise InputError(f"no such file or folder: {path}")
    stream = (row for file in files(path) for row in _reader(file)(file))
    try:
        first = next(stream, None)
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if first is None:
        raise InputError(f"{path} holds no rows")
    return _resume(first, stream)


def files(path: Path) -> list[Path]:
    """The data files of a path, in order: the file itself, or those of a dataset folder.

    A folder holds files of one kind (directly or in `data/`) and one split of a dataset, or is what `save_to_disk` of
    Hugging Face datasets writes.

    Raises:
        InputError: it holds no such files, files of several kinds, or several splits.
    """
    if not path.is_dir():
        _reader(path)
        return [path]
    splits = [f"{path / split}" for split in _json_list(path / "dataset_dict.json", "splits")]
    if len(splits) == 1:
        path = Path(splits[0])
    found = [path / entry["filename"] for entry in _json_list(path / "state.json", "_data_files")]
    for folder in (path, path / "data"):
        found = found or sorted(file for file in folder.glob("*") if _is_data(file))
    if not splits:
        splits = sorted({match[1] for file in found if (match := re.match(r"(.+?)-\d{5}-of-\d{5}\.", file.name))})
    if len(splits) > 1:
        raise InputError(f"{path} has several splits ({', '.join(splits)}): give one folder or file")
    if len({_reader(file) for file in found}) > 1:
        raise InputError(f"{path} holds files of different kinds: give one file")
    if not found:
        raise InputError(f"{path} holds no {', '.join(_READERS)} files")
    return found


def _resume(first: RawRow, stream: Iterator[RawRow]) -> Iterator[RawRow]:
    """The stream with its first row put back; a failure further on becomes a row with a problem."""
    last = first
    yield first
    try:
        for last in stream:
            yield last
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        yield RawRow(last.file, last.line + 1, None, "", f"the rest of the file cannot be read: {error}")


def _json_lines(path: Path) -> Iterator[RawRow]:
    compressed = path.name.lower().endswith(".gz")
    with gzip.open(path) if compressed else path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            data = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
            if data.strip():
                yield _json_row(path, line, data.rstrip(b"\r\n"))


def _json_row(path: Path, line: int, data: bytes) -> RawRow:
    raw = data.decode("utf-8", "replace")
    try:
        return RawRow(path, line, json.loads(data.decode("utf-8")), raw)
    except UnicodeDecodeError as error:
        problem = f"invalid UTF-8 at byte {error.start + 1} of the line"
    except json.JSONDecodeError as error:
        problem = f"malformed JSON at column {error.colno}: {error.msg}"
    except ValueError as error:
        problem = f"malformed JSON: {error}"
    except RecursionError:
        problem = "malformed JSON: nested too deeply"
    return RawRow(path, line, None, raw, problem)


def _parquet(path: Path) -> Iterator[RawRow]:
    with pyarrow.parquet.ParquetFile(path) as table:
        yield from _table_rows(path, table.iter_batches(_BATCH))


def _arrow(path: Path) -> Iterator[RawRow]:
    with pyarrow.memory_map(str(path)) as source:
        try:
            stream = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:  # the file format, with a footer
            source.seek(0)
            reader = pyarrow.ipc.open_file(source)
            stream = (reader.get_batch(index) for index in range(reader.num_record_batches))
        yield from _table_rows(path, stream)


def _table_rows(path: Path, batches: Iterable[pyarrow.RecordBatch]) -> Iterator[RawRow]:
    line = 0
    for batch in batches:
        for value in batch.to_pylist():
            line += 1
            yield RawRow(path, line, value, "")


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".parquet": _parquet,
    ".arrow": _arrow,
}


def _reader(path: Path) -> Callable[[Path], Iterator[RawRow]]:
    for suffix, reader in _READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    raise InputError(f"{path} is of an unknown kind: expected {', '.join(_READERS)} or a folder of these")


def _is_data(path: Path) -> bool:
    hidden = path.name.startswith((".", "cache-"))  # cache-*.arrow: intermediate results of Hugging Face datasets
    return path.is_file() and not hidden and path.name.lower().endswith(tuple(_READERS))


def _json_list(path: Path, key: str) -> list[Any]:
    try:
        return list(json.loads(path.read_text("utf-8"))[key]) if path.exists() else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path}: {error!r}") from error


def data_path(path: Path) -> Path:
    """Where the rows are: in the `data` folder of a run directory, else at the path itself."""
    path = path.expanduser()
    return path / "data" if (path / "manifest.json").is_file() and (path / "data").is_dir() else path
