"""What a process has committed of a folder on a store: one object that is created, and never replaced.

Its number is one more than that of the commit before:

    journal/commit-00000-of-00001.00000017.json

    {"owner": "process 17 on host-3",
     "grown": {"data/part-00000-of-00001.jsonl":
                  {"pieces": [["data/part-00000-of-00001.00000009-3fa2c1d0.jsonl", 4194890]], "tail": "lines since"}},
     "whole": {"journal/rows-00000-of-00001.jsonl": "all of it"}, ...}
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tessy_jax.storage.paths import StorageError, is_inside
from tessy_jax.storage.store import Store

ALONE = "00000-of-00001"
"""The chain of a process that has no others beside it."""

WHOLE = ("manifest.json", "config.yaml")
"""Objects beside the commits, which are written when a run begins."""

COMMIT = re.compile(r"journal/commit-(\d{5}-of-\d{5})\.(\d{8})\.json")
PIECE_NAME = re.compile(r"(.+)\.\d{8}-[0-9a-f]{8}(\.\w+)")
_FORMAT = "tessy_jax commit 1"
_LOOKED_FOR = 5
"""Times that a listing is repeated whose newest commit was replaced meanwhile."""


@dataclass(frozen=True)
class Grown:
    """A file that grows: the objects that hold its beginning, with their sizes, and the text after these."""

    pieces: tuple[tuple[str, int], ...] = ()
    tail: str = ""

    @property
    def stored(self) -> int:
        """Bytes in objects."""
        return sum(size for _, size in self.pieces)


class Stored(NamedTuple):
    """An object that holds a whole file, and its size."""

    object: str
    size: int


@dataclass(frozen=True)
class Commit:
    """All that one process has committed.

    Attributes:
        chain: whose it is, "00000-of-00001": process and number of processes.
        number: from 1; 0 before the first.
        writer: tells processes apart.
        owner: "process 17 on host-3"; empty when it has ended; None: of an earlier version, which did not say.
        time: seconds since 1970.
        grown, whole, files: files by name: those that grow, small ones, and others as objects of their own.
        far: files that are read where they are: `restore` makes their folders only.
    """

    chain: str
    number: int = 0
    writer: str = ""
    owner: str | None = None
    time: float = 0.0
    grown: Mapping[str, Grown] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Stored] = field(default_factory=dict)
    far: Mapping[str, Stored] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return commit_name(self.chain, self.number)

    def to_json(self) -> bytes:
        values: dict[str, Any] = {"format": _FORMAT, "writer": self.writer, "owner": self.owner, "time": self.time}
        values |= {"whole": dict(self.whole)}
        values |= {key: dict(files) for key, files in (("files", self.files), ("far", self.far)) if files}
        return json.dumps(values | {"grown": {name: asdict(file) for name, file in self.grown.items()}}).encode()

    @classmethod
    def from_json(cls, chain: str, number: int, data: bytes) -> "Commit":
        """Raises ValueError where it is none of this format."""
        try:
            values = json.loads(data)
            if values["format"] != _FORMAT:
                raise ValueError(f"has the format {values['format']!r}")
            grown = {
                name: Grown(tuple((piece, size) for piece, size in file["pieces"]), file["tail"])
                for name, file in values["grown"].items()
            }
            whole = values["whole"]
            files, far = ({n: Stored(*o) for n, o in values.get(key, {}).items()} for key in ("files", "far"))
            writer, owner, time = values["writer"], values.get("owner"), values["time"]
            commit = cls(chain, number, writer, owner, time, grown, whole, files, far)
            if outside := [n for n in (*grown, *whole, *files, *far, *commit.pieces()) if not is_inside(n)]:
                raise ValueError(f"names a file outside of the run directory: {outside[0]!r}")
            return commit
        except (LookupError, TypeError) as error:
            raise ValueError(f"is damaged: {error!r}") from error

    def pieces(self) -> set[str]:
        """The objects that it names."""
        stored = {file.object for file in (*self.files.values(), *self.far.values())}
        return stored | {piece for file in self.grown.values() for piece, _ in file.pieces}


def commit_name(chain: str, number: int) -> str:
    return f"journal/commit-{chain}.{number:08d}.json"


def runs_among(listed: Iterable[str]) -> list[str]:
    """The folders of run directories among the objects of a folder; "" is the folder itself."""
    found = (name.rpartition("journal/") for name in listed)
    return sorted({folder.rstrip("/") for folder, journal, name in found if COMMIT.fullmatch(journal + name)})


def newest_numbers(listed: Iterable[str]) -> dict[str, int]:
    """The highest number of every chain whose commits are among the objects of a run directory."""
    highest: dict[str, int] = {}
    for name in listed:
        if found := COMMIT.fullmatch(name):
            highest[found[1]] = max(highest.get(found[1], 0), int(found[2]))
    return highest


def newest_commits(store: Store) -> dict[str, Commit]:
    """The newest commit of every chain."""
    for _ in range(_LOOKED_FOR):
        highest = newest_numbers(store.list("journal"))
        newest = {chain: _newest(store, chain, number) for chain, number in highest.items()}
        commits = {chain: commit for chain, commit in newest.items() if commit is not None}
        if len(commits) == len(newest):
            return commits
    raise StorageError(f"{store.path} is written faster than it can be read: try again")


def _newest(store: Store, chain: str, number: int) -> Commit | None:
    """The last of the commits from a number on: a listing may be late. None: that one is not there any more."""
    found = None
    while (data := store.read(commit_name(chain, number))) is not None:
        try:
            found = Commit.from_json(chain, number, data)
        except ValueError as error:
            raise StorageError(f"{store.path / commit_name(chain, number)} {error}: mend or remove it") from None
        number += 1
    return found


def restore(store: Store, commits: Iterable[Commit], folder: Path, known: Mapping[str, Commit] | None = None) -> None:
    """Writes the files of commits, and the manifest, into a folder of this machine.

    Args:
        known: commits whose files stand in the folder, by chain: of what has grown since, only the rest is read.

    Raises:
        StorageError: an object that a commit names is not there, or not whole.
    """
    for name in WHOLE:
        if (data := store.read(name)) is not None:
            (folder / name).write_bytes(data)
    for commit in commits:
        before = (known or {}).get(commit.chain, Commit(commit.chain))
        for name, grown in commit.grown.items():
            there = before.grown.get(name, Grown())
            if grown.pieces[: len(there.pieces)] != there.pieces:
                there = Grown()
            added = grown.pieces[len(there.pieces) :]
            with _file_of(folder / name, there.stored) as file:
                for (piece, size), data in zip(added, store.read_all([piece for piece, _ in added]), strict=True):
                    if len(data) != size:
                        raise StorageError(f"{store.path / piece} has {len(data)} bytes, and should have {size}")
                    file.write(data)
                file.write(to_bytes(grown.tail))
        for name, text in commit.whole.items():
            with _file_of(folder / name, 0) as file:
                file.write(to_bytes(text))
        for name in (*commit.files, *commit.far):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for name, stored in commit.files.items():
            if before.files.get(name) != stored:
                fetch(store, stored, folder / name)
        for name in (*commit.grown, *commit.whole, *commit.files):
            os.utime(folder / name, (commit.time, commit.time))


def fetch(store: Store, stored: Stored, file: Path) -> None:
    """Writes a file of a commit; raises StorageError where its object is not there, or not whole."""
    store.download(stored.object, str(file))
    if (size := file.stat().st_size) != stored.size:
        raise StorageError(f"{store.path / stored.object} has {size} bytes, and should have {stored.size}")


def _file_of(path: Path, size: int) -> Any:
    """A file to be written after its first `size` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("r+b" if size else "wb")
    file.seek(size)
    file.truncate()
    return file


def to_text(data: bytes) -> str:
    """Bytes of a file, whatever they are, as the text in a commit."""
    return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """What `to_text` was given."""
    return text.encode("utf-8", "surrogateescape")
