"""Jobs that wait for a slot: first those whose rows gave their pages back, then new ones."""

import heapq
import logging
import threading
from collections import deque
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from tessy_jax.data.inputs import Reject
from tessy_jax.data.records import Problem, RowState
from tessy_jax.engine.rows import Job

log = logging.getLogger(__name__)


class Waiting(NamedTuple):
    """A job, and how many were taken before it for the first time: the lower, the older."""

    age: int
    job: Job


class JobQueue:
    """The jobs of one run, the oldest first. At most one is taken from `jobs` before it is wanted."""

    def __init__(self, jobs: Iterable[Job] = ()):
        self._jobs, self._again, self._taken = iter(jobs), list[Waiting](), 0
        self._ahead: Job | None = None

    def __bool__(self) -> bool:
        """Whether there is another."""
        if self._ahead is None:
            self._ahead = next(self._jobs, None)
        return self._ahead is not None or bool(self._again)

    def take(self) -> Waiting | None:
        """The next; None: there is none."""
        if self._again:
            return heapq.heappop(self._again)
        job = self._next()
        if job is None:
            return None
        self._taken += 1
        return Waiting(self._taken, job)

    def _next(self) -> Job | None:
        job, self._ahead = self._ahead, None
        return next(self._jobs, None) if job is None else job

    def put_back(self, waiting: Waiting) -> None:
        """Keeps one that was taken for later."""
        heapq.heappush(self._again, waiting)

    def take_cancelled(self) -> set[tuple[str, int]]:
        """The jobs for which nobody waits any more since the last call."""
        return set()

    def states(self) -> list[RowState]:
        """Where those stand that were begun."""
        waiting = [job for _, job in self._again] + ([self._ahead] if self._ahead else [])
        return [job.state for job in waiting if job.state is not None]

    def drop(self, keys: Container[tuple[str, int]]) -> None:
        """Forgets those jobs that were put back."""
        self._again = [waiting for waiting in self._again if waiting.job.key not in keys]
        heapq.heapify(self._again)


class OpenQueue(JobQueue):
    """Jobs that come while others run. A run ends where none is there; the next one goes on with those that have come.

    `put`, `cancel`, `wait` and `close` may be called from any thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._new = deque[Job]()
        self._cancelled = set[tuple[str, int]]()
        self._changed = threading.Condition()
        self._closed = False

    def __bool__(self) -> bool:
        """Always: a row that is done is told at once, for somebody waits for it."""
        return True

    def put(self, job: Job) -> None:
        with self._changed:
            self._new.append(job)
            self._changed.notify_all()

    def cancel(self, key: tuple[str, int]) -> None:
        """Nobody waits for this job any more: it is not begun, or its slot becomes free at the next dispatch."""
        with self._changed:
            self._cancelled.add(key)
            self._new = deque(job for job in self._new if job.key != key)

    def close(self) -> None:
        """`wait` says that no more comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self) -> bool:
        """Waits for a job; False: the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._new or self._closed)
            return not self._closed

    def take_cancelled(self) -> set[tuple[str, int]]:
        """The jobs that were cancelled since the last call, but for those that were not begun."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
        self.drop(cancelled)
        return cancelled

    def _next(self) -> Job | None:
        with self._changed:
            return self._new.popleft() if self._new else None


def usable(rows: Iterable[Problem | Reject]) -> Iterator[Problem]:
    """The problems; what cannot be used is named in the log."""
    for row in rows:
        if isinstance(row, Reject):
            log.warning("%s:%d: %s", row.file, row.line, row.reason)
        else:
            yield row


def place(problem: Problem) -> str:
    """The problem's id, and where its row stands: "p7 (problems.jsonl:8)"."""
    return f"{problem.id} ({problem.file}:{problem.line})" if problem.file else problem.id
