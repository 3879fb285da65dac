"""Jobs that wait for a slot: first those whose rows gave their pages back, then new ones."""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from tessy_jax.data.records import RowState
from tessy_jax.engine.rows import Job


class Waiting(NamedTuple):
    """A job, and how many were taken before it for the first time: the lower, the older."""

    age: int
    job: Job


class JobQueue:
    """The jobs of one run, the oldest first."""

    def __init__(self, jobs: Iterator[Job]):
        self._jobs, self._again, self._taken, self._more = jobs, list[Waiting](), 0, True

    def __bool__(self) -> bool:
        """Whether there may be another."""
        return self._more or bool(self._again)

    def take(self) -> Waiting | None:
        """The next; None: there is none."""
        if self._again:
            return heapq.heappop(self._again)
        job = next(self._jobs, None) if self._more else None
        if job is None:
            self._more = False
            return None
        self._taken += 1
        return Waiting(self._taken, job)

    def put_back(self, waiting: Waiting) -> None:
        """Keeps one that was taken for later."""
        heapq.heappush(self._again, waiting)

    def states(self) -> list[RowState]:
        """Where those stand that were begun."""
        return [job.state for _, job in self._again if job.state is not None]
