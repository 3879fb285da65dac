"""The run directory: what a run writes, how it resumes, and what it refuses.

    config.yaml  manifest.json  data/part-PPPPP-of-NNNNN.jsonl  rejects.jsonl  journal/  metrics.jsonl  run.log

Each of N processes writes files of its own; with N > 1 the names of rejects, metrics and log carry -PPPPP-of-NNNNN too.
A record is in the data files entirely or not at all. A run may be resumed with another number of processes: finished
records count wherever they stand, rows in flight start again.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tessy_jax.data.jsonl import LineFile, read_objects, remove_torn_line, replace_file
from tessy_jax.data.records import RowState, dump_line
from tessy_jax.data.run_folder import RunDirError, compare, explained, stored_manifest, take_lock, write_manifest

logger = logging.getLogger(__name__)

_SHARD = r"-(\d{5})-of-(\d{5})"
_RECORDS = re.compile(rf"data/part{_SHARD}\.jsonl")
_REJECTS = re.compile(rf"rejects(?:{_SHARD})?\.jsonl")
_OTHERS = re.compile(rf"journal/rows{_SHARD}\.jsonl|metrics(?:{_SHARD})?\.jsonl|run(?:{_SHARD})?\.log")


@dataclass(frozen=True)
class RunFormat:
    """What a run writes.

    Attributes:
      format: names the kind in the manifest; a run directory of another kind is refused.
      key: the fields that tell its rows apart.
    """

    format: str
    key: tuple[str, ...]


TRACES = RunFormat("tessy_jax run 1", ("id", "sample_index"))
SEGMENTS = RunFormat("tessy_jax annotation 1", ("id", "sample_index", "segment"))


class RunDir:
    """An open run directory of one process. Use `RunDir.open`, and close it or use it in a `with` statement.

    Attributes:
      path: the directory.
      done: keys, (id, sample_index) of a trace, of all records and rejected rows, of all processes at the time of
        opening.
      failed: those of rejected rows among them.
      n_records: number of records among them.
    """

    def __init__(self, path: Path, kind: RunFormat, shard: tuple[int, int], lock: int):
        self.path = path
        self.done: set[tuple[Any, ...]] = set()
        self.failed: set[tuple[Any, ...]] = set()
        self._kind = kind
        self.n_records = 0
        self._lock = lock
        self._shard = shard
        index, count = shard
        numbered = f"-{index:05d}-of-{count:05d}"
        name = numbered if count > 1 else ""
        self._journal = path / f"journal/rows{numbered}.jsonl"
        self.log_path = path / f"run{name}.log"
        self._rejected: set[tuple[Any, ...]] = set()
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
        barrier: Callable[[], None] = lambda: None,
        kind: RunFormat = TRACES,
    ) -> Self:
        """Creates the directory, or resumes the run in it.

        Args:
          config_yaml: the resolved configuration, stored beside the data.
          manifest: from `make_manifest`; its "identity" must equal that of the run to resume.
          overwrite: remove what an earlier run wrote (never other files) and start anew.
          shard: index of this process and number of processes.
          barrier: returns when all processes have called it: none reads what another is still to remove.
          kind: what the run writes.

        Raises:
          RunDirError: the directory is in use, not writable, not a run directory, or of a run with another identity.
        """
        path = path.expanduser()
        with explained(path):
            if path.exists() and not path.is_dir():
                raise RunDirError(f"{path} is a file, not a folder: use another --output")
            path.mkdir(parents=True, exist_ok=True)
            stored = stored_manifest(path, kind.format)
            run = cls(path, kind, shard, take_lock(path, shard))
            try:
                if stored is not None and not overwrite:
                    compare(path, stored, manifest)
                run._clear(overwrite)
                if shard[0] == 0:
                    run._describe(config_yaml, manifest, anew=overwrite or stored is None)
                barrier()
                run._begin()
            except BaseException:
                run.close()
                raise
        return run

    def append(self, record: Mapping[str, Any]) -> None:
        """Stores a record, on the disk when this returns; one that is done already is left as it is.

        Raises:
          RunDirError: the disk is full or fails; nothing of the record is visible then.
        """
        key = tuple(record[name] for name in self._kind.key)
        if key not in self.done:
            self._write("record", record)
            self.done.add(key)
            self.n_records += 1

    def reject(self, row: Mapping[str, Any]) -> None:
        """Stores a reject, once per row: by its key, or by file and line for a row of the input.

        Raises:
          RunDirError: as for `append`.
        """
        key = self._reject_key(row)
        if key not in self._rejected:
            self._write("reject", row)
            self._note_reject(row)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line to the metrics; raises RunDirError as `append` does."""
        self._write("metrics", row)

    def write_journal(self, rows: Sequence[RowState]) -> None:
        """Replaces the journal by these rows in flight; raises RunDirError, with the old journal in place."""
        with explained(self._journal, self.n_records):
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

    def _clear(self, overwrite: bool) -> None:
        """Removes the own files, or what a crash left half written of them."""
        for file in self._own_files():
            if overwrite:
                file.unlink()
            elif file.suffix == ".jsonl" and file.parent.name != "journal":
                remove_torn_line(file)
        for leftover in self._journal.parent.glob(f".{self._journal.name}.*.tmp"):
            leftover.unlink()

    def _describe(self, config_yaml: str, manifest: Mapping[str, Any], *, anew: bool) -> None:
        if anew:
            write_manifest(self.path, self._kind.format, manifest)
        if anew or not (self.path / "config.yaml").exists():
            replace_file(self.path / "config.yaml", config_yaml)

    def _begin(self) -> None:
        for folder in ("data", "journal"):
            (self.path / folder).mkdir(exist_ok=True)
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
                if row is None or not set(self._kind.key) <= row.keys():
                    raise RunDirError(
                        f"line {line} of {file} is not a record: remove the line, its row runs again then"
                    )
                self.done.add(tuple(row[name] for name in self._kind.key))
        self.n_records = len(self.done)
        for file in _run_files(self.path, _REJECTS):
            for _, row in read_objects(file):
                if row is not None:
                    self._note_reject(row)

    def _note_reject(self, row: Mapping[str, Any]) -> None:
        self._rejected.add(self._reject_key(row))
        if (key := self._row_key(row)) is not None:
            self.done.add(key)
            self.failed.add(key)

    def _row_key(self, row: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The key of a row of the output; None for a row of the input."""
        key = tuple(row.get(name) for name in self._kind.key)
        return None if None in key else key

    def _reject_key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return self._row_key(row) or (row.get("file"), row.get("line"))

    def _write(self, kind: str, row: Mapping[str, Any]) -> None:
        with explained(self._paths[kind], self.n_records):
            self._files[kind].append(dump_line(row))


def _run_files(path: Path, *patterns: re.Pattern[str]) -> list[Path]:
    files = [*path.glob("*"), *path.glob("data/*"), *path.glob("journal/*")]
    names = {file: file.relative_to(path).as_posix() for file in files}
    return sorted(file for file, name in names.items() if any(pattern.fullmatch(name) for pattern in patterns))
