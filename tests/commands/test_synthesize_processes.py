"""Several processes, as on a pod: two on this machine, which find each other as Slurm's tasks do."""

import os
import signal
from pathlib import Path
from typing import Any

from tests.kit import process, slurm
from tests.kit.run_synthesize import NAME, pair, records, whole

MESH = ("mesh.data=2", "mesh.fsdp=2")
PAGES = ("engine.cache_tokens=1536", "engine.page=16")  # each device has those of one row of full length
SETTINGS = ("engine.batch=4", *MESH, *PAGES, "engine.compilation_cache=null")
JOB = os.getpid() % 500 * 8  # it decides the port


def first_samples() -> list[dict[str, Any]]:
    return [record for record in whole() if record["sample_index"] == 0]


def dispatches(run: Path, count: int) -> set[int]:
    """How many each of the processes has done."""
    return {len(file.read_bytes().splitlines()) for file in run.glob(f"metrics-*-of-{count:05d}.jsonl")}


def test_two_processes_write_the_rows_of_one(tmp_path: Path) -> None:
    """One is told to stop: both do, after the same dispatch. Then both go on to the end."""
    run = tmp_path / "run"
    command = [NAME, pair(), "--pod", "--pod-timeout", 10, "--output", run, *SETTINGS]
    told = process.signalled(signal.SIGTERM, process.DISPATCH, 1, 0, *command)
    ends = slurm.wait(slurm.start([["-m", *command], told], 2, JOB))
    assert [end.code for end in ends] == [130, 130], ends
    assert len(dispatches(run, 2)) == 1
    assert len(records(run)) < len(first_samples())
    ends = slurm.wait(slurm.start([["-m", *command]] * 2, 2, JOB + 1))
    assert [end.code for end in ends] == [0, 0], ends
    assert records(run) == first_samples()
    assert len(list((run / "data").glob("part-*-of-00002.jsonl"))) == 2
