"""A folder whose files grow, kept on a store: whatever kills the process, what was committed is there, once.

A process works in a folder of this machine and commits now and then: see `commits`. Of a file that grows, what is past
`PIECE` bytes becomes an object of its own, before the commit that names it; the rest is in the commit. So a commit is
there entirely or not at all, and what no commit names does not count. Who comes second with a number has lost the
folder to another process, which began later, and ends: nothing of it counts from then on. Files that are replaced as a
whole are objects too, which a commit names: see `files`.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from tessy_jax.storage.commits import (
    ALONE,
    COMMIT,
    PIECE_NAME,
    WHOLE,
    Commit,
    Grown,
    commit_name,
    newest_commits,
    restore,
    to_bytes,
    to_text,
)
from tessy_jax.storage.paths import StorageError, StorePath
from tessy_jax.storage.places import user_caches
from tessy_jax.storage.store import Object, Store

logger = logging.getLogger(__name__)

PIECE = 4 << 20
"""Bytes of a file that a commit holds at most; more become an object."""

_PAUSE = 1.0
_SHARE = 10
"""Seconds from one commit to the next that need not be at once, and how many times as long as the last one took."""


def work_folder(path: StorePath, chain: str = ALONE) -> Path:
    """The folder of this machine in which a process works on a folder of a store."""
    return user_caches() / "runs" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}-{chain}"


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
        self._writer, self._owner = uuid.uuid4().hex, this_process()
        self._next = 0.0
        self.files, self.far = dict(self._last.files), dict(self._last.far)
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

    @property
    def has_begun(self) -> bool:
        """Whether a run was there when this was opened."""
        return self._began["manifest.json"] is not None

    @property
    def growing(self) -> list[str]:
        """The files that grow of the last commit."""
        return list(self._last.grown)

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
            if (found := COMMIT.fullmatch(name))
            and (found[1] in chains or (found[1] == self._last.chain and int(found[2]) < number))
        )
        leftover |= {name for one in removed for name in one.grown}
        self.store.delete(_unnamed(listed, leftover, self._last))

    def commit(self, *, flush: bool = False, ended: bool = False) -> None:
        """Stores what the files hold now, where the last commit does not hold it.

        Args:
            flush: all that grew goes into objects of their own, which other programs read.
            ended: this process writes nothing more.

        Raises:
            StorageError: another process took the folder, or the store fails; the last commit is as it was.
        """
        began, number, last = time.monotonic(), self._last.number + 1, self._last
        owner = "" if ended else self._owner
        grown = {name: self._grow(name, number, flush) for name in self._grown if (self.folder / name).exists()}
        whole = {name: text for name in self._whole if (text := _text(self.folder / name)) is not None}
        now = replace(last, writer=self._writer, owner=owner, grown=grown, whole=whole)
        now = replace(now, files=dict(self.files), far=dict(self.far))
        if now == last:
            return
        now = replace(now, number=number, time=time.time())
        if not self.store.create(now.name, now.to_json()):
            self.store.delete(now.pieces() - last.pieces())
            raise StorageError(
                f"{self.store.path} was taken over by another process, which began later and goes on: this one ends; "
                "what both have written counts once"
            )
        if last.number > 1:  # the one before stays: who has just read its name can read it
            self.store.delete([commit_name(now.chain, last.number - 1)])
        self.store.delete(sorted(last.pieces() - now.pieces(), key=lambda name: "config.json" not in name))
        self._last = now
        self._committed = sum(file.stored + len(to_bytes(file.tail)) for file in grown.values())
        self._next = time.monotonic() + max(_PAUSE, _SHARE * (time.monotonic() - began))

    def commit_soon(self) -> None:
        """Commits, but not so often that it takes more than a tenth of the time; raises what `commit` raises."""
        if time.monotonic() >= self._next:
            self.commit()

    def commit_much(self) -> None:
        """Commits where more than a piece was written since the last commit; raises what `commit` raises."""
        files = (self.folder / name for name in self._grown)
        if sum(file.stat().st_size for file in files if file.exists()) - self._committed > PIECE:
            self.commit()

    def end(self, error: BaseException | None) -> None:
        """The last commit, of a process that ends well or by an `error`; then as `close`.

        Raises:
            StorageError: the store fails, and there is no other error to be told.
        """
        try:
            if not isinstance(error, StorageError):
                self.commit(flush=True, ended=True)
        except StorageError as failed:
            if error is None:
                raise
            logger.warning("what was written last is not stored, and is written again: %s", failed)
        finally:
            self.close()

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
            return replace(before, tail=to_text(data))
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
        if name not in named and (found := PIECE_NAME.fullmatch(name)) and f"{found[1]}{found[2]}" in files
    ]


def _text(file: Path) -> str | None:
    return to_text(file.read_bytes()) if file.exists() else None


def _lock(path: Path, run: StorePath) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        user = os.read(handle, 200).decode(errors="replace") or "another process"
        os.close(handle)
        raise StorageError(f"{run} is in use by {user}: wait for it, or use another --output") from None
    except OSError:  # a file system without locks: commits tell processes apart all the same
        pass
    os.ftruncate(handle, 0)
    os.write(handle, this_process().encode())
    return handle


def this_process() -> str:
    """This process, for others to read: what locks hold, and commits."""
    return f"process {os.getpid()} on {socket.gethostname()}"
