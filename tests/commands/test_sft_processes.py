"""Several processes, as on a pod: two and four on this machine, which find each other as Slurm's tasks do."""

import os
import signal
import time
from pathlib import Path

from tests.kit import process, slurm
from tests.kit.run_sft import difference, order, student, whole

SETTINGS = ("mesh.data=2", "mesh.fsdp=2", "checkpoint.every=3", "compute.compilation_cache=null")
LONGEST = 90
"""Seconds until all have ended; 20 where nothing else runs."""

JOB = 4000 + os.getpid() % 500 * 8  # it decides the port


def test_two_and_four_processes_train_as_one(tmp_path: Path) -> None:
    """Each has a part of a step's rows and of the weights; the batches, and so the weights, are those of one.

    Two are stopped by a signal to one of them, four by the death of one; two go on to the end.
    """
    run = tmp_path / "run"
    command = ["tessy_jax.sft", student(), "--pod", "--pod-timeout", 10, "--output", run, *SETTINGS]
    told = process.signalled(signal.SIGTERM, process.STEP, 2, 0, *command)
    processes = slurm.start([["-m", *command], told], 2, JOB)
    process.read_until(processes[1], "sending itself SIGTERM")
    begun = time.monotonic()
    ends = slurm.wait(processes)
    assert [end.code for end in ends] == [130, 130], ends
    assert time.monotonic() - begun < LONGEST
    assert "the same command goes on from here" in ends[0].said
    assert 0 < len(order(run)) < 14

    dies = process.signalled(signal.SIGKILL, process.STEP, 2, 0, *command)
    processes = slurm.start([["-m", *command], ["-m", *command], dies, ["-m", *command]], 1, JOB + 1)
    processes[2].wait()
    died = time.monotonic()
    ends = slurm.wait(processes)
    assert [end.code for end in ends] == [1, 1, -signal.SIGKILL, 1], ends
    assert time.monotonic() - died < LONGEST
    for end in (ends[0], ends[1], ends[3]):
        assert "error: process 2 of 4 (counted from 0) has not been heard of for 10 s" in end.said
        assert "stack trace" not in end.said

    ends = slurm.wait(slurm.start([["-m", *command]] * 2, 2, JOB + 2))
    assert [end.code for end in ends] == [0, 0], ends
    assert f"the student after step 14 is in {run}/export" in ends[0].said
    assert "step 14" not in ends[1].said  # one speaks for all
    assert [step for step, _ in order(run)] == list(range(1, 15))
    assert difference(run, whole()) < 2e-6
