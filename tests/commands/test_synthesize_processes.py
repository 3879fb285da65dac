"""Several processes, as on a pod: two and four on this machine, which find each other as Slurm's tasks do."""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import as_path
from tessy_jax.storage.store import Store
from tests.kit import slurm
from tests.kit.run_synthesize import call, pair, records, whole
from tests.kit.stores import BUCKET, served

MESH = ("mesh.data=2", "mesh.fsdp=2")
PAGES = ("engine.cache_tokens=1536", "engine.page=16")  # each device has those of one row of full length
SETTINGS = ("engine.batch=4", *MESH, *PAGES, "engine.compilation_cache=null")
LONGEST = 90
"""Seconds until all have ended; 20 where nothing else runs."""

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


def commits(run: Store) -> int:
    """The number of the newest commit of any process."""
    return max((int(name.split(".")[1]) for name in run.list("journal") if "commit" in name), default=0)


def first_samples() -> list[dict[str, Any]]:
    return [record for record in whole() if record["sample_index"] == 0]


def dispatches(run: Path, count: int) -> set[int]:
    """How many each of the processes has done."""
    return {len(file.read_bytes().splitlines()) for file in run.glob(f"metrics-*-of-{count:05d}.jsonl")}


def test_two_and_four_processes_write_the_rows_of_one(tmp_path: Path) -> None:
    """Begun by one; gone on with by four, of which one comes late and one is told to stop: all do, after the same
    dispatch. Then two go on to the end.
    """
    run = tmp_path / "run"
    assert call("--output", run, "limit=1") == 0
    processes = [slurm.start(command(run), index, 4, 1, JOB) for index in range(3)]
    time.sleep(5)
    processes.append(slurm.start(command(run), 3, 4, 1, JOB))
    await_journal(run, processes)
    processes[2].send_signal(signal.SIGTERM)
    told = time.monotonic()
    ends = slurm.wait(processes)
    assert [end.code for end in ends] == [130] * 4, ends
    assert time.monotonic() - told < LONGEST
    assert len(dispatches(run, 4)) == 1
    assert 1 <= len(records(run)) < len(first_samples())

    ends = slurm.wait(start(run, 2, JOB + 1))
    assert [end.code for end in ends] == [0, 0], ends
    assert records(run) == first_samples()
    assert len(list((run / "data").glob("part-*-of-00002.jsonl"))) == 2


def test_killed_on_a_store(tmp_path: Path) -> None:
    """One of two is killed: the other ends with a message. One process goes on to the end, with the same records."""
    copy = tmp_path / "copy"
    with served():
        run = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        processes = start(run, 2, JOB + 2)
        objects = Store.open(as_path(run))
        while commits(objects) < 4:
            assert all(p.poll() is None for p in processes)
            time.sleep(0.2)
        processes[1].kill()
        died = time.monotonic()
        ends = slurm.wait(processes)
        assert [end.code for end in ends] == [1, -signal.SIGKILL], ends
        assert time.monotonic() - died < LONGEST
        assert "error: process 1 of 2 (counted from 0) has not been heard of for 10 s" in ends[0].said
        assert "stack trace" not in ends[0].said
        assert "Traceback" not in ends[0].said
        assert call("--output", run) == 0
        shutil.copytree(local(run), copy)
    assert records(copy) == first_samples()
