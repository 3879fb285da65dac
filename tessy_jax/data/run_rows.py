"""The directory of a run that writes rows: its records, rejects, journal and metrics, and how it resumes.

    config.yaml  manifest.json  data/part-PPPPP-of-NNNNN.jsonl  rejects.jsonl  journal/  metrics.jsonl  run.log

Each of N processes writes files of its own; with N > 1 the names of rejects, metrics and log carry -PPPPP-of-NNNNN too.
A record is in the data files entirely or not at all. The journal holds the rows in flight, as they were after the last
dispatch. A run may be resumed with another number of processes: finished records count whichever file they are in, rows
in flight start again. Opening, manifest and lock are those of every run directory: see `run_folder`.

The directory of a run on a store is a folder of this machine, the same files in it, that is committed with the journal:
see `storage.spool`. What was committed is there, once, whatever kills the process.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tessy_jax.data.jsonl import LineFile, read_objects, remove_torn_line, replace_file
from tessy_jax.data.records import RowState, dump_line
from tessy_jax.data.run_folder import RunDirError, compare_identity, explained, open_run_folder, stored_manifest
from tessy_jax.storage.paths import StorePath
from tessy_jax.storage.spool import Spool

logger = logging.getLogger(__name__)

Key = tuple[Any, ...]
"""What tells a row apart from all others of its run: the values of `RunFormat.key`."""

_SHARD = r"-(\d{5})-of-(\d{5})"
_RECORDS = re.compile(rf"data/part{_SHARD}\.jsonl")
_REJECTS = re.compile(rf"rejects(?:{_SHARD})?\.jsonl")
_OTHERS = re.compile(rf"journal/rows{_SHARD}\.jsonl|metrics(?:{_SHARD})?\.jsonl|run(?:{_SHARD})?\.log")


@dataclass(frozen=True)
class RunFormat:
    """What kind of rows a run writes.

    Attributes:
        format: kind and version, as in the manifest; a run directory of another one is refused.
        key: the fields that tell its rows apart.
    """

    format: str
    key: tuple[str, ...]


TRACES = RunFormat("tessy_jax run 1", ("id", "sample_index"))
SEGMENTS = RunFormat("tessy_jax annotation 1", ("id", "sample_index", "segment"))


class RunDir:
    """An open run directory of one process. Use `RunDir.open`, and close it or use it in a `with` statement.

    Attributes:
        path: the directory; of a run on a store, the folder of this machine that stands for it.
        name: the directory as the user named it.
        done: keys of records and of rejected rows, for example ("p7", 0), the id and sample of a trace: what stood in
            the files of all processes when the directory was opened, and what this process has added.
        failed: the keys of rejected rows among them.
        n_records: number of records among them.
        log_path: where this process's log belongs.
    """

    def __init__(self, path: Path, kind: RunFormat, shard: tuple[int, int], lock: int, spool: Spool | None = None):
        numbered = "-{:05d}-of-{:05d}".format(*shard)
        name = numbered if shard[1] > 1 else ""
        self.path = path
        self.name = str(path if spool is None else spool.store.path)
        self.done: set[Key] = set()
        self.failed: set[Key] = set()
        self.n_records = 0
        self.log_path = path / f"run{name}.log"
        self._kind = kind
        self._lock = lock
        self._spool = spool
        self._rejected: set[Key] = set()
        self._journal = path / "journal" / _journal(shard)
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
        expendable: Callable[[], bool] = lambda: False,
    ) -> Self:
        """Creates the directory, or finds in it the run that is to go on.

        Args:
            path: the directory; `~` is expanded. A StorePath: on a store.
            config_yaml: the resolved configuration, stored beside the data.
            manifest: from `make_manifest`; its "identity" must equal that of the run that is there.
            overwrite: begin anew: remove what an earlier run wrote, and never other files.
            shard: index of this process and number of processes.
            barrier: returns when all processes have called it: none reads what another is still to remove.
            kind: what the run writes.
            expendable: whether the run that is there has nothing to lose, so that a different one replaces it.

        Raises:
            RunDirError: the directory is in use, cannot be written, is no run directory, or holds a run with another
                identity.
            StorageError: the store fails.
        """
        path = path.expanduser()
        spool = None
        if isinstance(path, StorePath):
            stored_manifest(path, kind.format)  # raises where it holds other files
            spool = Spool.open(path, "{:05d}-of-{:05d}".format(*shard), empty=overwrite)
            path = spool.folder
        cleared: list[bool] = []

        def clear(everything: bool) -> None:
            cleared.append(everything)
            _clear(path, shard, everything)

        with explained(path), _closed_on_error(spool):
            lock = open_run_folder(
                path,
                kind.format,
                config_yaml=config_yaml,
                manifest=manifest,
                overwrite=overwrite,
                shard=shard,
                barrier=barrier,
                clear=clear,
                expendable=expendable,
            )
            run = cls(path, kind, shard, lock, spool)
            try:
                run._begin()
                run._store(manifest, cleared[0], shard[0] == 0, barrier)
            except BaseException:
                run.close()
                raise
        return run

    def append(self, record: Mapping[str, Any]) -> None:
        """Stores a record, which is on the disk when this returns; one whose key is done already is left as it is.

        On a store it is there after the next journal or `keep`, after some megabytes, or when the directory is closed.

        Raises:
            RunDirError: the disk is full or fails; nothing of the record is visible then.
        """
        key = tuple(record[name] for name in self._kind.key)
        if key not in self.done:
            self._write("record", record)
            self.done.add(key)
            self.n_records += 1

    def reject(self, row: Mapping[str, Any]) -> None:
        """Stores a reject, once per row. Rows of the output are told apart by their key, rows of the input by file and
        line.

        Raises:
            RunDirError: as for `append`.
        """
        key = self._reject_key(row)
        if key not in self._rejected:
            self._write("reject", row)
            self._note_reject(row)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line to the metrics; raises RunDirError where the disk is full or fails."""
        self._write("metrics", row)

    def write_journal(self, rows: Sequence[RowState]) -> None:
        """Replaces the journal by these rows in flight.

        Raises:
            RunDirError: the disk is full or fails; the old journal is still there then.
        """
        with explained(self._journal, self.n_records):
            replace_file(self._journal, "".join(row.to_json() + "\n" for row in rows))
        if self._spool is not None:
            self._spool.commit()

    def keep(self) -> None:
        """Stores what was written, where the directory is on a store and that was not done a moment ago: for runs
        without rows in flight, after what took time. Raises StorageError.
        """
        if self._spool is not None:
            self._spool.commit_soon()

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
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        spool, self._spool = self._spool, None
        self.close()
        if spool is not None:
            spool.end(error)

    def _store(self, manifest: Mapping[str, Any], anew: bool, first: bool, barrier: Callable[[], None]) -> None:
        """Makes the directory on the store this process's own. Where an earlier run is there and nothing of it is to
        stay, its rows go before its manifest does: they are never taken for those of the new one.
        """
        if self._spool is None:
            return
        grown = [file.relative_to(self.path).as_posix() for file in (*self._paths.values(), self.log_path)]
        take = partial(self._spool.take, grown, [self._journal.relative_to(self.path).as_posix()], first=first)
        if anew and self._spool.has_begun:
            take(anew=True)
            barrier()
            self._publish(manifest)
        else:
            self._publish(manifest)
            take(anew=anew)

    def _publish(self, manifest: Mapping[str, Any]) -> None:
        """Puts a manifest and a configuration that were written here on the store."""
        assert self._spool is not None
        theirs = self._spool.publish("manifest.json")
        if theirs is not None:  # another process began the run meanwhile
            compare_identity(self._spool.store.path, json.loads(theirs), manifest)
        self._spool.publish("config.yaml")

    def _begin(self) -> None:
        for folder in ("data", "journal"):
            (self.path / folder).mkdir(exist_ok=True)
        self._read_done()
        self._files = {kind: LineFile(path, durable=kind != "metrics") for kind, path in self._paths.items()}

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

    def _row_key(self, row: Mapping[str, Any]) -> Key | None:
        """The key of a row of the output; None for a row of the input, which lacks some of its fields."""
        key = tuple(row.get(name) for name in self._kind.key)
        return None if None in key else key

    def _reject_key(self, row: Mapping[str, Any]) -> Key:
        return self._row_key(row) or (row.get("file"), row.get("line"))

    def _write(self, kind: str, row: Mapping[str, Any]) -> None:
        with explained(self._paths[kind], self.n_records):
            self._files[kind].append(dump_line(row))
        if self._spool is not None:
            self._spool.commit_much()


