"""Several processes, as on a pod: two on this machine, which find each other as Slurm's tasks do."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.kit import slurm
from tests.kit.run_synthesize import pair, records, whole

MESH = ("mesh.data=2", "mesh.fsdp=2")
PAGES = ("engine.cache_tokens=1536", "engine.page=16")  # each device has those of one row of full length
SETTINGS = ("engine.batch=4", *MESH, *PAGES, "engine.compilation_cache=null")
JOB = os.getpid() % 500 * 8  # it decides the port


def command(run: object, *more: object) -> list[object]:
    return ["-m", "tessy_jax.synthesize", pair(), "--pod", "--pod-timeout", 10, "--output", run, *SETTINGS, *more]


def start(run: object, count: int, job: int) -> list[subprocess.Popen[str]]:
    """The command on so many processes, which have four devices between them."""
    return slurm.start_all(command(run), count, 4 // count, job)


def await_journal(run: Path, processes: Sequence[subprocess.Popen[str]]) -> None:
    of_these = f"rows-*-of-{len(processes):05d}.jsonl"
    while not list((run / "journal").glob(of_these)) and all(p.poll() is None for p in processes):
        time.sleep(0.1)


def first_samples() -> list[dict[str, Any]]:
    return [record for record in whole() if record["sample_index"] == 0]


def dispatches(run: Path, count: int) -> set[int]:
    """How many each of the processes has done."""
    return {len(file.read_bytes().splitlines()) for file in run.glob(f"metrics-*-of-{count:05d}.jsonl")}


def test_two_processes_write_the_rows_of_one(tmp_path: Path) -> None:
    """One is told to stop: both do, after the same dispatch. Then both go on to the end."""
    run = tmp_path / "run"
    processes = start(run, 2, JOB)
    await_journal(run, processes)
    processes[1].send_signal(signal.SIGTERM)
    ends = slurm.wait(processes)
    assert [end.code for end in ends] == [130, 130], ends
    assert len(dispatches(run, 2)) == 1
    assert len(records(run)) < len(first_samples())
    ends = slurm.wait(start(run, 2, JOB + 1))
    assert [end.code for end in ends] == [0, 0], ends
    assert records(run) == first_samples()
    assert len(list((run / "data").glob("part-*-of-00002.jsonl"))) == 2
