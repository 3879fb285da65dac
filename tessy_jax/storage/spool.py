"""A folder whose files grow, kept on a store: whatever kills the process, what was committed is there, once.

A process works in a folder of this machine and commits now and then. A commit is one object that is created, never
replaced; its number is one more than that of the commit before:

    journal/commit-00000-of-00001.00000017.json

    {"grown": {"data/part-00000-of-00001.jsonl":
                  {"pieces": [["data/part-00000-of-00001.00000009-3fa2c1d0.jsonl", 4194890]], "tail": "lines since"}},
     "whole": {"journal/rows-00000-of-00001.jsonl": "all of it"}, ...}

Of a file that grows, what is past `PIECE` bytes becomes an object of its own, before the commit that names it; the rest
is in the commit. So a commit is there entirely or not at all, and what no commit names does not count. Who comes second
with a number has lost the folder to another process, which began later, and ends: nothing of it counts from then on.
Files that are replaced as a whole are objects too, which a commit names: see `files`.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from tessy_jax.storage.paths import StorageError, StorePath, is_inside
from tessy_jax.storage.places import user_caches
from tessy_jax.storage.store import Object, Store

PIECE = 4 << 20
"""Bytes of a file that a commit holds at most; more become an object."""

WHOLE = ("manifest.json", "config.yaml")
"""Objects beside the commits, which are written when a run begins."""

RUN = "00000-of-00001"
"""The chain of a run in which the first process commits for all."""

_FORMAT = "tessy_jax commit 1"
_COMMIT = re.compile(r"journal/commit-(\d{5}-of-\d{5})\.(\d{8})\.json")
_PIECE_NAME = re.compile(r"(.+)\.\d{8}-[0-9a-f]{8}(\.\w+)")
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
        time: seconds since 1970.
        grown, whole, files: files by name: those that grow, small ones, and others as objects of their own.
        far: files that are read where they are: `restore` makes their folders only.
    """

    chain: str
    number: int = 0
    writer: str = ""
    time: float = 0.0
    grown: Mapping[str, Grown] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Stored] = field(default_factory=dict)
    far: Mapping[str, Stored] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return commit_name(self.chain, self.number)

    def to_json(self) -> bytes:
        values = {"format": _FORMAT, "writer": self.writer, "time": self.time, "whole": dict(self.whole)}
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
            commit = cls(chain, number, values["writer"], values["time"], grown, whole, files, far)
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
    return sorted({folder.rstrip("/") for folder, journal, name in found if _COMMIT.fullmatch(journal + name)})


def newest_commits(store: Store) -> dict[str, Commit]:
    """The newest commit of every chain."""
    for _ in range(_LOOKED_FOR):
        highest: dict[str, int] = {}
        for name in store.list("journal"):
            if found := _COMMIT.fullmatch(name):
                highest[found[1]] = max(highest.get(found[1], 0), int(found[2]))
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


def restore(store: Store, commits: Iterable[Commit], folder: Path) -> None:
    """Writes the files of commits, and the manifest, into a folder of this machine.

    Raises:
        StorageError: an object that a commit names is not there, or not whole.
    """
    for name in WHOLE:
        if (data := store.read(name)) is not None:
            (folder / name).write_bytes(data)
    for commit in commits:
        for name, grown in commit.grown.items():
            with _new_file(folder / name) as file:
                pieces = store.read_all([piece for piece, _ in grown.pieces])
                for (piece, size), data in zip(grown.pieces, pieces, strict=True):
                    if len(data) != size:
                        raise StorageError(f"{store.path / piece} has {len(data)} bytes, and should have {size}")
                    file.write(data)
                file.write(_bytes(grown.tail))
        for name, text in commit.whole.items():
            with _new_file(folder / name) as file:
                file.write(_bytes(text))
        for name in (*commit.grown, *commit.whole):
            os.utime(folder / name, (commit.time, commit.time))
        for name in (*commit.files, *commit.far):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        for name, stored in commit.files.items():
            fetch(store, stored, folder / name)
            os.utime(folder / name, (commit.time, commit.time))


def fetch(store: Store, stored: Stored, file: Path) -> None:
    """Writes a file of a commit; raises StorageError where its object is not there, or not whole."""
    store.download(stored.object, str(file))
    if (size := file.stat().st_size) != stored.size:
        raise StorageError(f"{store.path / stored.object} has {size} bytes, and should have {stored.size}")


def _new_file(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def work_folder(path: StorePath, process: str) -> Path:
    """The folder of this machine in which a process works on a run directory."""
    return user_caches() / "runs" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}-{process}"