@contextmanager
def _closed_on_error(spool: Spool | None) -> Iterator[None]:
    """Lets go of the folder that stands for a run on a store where it cannot be opened, and says the run's own name."""
    try:
        yield
    except BaseException as error:
        if spool is not None:
            spool.close()
            if isinstance(error, RunDirError):
                raise type(error)(str(error).replace(str(spool.folder), str(spool.store.path))) from error
        raise


def _clear(path: Path, shard: tuple[int, int], overwrite: bool) -> None:
    """Removes the own files of this process, or what a crash left half written of them."""
    for file in _own_files(path, shard, earlier=shard[0] == 0 or not overwrite):
        if overwrite:
            file.unlink()
        elif file.suffix == ".jsonl" and file.parent.name != "journal":
            remove_torn_line(file)
    for leftover in path.glob(f"journal/.{_journal(shard)}.*.tmp"):
        leftover.unlink()


def _own_files(path: Path, shard: tuple[int, int], *, earlier: bool) -> Iterator[Path]:
    """The files of a shard, which its process alone may change; `earlier`: those of other counts too, which no process
    writes any more.
    """
    for file in _run_files(path, _RECORDS, _REJECTS, _OTHERS):
        numbers = re.search(_SHARD, file.name)
        owner, owners = (int(numbers[1]), int(numbers[2])) if numbers else (0, 1)
        if (owner, owners) == shard or (earlier and owners != shard[1]):
            yield file


def _journal(shard: tuple[int, int]) -> str:
    return "rows-{:05d}-of-{:05d}.jsonl".format(*shard)


def _run_files(path: Path, *patterns: re.Pattern[str]) -> list[Path]:
    files = [*path.glob("*"), *path.glob("data/*"), *path.glob("journal/*")]
    names = {file: file.relative_to(path).as_posix() for file in files}
    return sorted(file for file, name in names.items() if any(pattern.fullmatch(name) for pattern in patterns))
