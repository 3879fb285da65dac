"""Several processes, as on a pod: two on this machine, which find each other as Slurm's tasks do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.kit.run_synthesize import journaled, pair, records, whole
from tests.kit.slurm import task

MESH = ("mesh.data=2", "mesh.fsdp=2")
PAGES = ("engine.cache_tokens=1536", "engine.page=16")  # each device has those of one row of full length
SETTINGS = ("engine.batch=4", *MESH, *PAGES, "engine.compilation_cache=null")


def start(run: Path, job: int) -> list[subprocess.Popen[str]]:
    """The command on two processes with two devices each."""
    command = [sys.executable, "-m", "tessy_jax.synthesize", str(pair()), "--pod", "--output", str(run), *SETTINGS]

    def process(index: int) -> subprocess.Popen[str]:
        # Slurm's tasks have a device each unless they are told; on the CPU all of a process's devices are its own.
        flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
        environment = os.environ | task(index, job) | flags
        return subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return [process(0), process(1)]


def wait(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    return [(p.returncode, errors) for p in processes for errors in [p.communicate(timeout=300)[1]]]


def test_two_processes_write_the_rows_of_one(tmp_path: Path) -> None:
    """One is told to stop: both do. Then both go on to the end."""
    run = tmp_path / "run"
    job = os.getpid() % 2000 * 2  # it decides the port
    processes = start(run, job)
    while not journaled(run) and all(p.poll() is None for p in processes):
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    ends = wait(processes)
    assert [code for code, _ in ends] == [130, 130], ends
    first = [record for record in whole() if record["sample_index"] == 0]
    assert len(records(run)) < len(first)
    ends = wait(start(run, job + 1))
    assert [code for code, _ in ends] == [0, 0], ends
    assert records(run) == first
    assert len(list((run / "data").glob("part-*-of-00002.jsonl"))) == 2