class Spool:
    """The folder of this machine in which one process works on a run directory of a store.

    Attributes:
        store: the run directory.
        folder: holds, at the beginning, the files of all commits; is removed by `close`.
        files, far: what the next commit names of these, see `Commit`.
    """

    def __init__(self, store: Store, chain: str, folder: Path, lock: int, commits: Mapping[str, Commit]):
        self.store = store
        self.folder = folder
        self._lock: int | None = lock
        self._committed = 0
        self._others = {name: commit for name, commit in commits.items() if name != chain}
        self._last = commits.get(chain, Commit(chain))
        self.files, self.far = dict(self._last.files), dict(self._last.far)
        self._writer = uuid.uuid4().hex
        self._began = {name: _text(folder / name) for name in WHOLE}
        self._grown: Sequence[str] = ()
        self._whole: Sequence[str] = ()

    @classmethod
    def open(cls, path: StorePath, chain: str, *, empty: bool = False, process: str | None = None) -> Self:
        """Brings what is committed to this machine.

        Args:
            path: the run directory.
            chain: this process and the number of processes, "00000-of-00001".
            empty: only the manifest: the rest is to be overwritten.
            process: the same, where the chain is that of the first process for all of them.

        Raises:
            StorageError: the store fails, or a process of this machine is at it.
        """
        store = Store.open(path)
        folder = work_folder(path, process or chain)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(folder.with_suffix(".lock"), path)
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
            folder.mkdir()
            commits = newest_commits(store)
            restore(store, () if empty else commits.values(), folder)
        except BaseException:
            os.close(lock)
            raise
        return cls(store, chain, folder, lock, commits)

    def publish(self, name: str) -> str | None:
        """Stores one of `WHOLE` where it was written here; returns its text where another process was first."""
        text = _text(self.folder / name)
        if text is None or text == self._began[name]:
            return None
        if self._began[name] is not None:
            self.store.write(name, text.encode())
        elif not self.store.create(name, text.encode()):
            (self.folder / name).write_bytes(found := self.store.read(name) or b"")
            return found.decode("utf-8", "replace")
        return None

    def take(self, grown: Sequence[str], whole: Sequence[str], *, anew: bool, first: bool) -> None:
        """Makes the folder this process's: any that had it before cannot commit any more.

        Args:
            grown: names of the files that only grow.
            whole: of those that are stored as they are.
            anew: nothing of what was committed is to be kept.
            first: this process also removes what processes of other numbers have left then.

        Raises:
            StorageError: another process took it meanwhile, or the store fails.
        """
        self._grown, self._whole = grown, whole
        leftover = set(self._last.grown) | set(grown)
        if anew:
            self._last = Commit(self._last.chain, self._last.number)
        self.commit()
        number, count = self._last.number, self._last.chain.partition("-of-")[2]
        removed = [one for chain, one in self._others.items() if anew and first and not chain.endswith(f"-of-{count}")]
        listed = self.store.list()
        chains = {one.chain for one in removed}
        self.store.delete(
            name
            for name in listed
            if (found := _COMMIT.fullmatch(name))
            and (found[1] in chains or (found[1] == self._last.chain and int(found[2]) < number))
        )
        leftover |= {name for one in removed for name in one.grown}
        self.store.delete(_unnamed(listed, leftover, self._last))

    def commit(self, *, flush: bool = False) -> None:
        """Stores what the files hold now; `flush`: all that grew in objects of their own, which other programs read.

        Raises:
            StorageError: another process took the folder, or the store fails; the last commit is as it was.
        """
        number = self._last.number + 1
        grown = {name: self._grow(name, number, flush) for name in self._grown if (self.folder / name).exists()}
        whole = {name: text for name in self._whole if (text := _text(self.folder / name)) is not None}
        now = replace(self._last, number=number, writer=self._writer, time=time.time(), grown=grown, whole=whole)
        now = replace(now, files=dict(self.files), far=dict(self.far))
        if not self.store.create(now.name, now.to_json()):
            self.store.delete(now.pieces() - self._last.pieces())
            raise StorageError(
                f"{self.store.path} was taken over by another process, which began later and goes on: this one ends; "
                "what both have written counts once"
            )
        if self._last.number > 1:  # the one before stays: who has just read its name can read it
            self.store.delete([commit_name(now.chain, self._last.number - 1)])
        self.store.delete(sorted(self._last.pieces() - now.pieces(), key=lambda name: "config.json" not in name))
        self._last = now
        self._committed = sum(file.stored + len(_bytes(file.tail)) for file in grown.values())

    def commit_much(self) -> None:
        """Commits where more than a piece was written since the last commit; raises what `commit` raises."""
        files = (self.folder / name for name in self._grown)
        if sum(file.stat().st_size for file in files if file.exists()) - self._committed > PIECE:
            self.commit()

    def close(self) -> None:
        """Removes the folder, and lets other processes of this machine work on the run."""
        if self._lock is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
        self._lock = None

    def _grow(self, name: str, number: int, flush: bool) -> Grown:
        """The file as it is now; writes the object for what has grown past a piece."""
        before = self._last.grown.get(name, Grown())
        with (self.folder / name).open("rb") as file:
            file.seek(before.stored)
            data = file.read()
        if not data or (len(data) < PIECE and not flush):
            return replace(before, tail=_decoded(data))
        stem, dot, ending = name.rpartition(".")
        piece = f"{stem}.{number:08d}-{uuid.uuid4().hex[:8]}{dot}{ending}"
        self.store.write(piece, data)
        return Grown((*before.pieces, (piece, len(data))))


def _unnamed(listed: Mapping[str, Object], files: set[str], commit: Commit) -> list[str]:
    """The objects that hold pieces of files, and that the commit does not name."""
    named = commit.pieces()
    return [
        name
        for name in listed
        if name not in named and (found := _PIECE_NAME.fullmatch(name)) and f"{found[1]}{found[2]}" in files
    ]


def _text(file: Path) -> str | None:
    return _decoded(file.read_bytes()) if file.exists() else None


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    """What `_decoded` was given, whatever it was."""
    return text.encode("utf-8", "surrogateescape")


def _lock(path: Path, run: StorePath) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 200).decode(errors="replace") or "another process"
        os.close(handle)
        raise StorageError(f"{run} is in use by {owner}: wait for it, or use another --output") from None
    except OSError:  # a file system without locks: commits tell processes apart all the same
        pass
    os.ftruncate(handle, 0)
    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return handle
