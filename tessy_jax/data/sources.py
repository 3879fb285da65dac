"""Rows of input files: JSON lines, gzip, Parquet, Arrow, and folders of these."""

import gzip
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tessy_jax.errors import UserError
from tessy_jax.storage.copies import local


class InputError(UserError, ValueError):
    """The input as a whole cannot be read; the message is meant for the user."""


class BadRow(Exception):
    """A row cannot be used; the text says why, for the user."""


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
    """All rows of a file or dataset folder, here or on a store, in order, streamed.

    Raises:
        InputError: at the call, where the path is missing, unreadable, of an unknown kind or empty.
    """
    path = local(path)
    if not path.exists():
        raise InputError(f"no such file or folder: {path}")
    stream = (row for file in files(path) for row in _rows_of(file))
    first = next(stream, None)
    if first is None:
        raise InputError(f"{path} holds no rows")
    if isinstance(first, _Unreadable):
        raise InputError(f"cannot read {path if path.is_file() else first.file}: {first.error}")
    return itertools.chain([first], stream)


def files(path: Path) -> list[Path]:
    """The data files of a path, in order: the file itself, or those of a dataset folder.

    A folder holds files of one kind (directly or in `data/`) and one split of a dataset, or is what `save_to_disk` of
    Hugging Face datasets writes.

    Raises:
        InputError: it holds no such files, files of several kinds, or several splits.
    """
    path = local(path)
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


class _Unreadable(RawRow):
    """The place at which a file cannot be read any further."""

    error: Exception


def _rows_of(file: Path) -> Iterator[RawRow]:
    """The rows of one file; whatever goes wrong further on becomes a row with a problem, and other files go on."""
    line = 0
    try:
        for row in _reader(file)(file):
            line = row.line
            yield row
    except Exception as error:  # of the system, of gzip, of Arrow
        what = "the rest of the file" if line else "the file"
        problem = f"{what} cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        failed = _Unreadable(file, line + 1, None, "", problem)
        failed.error = error
        yield failed


def _json_lines(path: Path) -> Iterator[RawRow]:
    compressed = path.name.lower().endswith(".gz")
    with gzip.open(path) if compressed else path.open("rb") as file:
        lines = _Lines(file)
        while (found := lines.take()) is not None:
            spread = _last_line(found, lines) if found.data.strip() in _CLOSING else found.number
            if spread == found.number:
                yield _json_row(path, found.number, found.data)
            else:
                what = f"a JSON value over lines {found.number} to {spread}: write each row as an object on one line"
                yield RawRow(path, found.number, None, found.data.decode("utf-8", "replace"), what)


class _Line(NamedTuple):
    """A line without its end, and its number from 1."""

    number: int
    data: bytes


class _Lines:
    """The lines of a file that are not empty, some of which can be looked at before they are taken."""

    def __init__(self, file: Iterable[bytes]):
        self._rest = enumerate(file, start=1)
        self._ahead: deque[_Line] = deque()

    def peek(self, index: int = 0) -> _Line | None:
        """The next line, or one further on; None: there is none."""
        while len(self._ahead) <= index:
            number, data = next(self._rest, (0, b""))
            if not number:
                return None
            data = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
            if data.strip():
                self._ahead.append(_Line(number, data.rstrip(b"\r\n")))
        return self._ahead[index]

    def take(self) -> _Line | None:
        return self._ahead.popleft() if self.peek() is not None else None


_CLOSING = {b"[": b"]", b"[{": b"}", b"{": b"}"}
"""Lines that begin an array or object over several lines, and how its last line begins."""


def _last_line(first: _Line, lines: _Lines) -> int:
    """Takes the lines of an array or object that `first` begins, and gives the number of its last: of `first` where
    what follows are rows of their own.
    """
    opening = first.data.strip()
    indent = first.data[: -len(first.data.lstrip())]
    last = first.number
    while (found := lines.peek()) is not None:
        text = found.data.strip()
        deeper = found.data.startswith((indent + b" ", indent + b"\t"))
        closes = not deeper and text.startswith((_CLOSING[opening], b"]"))
        after = lines.peek(1)
        # In an array of objects on lines of their own, all but the last end with a comma.
        element = text.endswith(b",") or (opening != b"{" and after is not None and after.data.strip() == b"]")
        if not (deeper or closes or element):
            break
        lines.take()
        last = found.number
        if closes and not text.endswith((b"{", b",")):
            break
    return last


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
    from tessy_jax.data import arrow  # here: to import pyarrow takes as long as to read many JSON lines

    return _table_rows(path, arrow.read_parquet(path))


def _arrow(path: Path) -> Iterator[RawRow]:
    from tessy_jax.data import arrow

    return _table_rows(path, arrow.read_arrow(path))


def _table_rows(path: Path, values: Iterable[Any]) -> Iterator[RawRow]:
    for line, value in enumerate(values, 1):
        problem = f"cannot be read: {' '.join(str(value).split())}" if isinstance(value, Exception) else None
        yield RawRow(path, line, None if problem else value, "", problem)


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
    hint = f": write an array's elements on lines of their own: jq -c '.[]' {path.name} > {path.stem}.jsonl"
    raise InputError(
        f"{path} is of an unknown kind: expected {', '.join(_READERS)} or a folder of these"
        + (hint if path.suffix.lower() == ".json" else "")
    )


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
    path = local(path.expanduser())
    return path / "data" if (path / "manifest.json").is_file() and (path / "data").is_dir() else path
