"""Processes of a pod: two on this machine, which find each other as Slurm's tasks do."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tessy_jax.devices import processes
from tessy_jax.errors import ConfigError
from tests.kit.slurm import task

WORKER = """
from tessy_jax.devices import processes
processes.initialize(10)
processes.barrier("all are there")
print("ready", flush=True)
processes.barrier("never")
"""


@pytest.fixture
def pod() -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that have joined; the first then waits for the second, which never comes."""

    def start(index: int) -> subprocess.Popen[str]:
        body = WORKER if index == 0 else WORKER.replace('processes.barrier("never")', "import time; time.sleep(300)")
        return subprocess.Popen(
            [sys.executable, "-c", body],
            env=os.environ | task(index, 100_000 + os.getpid() % 2000) | {"XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    workers = [start(0), start(1)]
    yield workers
    for worker in workers:
        worker.kill()
        worker.communicate()


def test_a_process_whose_neighbour_died_ends(pod: list[subprocess.Popen[str]]) -> None:
    """Within the timeout and some seconds, and not as one that is done."""
    for worker in pod:
        assert worker.stdout is not None
        assert "ready\n" in worker.stdout
    died = time.monotonic()
    pod[1].kill()
    assert pod[0].wait(timeout=60) != 0
    assert time.monotonic() - died < 40, "JAX's own timeout is 100 seconds"


def test_a_timeout_that_is_too_short() -> None:
    with pytest.raises(ConfigError, match="--pod-timeout 5: give at least 10 seconds"):
        processes.initialize(5)
