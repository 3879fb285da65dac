"""Run directories on a store, looked at again and again: each look reads what is new."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tessy_jax.storage.commits import Commit, newest_commits, newest_numbers, restore, runs_among
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import StorePath
from tessy_jax.storage.store import Store

ENDED = "ended"
"""What a lock file says of a process that writes nothing more."""


@contextmanager
def followed(path: Path) -> Iterator[Callable[[], Path]]:
    """What gives the folder, and all run directories in it, as they are at each call.

    The folder itself, or on a store one of this machine that holds the files of the commits, and who is at them
    (`.lock-00000-of-00001`). It is removed at the end.

    Raises (when called):
        StorageError: nothing is there, or the store fails.
    """
    if not isinstance(path, StorePath):
        yield lambda: path
        return
    folder = Path(tempfile.mkdtemp(prefix="tessy_jax-"))
    try:
        yield _Look(path, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Look:
    """Brings a folder up to date, and remembers which commits it shows."""

    def __init__(self, path: StorePath, folder: Path):
        self._path, self._folder = path, folder
        self._known: dict[str, dict[str, Commit]] = {}

    def __call__(self) -> Path:
        listed = Store.open(self._path).list()
        if not (runs := runs_among(listed)):  # one may have been copied there from a disk
            return local(self._path)
        for run in runs:
            start = f"{run}/" if run else ""
            inner = (name.removeprefix(start) for name in listed if name.startswith(start))
            known = self._known.get(run, {})
            if newest_numbers(inner) != {chain: commit.number for chain, commit in known.items()}:
                self._read(run, known)
        return self._folder

    def _read(self, run: str, known: dict[str, Commit]) -> None:
        store, folder = Store(self._path / run), self._folder / run
        folder.mkdir(parents=True, exist_ok=True)
        commits = newest_commits(store)
        restore(store, commits.values(), folder, known)
        for chain, commit in commits.items():
            if commit.owner is not None:
                (folder / f".lock-{chain}").write_text(commit.owner or ENDED)
        self._known[run] = commits
