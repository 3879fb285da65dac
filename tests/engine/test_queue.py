"""Jobs that wait for a slot."""

from tessy_jax.data.records import Problem, RowState
from tessy_jax.engine.queue import JobQueue, Waiting
from tessy_jax.engine.rows import Job

JOBS = [Job(Problem(id=name, messages=[]), 0) for name in "abc"]


def state(id: str) -> RowState:
    return RowState(id, 0, b"so", (), "student", "think", 0, 0, (7,), (2,), 0, {}, None)


def test_a_queue_knows_when_its_last_job_is_taken() -> None:
    """With as many rows as slots none is waited for: from the first pass on all are to end at about the same time."""
    for asked_between in (True, False):
        queue = JobQueue(JOBS)
        for age, job in enumerate(JOBS, 1):
            assert not asked_between or queue
            assert queue.take() == Waiting(age, job)
        assert not queue
        assert queue.take() is None
        queue.put_back(Waiting(2, JOBS[1]))
        assert queue
        assert queue.take() == Waiting(2, JOBS[1])
        assert not queue


def test_a_job_that_was_looked_at_stays_in_the_journal() -> None:
    """A job that goes on is not in the journal that was read any more, and in no slot yet."""
    begun = [Job(job.problem, 0, state(job.problem.id)) for job in JOBS]
    read = list(begun)
    queue = JobQueue(read.pop(0) for _ in begun)
    queue.take()
    assert queue
    assert queue.states() + [job.state for job in read] == [job.state for job in begun[1:]]
    queue.put_back(Waiting(1, begun[0]))
    assert queue.states() == [begun[0].state, begun[1].state]
    assert [queue.take() for _ in begun] == [Waiting(age, job) for age, job in enumerate(begun, 1)]
