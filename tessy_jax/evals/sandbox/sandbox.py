"""The sandbox: slots in which programs run side by side, and the proof, when it is opened, that they are held."""

import contextlib
import itertools
import os
import pwd
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tessy_jax.evals.sandbox.box import Box
from tessy_jax.evals.sandbox.job import Job, Outcome
from tessy_jax.evals.sandbox.self_check import check
from tessy_jax.evals.sandbox.slot import GRACE, Slot

FIRST_UID = 60706
"""Root's programs run as users from here on, one per slot: a range that systemd leaves unused."""


class Sandbox:
    """Runs programs, as many at a time as there are slots. For threads.

    Args:
        workers: slots; more than there are cores make times, and so verdicts, depend on the load.
    """

    def __init__(self, box: Box, workers: int):
        self.box, self.workers = box, workers
        self._slots = [Slot(box, uid) for uid in _users(workers)]
        self._free = list(self._slots)
        self._alone = self._closed = False
        self._change = threading.Condition()

    @classmethod
    def open(
        cls, workers: int | None = None, *, python: Path = Path("/usr/bin/python3"), roots: Sequence[Path] = ()
    ) -> "Sandbox":
        """Finds bubblewrap, and tries whether it holds.

        Args:
            workers: None: one per core.
            python: runs the trial.
            roots: folders that programs see besides /usr.

        Raises:
            SandboxError: programs cannot be run safely here; with the reason and the remedy.
        """
        sandbox = cls(Box.find(roots), workers or len(os.sched_getaffinity(0)))
        try:
            check(sandbox.run, python)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def run(self, job: Job, *, alone: bool = False) -> Outcome:
        """Waits for a slot, and runs.

        Args:
            alone: waits until nothing else runs, and keeps the others waiting.
        """
        with self._slot(alone) as slot:
            return Outcome(failure="the sandbox is closed") if self._closed else slot.run(job)

    @contextlib.contextmanager
    def _slot(self, alone: bool) -> Iterator[Slot]:
        with self._change:
            if alone:
                self._change.wait_for(lambda: not self._alone)
                self._alone = True
                self._change.wait_for(lambda: len(self._free) == self.workers)
            else:
                self._change.wait_for(lambda: self._free and not self._alone)
            slot = self._free.pop()
        try:
            yield slot
        finally:
            with self._change:
                self._free.append(slot)
                self._alone = self._alone and not alone
                self._change.notify_all()

    def close(self) -> None:
        """Ends all that runs; the threads that wait for it get failures."""
        self._closed = True
        for slot in self._slots:
            slot.interrupt()
        with self._change:
            self._change.wait_for(lambda: len(self._free) == self.workers, GRACE)
        for slot in self._slots:
            slot.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _users(count: int) -> list[int | None]:
    """A user per slot, whom no account has. Limits do not bind root, so its programs must not be root's."""
    if os.getuid() != 0:
        return [None] * count
    taken = {account.pw_uid for account in pwd.getpwall()}
    free = (uid for uid in itertools.count(FIRST_UID) if uid not in taken)
    return list(itertools.islice(free, count))
