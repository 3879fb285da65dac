"""Files of JSON lines that never show half a line, whatever interrupts the writing."""

import errno
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tessy_jax.storage.paths import StorePath
from tessy_jax.storage.store import Store

logger = logging.getLogger(__name__)


class LineFile:
    """Appends lines to a file, each whole or not at all.

    Each line is one write, undone where it fails. A line torn by a crash is removed when the file is opened again.
    """

    def __init__(self, path: Path, *, durable: bool = True):
        """Opens or creates the file; `durable` lines are on the disk when `append` returns."""
        self.path = path
        self._durable = durable
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def append(self, line: str) -> None:
        """Adds a line, given without its end; raises OSError and leaves the file as it was where that fails."""
        data = line.encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            if self._durable:
                os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        os.close(self._file)


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Line numbers and objects of a file of JSON lines, None for a line that is none; half a last line is left out."""
    with path.open("rb") as file:
        for number, data in enumerate(file, start=1):
            if data.endswith(b"\n"):
                yield number, _object(data)


def remove_torn_line(path: Path) -> None:
    """Cuts off the last line of a file where a crash left it incomplete."""
    start, end = _last_line(path)
    with path.open("r+b") as file:
        file.seek(start)
        data = file.read()
        if data and not (data.endswith(b"\n") and _object(data) is not None):
            logger.warning("removed an incomplete last line (%d bytes) of %s", end - start, path)
            file.truncate(start)
            os.fsync(file.fileno())


def replace_file(path: Path, content: str | bytes) -> None:
    """Writes a whole file at once, here or on a store: a reader, or a crash, sees the old content or the new, never a
    part.
    """
    if isinstance(path, StorePath):
        Store(path.parent).write(path.name, _bytes(content))
    else:
        _write_then(path, content, os.replace)


def create_file(path: Path, content: str | bytes) -> bool:
    """The same for a file that is not there; returns False, and leaves it, where another process was first."""
    try:
        _write_then(path, content, _link)
    except FileExistsError:
        return False
    return True


def _write_then(path: Path, content: str | bytes, move: Callable[[Path, Path], None]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_bytes(content))
            file.flush()
            os.fsync(file.fileno())
        move(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; on a store there is nothing to make."""
    if not isinstance(path, StorePath):
        path.mkdir(parents=True, exist_ok=True)


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _link(temporary: Path, path: Path) -> None:
    """Gives a file its name; raises FileExistsError where another has it."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.replace(temporary, path)  # a file system without links: whoever is last is there
    else:
        temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder survive a power cut, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _last_line(path: Path, step: int = 1 << 16) -> tuple[int, int]:
    """Start and end of the last line of a file, its line end included."""
    with path.open("rb") as file:
        end = start = file.seek(0, os.SEEK_END)
        while start > 0:
            low = max(0, start - step)
            file.seek(low)
            found = file.read(min(start, end - 1) - low).rfind(b"\n")  # the line end of the last line does not count
            if found >= 0:
                return low + found + 1, end
            start = low
    return 0, end


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
