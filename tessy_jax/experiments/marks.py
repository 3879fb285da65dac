"""Which stages are done: `stages.jsonl`, a line for every run of a stage.

    {"stage": "tessy/seed-0/sft", "hash": "5f…", "code": 0, "seconds": 812.4, "command": "python -m tessy_jax.sft …"}

A stage is done where its last line has exit code 0 or 3 and the hash of what it is now, and its folder is there:
nothing is started to find that out. All others are run: what they have done before, they find themselves.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tessy_jax.data.jsonl import LineFile, read_objects, remove_torn_line
from tessy_jax.data.records import dump_line
from tessy_jax.data.run_folder import RunDirError, explained, take_lock
from tessy_jax.errors import DONE, REJECTS
from tessy_jax.experiments.stages import Stage

FILE = "stages.jsonl"


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

    def __init__(self, folder: Path):
        """Reads those that are there; creates nothing."""
        self._path = folder / FILE
        self._all = list(_read(self._path))
        self._last = {mark.stage: mark for mark in self._all}

    def is_done(self, stage: Stage) -> bool:
        mark = self._last.get(stage.name)
        return mark is not None and mark.is_done and mark.hash == stage.hash and stage.folder.is_dir()

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
        self._all.append(mark)
        self._last[stage.name] = mark


@contextmanager
def hold(folder: Path) -> Iterator[Marks]:
    """Makes the folder of an experiment, or finds one, and holds it for this process.

    Raises:
        RunDirError: it holds something else, or another process holds it.
    """
    check(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).touch()
    lock = take_lock(folder, (0, 1))
    try:
        remove_torn_line(folder / FILE)
        yield Marks(folder)
    finally:
        os.close(lock)


def check(folder: Path) -> None:
    """Raises RunDirError where a folder holds something else than an experiment."""
    if folder.exists() and not folder.is_dir():
        raise RunDirError(f"{folder} is a file, not a folder: use another --output")
    if not folder.exists() or (folder / FILE).exists():
        return
    if foreign := sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".lock-")):
        raise RunDirError(
            f"{folder} is not empty and holds no experiment (it has {', '.join(foreign[:3])}): use another --output"
        )


def _read(path: Path) -> Iterator[Mark]:
    for number, row in read_objects(path) if path.exists() else ():
        if row is None or not set(Mark._fields) <= row.keys():
            raise RunDirError(f"line {number} of {path} is no mark of a stage: remove it, and the stage runs again")
        yield Mark(*(row[name] for name in Mark._fields))
