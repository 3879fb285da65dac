"""Several processes, as on a pod: two and four on this machine, which find each other as Slurm's tasks do."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.kit import slurm
from tests.kit.run_sft import difference, order, steps, student, whole

SETTINGS = ("mesh.data=2", "mesh.fsdp=2", "checkpoint.every=3", "compute.compilation_cache=null")
LONGEST = 90
"""Seconds until all have ended; 20 where nothing else runs."""

JOB = 4000 + os.getpid() % 500 * 8  # it decides the port


def start(run: Path, count: int, job: int) -> list[subprocess.Popen[str]]:
    """The command on so many processes, which have four devices between them."""
    more = ("--pod", "--pod-timeout", 10, "--output", run, *SETTINGS)
    return slurm.start_all(["-m", "tessy_jax.sft", student(), *more], count, 4 // count, job)


def trained(run: Path) -> int:
    """Steps whose numbers are there."""
    return len(order(run)) if steps(run) else 0


def await_step(run: Path, processes: Sequence[subprocess.Popen[str]]) -> None:
    """Returns when one more step is done, or a process has ended."""
    before = trained(run)
    while trained(run) <= before and all(p.poll() is None for p in processes):
        time.sleep(0.005)


def test_two_and_four_processes_train_as_one(tmp_path: Path) -> None:
    """Each has a part of a step's rows and of the weights; the batches, and so the weights, are those of one.

    Two are stopped by a signal to one of them, four by the death of one; two go on to the end.
    """
    run = tmp_path / "run"
    processes = start(run, 2, JOB)
    await_step(run, processes)
    processes[1].send_signal(signal.SIGTERM)
    told = time.monotonic()
    ends = slurm.wait(processes)
    assert [end.code for end in ends] == [130, 130], ends
    assert time.monotonic() - told < LONGEST
    assert "the same command goes on from here" in ends[0].said
    assert 0 < len(order(run)) < 14

    processes = start(run, 4, JOB + 1)
    await_step(run, processes)
    processes[2].kill()
    died = time.monotonic()
    ends = slurm.wait(processes)
    assert [end.code for end in ends] == [1, 1, -signal.SIGKILL, 1], ends
    assert time.monotonic() - died < LONGEST
    for end in (ends[0], ends[1], ends[3]):
        assert "error: process 2 of 4 (counted from 0) has not been heard of for 10 s" in end.said
        assert "stack trace" not in end.said

    ends = slurm.wait(start(run, 2, JOB + 2))
    assert [end.code for end in ends] == [0, 0], ends
    assert f"the student after step 14 is in {run}/export" in ends[0].said
    assert "step 14" not in ends[1].said  # one speaks for all
    assert [step for step, _ in order(run)] == list(range(1, 15))
    assert difference(run, whole()) < 2e-6
