"""The run directory: what a run writes, how it resumes, and what it refuses.

    config.yaml  manifest.json  data/part-PPPPP-of-NNNNN.jsonl  rejects.jsonl  journal/  metrics.jsonl  run.log

Each of N processes writes files of its own; with N > 1 the names of rejects, metrics and log carry -PPPPP-of-NNNNN too.
A record is in the data files entirely or not at all. A run may be resumed with another number of processes: finished
records count wherever they stand, rows in flight start again.
"""

import errno
import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tessy_jax.data.lines import LineFile, read_objects, remove_torn_line, replace_file
from tessy_jax.data.records import RowState, dump_line

logger = logging.getLogger(__name__)

_SHARD = r"-(\d{5})-of-(\d{5})"
_RECORDS = re.compile(rf"data/part{_SHARD}\.jsonl")
_REJECTS = re.compile(rf"rejects(?:{_SHARD})?\.jsonl")
_OTHERS = re.compile(rf"journal/rows{_SHARD}\.jsonl|metrics(?:{_SHARD})?\.jsonl|run(?:{_SHARD})?\.log")
_HIDDEN = re.compile(rf"\.lock{_SHARD}|\.(?:manifest\.json|config\.yaml)\.\w+\.tmp")
_FORMAT = "tessy_jax run 1"
_ABSENT = "absent"


class RunDirError(RuntimeError):
    """The run directory cannot be used or written; the message says what to do and is meant for the user."""


class RunDir:
    """An open run directory of one process. Use `RunDir.open`, and close it or use it in a `with` statement.

    Attributes:
      path: the directory.
      done: (id, sample_index) of all records and rejected rows, of all processes at the time of opening.
      n_records: number of records among them.
    """

    def __init__(self, path: Path, shard: tuple[int, int], lock: int):
        self.path = path
        self.done: set[tuple[str, int]] = set()
        self.n_records = 0
        self._lock = lock
        self._shard = shard
        index, count = shard
        numbered = f"-{index:05d}-of-{count:05d}"
        name = numbered if count > 1 else ""
        self._journal = path / f"journal/rows{numbered}.jsonl"
        self.log_path = path / f"run{name}.log"
        self._rejected: set[tuple[Any, Any]] = set()
        self._paths = {
            "record": path / f"data/part{numbered}.jsonl",
            "reject": path / f"rejects{name}.jsonl",
            "metrics": path / f"metrics{name}.jsonl",
        }
        self._files: dict[str, LineFile] = {}

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        config_yaml: str,
        manifest: Mapping[str, Any],
        overwrite: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> Self:
        """Creates the directory, or resumes the run in it.

        Args:
          config_yaml: the resolved configuration, stored beside the data.
          manifest: from `make_manifest`; its "identity" must equal that of the run to resume.
          overwrite: remove what an earlier run wrote (never other files) and start anew.
          shard: index of this process and number of processes.

        Raises:
          RunDirError: the directory is in use, not writable, not a run directory, or of a run with another identity.
        """
        path = path.expanduser()
        with _explained(path):
            if path.exists() and not path.is_dir():
                raise RunDirError(f"{path} is a file, not a folder: use another --output")
            path.mkdir(parents=True, exist_ok=True)
            stored = _stored_manifest(path)
            run = cls(path, shard, _take_lock(path, shard))
            try:
                run._prepare(config_yaml, manifest, stored, overwrite)
            except BaseException:
                run.close()
                raise
        return run

    def append(self, record: Mapping[str, Any]) -> None:
        """Stores a record, on the disk when this returns; one that is done already is left as it is.

        Raises:
          RunDirError: the disk is full or fails; nothing of the record is visible then.
        """
        key = (record["id"], record["sample_index"])
        if key not in self.done:
            self._write("record", record)
            self.done.add(key)
            self.n_records += 1

    def reject(self, row: Mapping[str, Any]) -> None:
        """Stores a reject, once per row: by id and sample_index, or by file and line for a row of the input.

        Raises:
          RunDirError: as for `append`.
        """
        key = _reject_key(row)
        if key not in self._rejected:
            self._write("reject", row)
            self._note_reject(row)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line to the metrics; raises RunDirError as `append` does."""
        self._write("metrics", row)

    def write_journal(self, rows: Sequence[RowState]) -> None:
        """Replaces the journal by these rows in flight; raises RunDirError, with the old journal in place."""
        with _explained(self._journal, self.n_records):
            replace_file(self._journal, "".join(row.to_json() + "\n" for row in rows))

    def read_journal(self) -> list[RowState]:
        """The rows that were in flight and are not done; none where the journal is damaged (they start again)."""
        try:
            rows = [RowState.from_json(line) for line in self._journal.read_text("utf-8").split("\n") if line]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            logger.warning("the journal %s is damaged, its rows start again: %s", self._journal, error)
            return []
        return [row for row in rows if (row.id, row.sample_index) not in self.done]

    def close(self) -> None:
        """Closes the files and lets other processes use the directory."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(
        self, config_yaml: str, manifest: Mapping[str, Any], stored: Mapping[str, Any] | None, overwrite: bool
    ) -> None:
        if stored is not None and not overwrite:
            _compare(self.path, stored.get("identity", {}), json.loads(dump_line(manifest["identity"])))
        own = list(self._own_files())
        if overwrite:
            for file in own:
                file.unlink()
        if overwrite or stored is None:
            content = json.loads(dump_line({"format": _FORMAT} | dict(manifest)))
            replace_file(self.path / "manifest.json", json.dumps(content, indent=2) + "\n")
        if overwrite or not (self.path / "config.yaml").exists():
            replace_file(self.path / "config.yaml", config_yaml)
        for folder in ("data", "journal"):
            (self.path / folder).mkdir(exist_ok=True)
        for file in own:
            if file.suffix == ".jsonl" and file.exists() and file.parent.name != "journal":
                remove_torn_line(file)
        for leftover in self._journal.parent.glob(f".{self._journal.name}.*.tmp"):
            leftover.unlink()
        self._read_done()
        self._files = {kind: LineFile(path, durable=kind != "metrics") for kind, path in self._paths.items()}

    def _own_files(self) -> Iterator[Path]:
        """Files that this process alone may change: of its shard, and for the first process of other shard counts."""
        index, count = self._shard
        for file in _run_files(self.path, _RECORDS, _REJECTS, _OTHERS):
            numbers = re.search(_SHARD, file.name)
            owner, owners = (int(numbers[1]), int(numbers[2])) if numbers else (0, 1)
            if (owner, owners) == self._shard or (index == 0 and owners != count):
                yield file

    def _read_done(self) -> None:
        for file in _run_files(self.path, _RECORDS):
            for line, row in read_objects(file):
                if row is None or not {"id", "sample_index"} <= row.keys():
                    raise RunDirError(
                        f"line {line} of {file} is not a record: remove the line, its row runs again then"
                    )
                self.done.add((row["id"], row["sample_index"]))
        self.n_records = len(self.done)
        for file in _run_files(self.path, _REJECTS):
            for _, row in read_objects(file):
                if row is not None:
                    self._note_reject(row)

    def _note_reject(self, row: Mapping[str, Any]) -> None:
        self._rejected.add(_reject_key(row))
        if row.get("id") is not None and row.get("sample_index") is not None:
            self.done.add((row["id"], row["sample_index"]))

    def _write(self, kind: str, row: Mapping[str, Any]) -> None:
        with _explained(self._paths[kind], self.n_records):
            self._files[kind].append(dump_line(row))


