"""Which stages are done: `stages.jsonl`, a line for every run of a stage.

    {"stage": "tessy/seed-0/sft", "hash": "5f…", "code": 0, "seconds": 812.4, "command": "python -m tessy_jax.sft …"}

A stage is done where its last line has exit code 0 or 3 and the hash of what it is now, and its folder is there:
nothing is started to find that out. All others are run: what they have done before, they find themselves.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tessy_jax.data.jsonl import LineFile, read_objects, remove_torn_line
from tessy_jax.data.records import dump_line
from tessy_jax.data.run_folder import RunDirError, explained, take_lock
from tessy_jax.errors import DONE, REJECTS
from tessy_jax.experiments.stages import Stage
from tessy_jax.storage.copies import is_there, own_files
from tessy_jax.storage.outputs import Held
from tessy_jax.storage.outputs import hold as hold_folder
from tessy_jax.storage.paths import StorePath
from tessy_jax.storage.store import Store

FILE = "stages.jsonl"
LOG = "run.log"
_BEGINNING = {"journal"}
"""What stands on a store before the first mark."""


class Mark(NamedTuple):
    """How a run of a stage ended."""

    stage: str
    hash: str
    code: int
    seconds: float

    @property
    def is_done(self) -> bool:
        return self.code in (DONE, REJECTS)


class Marks:
    """The marks of an experiment, as they were when the file was read, and those that were added."""

    def __init__(self, folder: Path, held: Held | None = None):
        """Reads those that are there; creates nothing.

        Args:
            folder: of the experiment.
            held: the same, where this process holds it and may add marks.
        """
        self._held = held
        self._path = (own_files(folder) if held is None else held.path) / FILE
        self._all = list(_read(self._path))
        self._last = {mark.stage: mark for mark in self._all}
        self._there: dict[str, bool] = {}

    @property
    def folder(self) -> Path:
        """Where the experiment's own files that grow are on this machine."""
        return self._path.parent

    def is_done(self, stage: Stage) -> bool:
        mark = self._last.get(stage.name)
        return mark is not None and mark.is_done and mark.hash == stage.hash and self._is_there(stage)

    def last(self, stage: Stage) -> Mark | None:
        """How its last run ended, whatever it was then."""
        return self._last.get(stage.name)

    def seconds(self, stage: Stage) -> float:
        """Of all its runs, those that were interrupted included; a run that was killed with the experiment is lost."""
        return sum(mark.seconds for mark in self._all if mark.stage == stage.name)

    def add(self, stage: Stage, code: int, seconds: float) -> None:
        mark = Mark(stage.name, stage.hash, code, round(seconds, 3))
        with explained(self._path):
            file = LineFile(self._path)
            file.append(dump_line({**mark._asdict(), "command": stage.typed}))
            file.close()
        if self._held is not None:
            self._held.commit()
        self._there.pop(stage.name, None)
        self._all.append(mark)
        self._last[stage.name] = mark

    def _is_there(self, stage: Stage) -> bool:
        """Whether its folder is there; a store is asked once after each of its runs."""
        if not isinstance(stage.folder, StorePath):
            return stage.folder.is_dir()
        if stage.name not in self._there:
            self._there[stage.name] = is_there(stage.folder)
        return self._there[stage.name]


@contextmanager
def hold(folder: Path, stages: Sequence[Stage]) -> Iterator[Marks]:
    """Makes the folder of an experiment, or finds one, and holds it for this process.

    Args:
        stages: all of them, whose logs are kept with the marks where the folder is on a store.

    Raises:
        RunDirError: it holds something else, or another process holds it.
        StorageError: the store fails.
    """
    check(folder)
    with ExitStack() as stack:
        with explained(folder):
            held = stack.enter_context(hold_folder(folder, [FILE, LOG, *(stage.log_name for stage in stages)]))
            (held.path / FILE).touch()
        held.commit()
        stack.callback(os.close, take_lock(held.path, (0, 1)))
        remove_torn_line(held.path / FILE)
        yield Marks(folder, held)


def check(folder: Path) -> None:
    """Raises RunDirError where a folder holds something else than an experiment."""
    if isinstance(folder, StorePath):
        foreign = [] if (own_files(folder) / FILE).exists() else sorted(Store.open(folder).top() - _BEGINNING)
        _refuse(folder, foreign)
        return
    if folder.exists() and not folder.is_dir():
        raise RunDirError(f"{folder} is a file, not a folder: use another --output")
    if not folder.exists() or (folder / FILE).exists():
        return
    _refuse(folder, sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".lock-")))


def _refuse(folder: Path, foreign: Sequence[str]) -> None:
    if foreign:
        raise RunDirError(
            f"{folder} is not empty and holds no experiment (it has {', '.join(foreign[:3])}): use another --output"
        )


def _read(path: Path) -> Iterator[Mark]:
    for number, row in read_objects(path) if path.exists() else ():
        if row is None or not set(Mark._fields) <= row.keys():
            raise RunDirError(f"line {number} of {path} is no mark of a stage: remove it, and the stage runs again")
        yield Mark(*(row[name] for name in Mark._fields))