@contextmanager
def _explained(path: Path, safe: int | None = None) -> Iterator[None]:
    """Turns failures of the file system into words for the user."""
    try:
        yield
    except OSError as error:
        records = "" if safe is None else f"{safe} records are safe; "
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            again = "free space and run the same command again"
            raise RunDirError(f"disk full while writing {path}; {records}{again}") from error
        advice = f"{records}repair this and run the same command again, or use another --output"
        raise RunDirError(f"cannot write {error.filename or path}: {error.strerror or error}; {advice}") from error


def _run_files(path: Path, *patterns: re.Pattern[str]) -> list[Path]:
    files = [*path.glob("*"), *path.glob("data/*"), *path.glob("journal/*")]
    names = {file: file.relative_to(path).as_posix() for file in files}
    return sorted(file for file, name in names.items() if any(pattern.fullmatch(name) for pattern in patterns))


def _stored_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of the run in a directory, None for an empty one; refuses to touch any other directory."""
    try:
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
        if isinstance(manifest, dict) and manifest.get("format") == _FORMAT:
            return manifest
    except (FileNotFoundError, ValueError):
        pass
    foreign = sorted(file.name for file in path.iterdir() if not _HIDDEN.fullmatch(file.name))
    if not foreign:
        return None
    raise RunDirError(
        f"{path} is not empty and holds no run (it has {', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}): "
        "use another --output"
    )


def _compare(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    ours, theirs = dict(_flatten(wanted)), dict(_flatten(stored))
    lines = [
        f"  {key}: {theirs.get(key, _ABSENT)} there, {ours.get(key, _ABSENT)} now"
        for key in sorted(ours.keys() | theirs.keys())
        if theirs.get(key, _ABSENT) != ours.get(key, _ABSENT)
    ]
    if lines:
        differences = "\n".join(lines)
        raise RunDirError(f"{path} holds a different run:\n{differences}\nuse --overwrite or another --output")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(value, ensure_ascii=False)


def _reject_key(row: Mapping[str, Any]) -> tuple[Any, Any]:
    if row.get("sample_index") is not None:
        return row.get("id"), row["sample_index"]
    return row.get("file"), row.get("line")


def _take_lock(path: Path, shard: tuple[int, int]) -> int:
    """Locks this process's shard; the system lets go of the lock when the process ends, however it ends."""
    handle = _lock(path / ".lock-{:05d}-of-{:05d}".format(*shard), fcntl.LOCK_EX)
    try:
        for other in path.glob(".lock-*"):
            if not other.name.endswith(f"-of-{shard[1]:05d}"):  # left by a run with another number of processes
                os.close(_lock(other, fcntl.LOCK_SH))
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BaseException:
        os.close(handle)
        raise
    return handle


def _lock(path: Path, kind: int) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 200).decode(errors="replace") or "another process"
        os.close(handle)
        raise RunDirError(f"{path.parent} is in use by {owner}: wait for it, or use another --output") from None
    except OSError as error:  # a file system without locks
        logger.warning("cannot lock %s (%s): make sure that no other process writes there", path, error.strerror)
    return handle
