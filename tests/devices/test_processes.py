"""Processes of a pod: some on this machine, which find each other as Slurm's tasks do."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tessy_jax.devices import processes
from tessy_jax.errors import ConfigError
from tests.kit.slurm import task, wait
from tests.kit.tiny import qwen3

WORKER = """
import sys, time
from pathlib import Path
import jax
import numpy as np
from flax import nnx
from tessy_jax import models
from tessy_jax.console import app
from tessy_jax.devices import processes
from tessy_jax.models import tensors, weights

def load(folder):
    "Whether a model that is split over all processes is the one in the folder; which bytes of it this process read."
    weights._SMALL, taken, part = 0, [], tensors.Tensor.part
    def counted(tensor, index):
        found = part(tensor, index)
        taken.append(found.nbytes)
        return found
    tensors.Tensor.part = counted
    mesh = jax.make_mesh((jax.device_count(),), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.tree.leaves(nnx.state(models.load(folder, mesh=mesh)))
    tensors.Tensor.part = part
    whole = jax.tree.leaves(nnx.state(models.load(folder)))
    same = all(
        np.array_equal(shard.data, np.asarray(theirs)[shard.index])
        for ours, theirs in zip(split, whole, strict=True) for shard in ours.addressable_shards
    )
    return f"{same} {sum(taken)} of {4 * sum(leaf.size for leaf in whole)}"

def run(options, console):
    processes.COMING = 3 if options.what == "lonely" else 100
    processes.initialize(10, {"engine": {"batch": options.batch}})
    print("ready" if options.what == "waits" else load(options.what), flush=True)
    if jax.process_index() == options.sleeps:
        print("ready", flush=True)
        time.sleep(300)
    processes.barrier("never")
    return 0

arguments = (app.option("what", "?"), app.option("--batch", "?", type=int), app.option("--sleeps", "?", type=int))
sys.exit(app.Command(name="worker", description="?", options=arguments, run=run)())
"""


def start(index: int, what: object, *, sleeps: int, count: int = 2, batch: int = 4) -> subprocess.Popen[str]:
    job = 100_000 + (os.getpid() * 8 + count + 4 * sleeps) % 4000
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(what), "--batch", str(batch), "--sleeps", str(sleeps)],
        env=os.environ | task(index, job, count) | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    """The next line that JAX has not written."""
    assert process.stdout is not None
    return next(text for text in process.stdout if not text.startswith("[Gloo]")).strip()


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that end with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("gone", [1, 0])
def test_processes_whose_neighbour_died_end(gone: int, ended: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    """Within the timeout and some seconds, with a message. Process 0 is the one by which they find each other.

    Before that they load a model, of which each process reads its share, and no more.
    """
    qwen3(tmp_path / "model", vocab_size=96)
    ended += [start(index, tmp_path / "model", sleeps=gone) for index in (0, 1)]
    for process in ended:
        same, taken, _, whole = line(process).split()
        assert same == "True"
        assert int(taken) <= 0.51 * int(whole)  # vectors that are whole on both are read twice
    assert line(ended[gone]) == "ready"
    died = time.monotonic()
    ended[gone].kill()
    (end,) = wait([ended[1 - gone]], 60)
    assert time.monotonic() - died < 20
    assert end.code == 1, end.said
    assert f"error: process {gone} of 2 (counted from 0) has" in end.said
    assert "the same command goes on" in end.said
    assert "stack trace" not in end.said
    if gone:
        assert "not been heard of for 10 s" in end.said


def test_a_process_that_is_started_otherwise_ends_all(ended: list[subprocess.Popen[str]]) -> None:
    ended += [start(index, "waits", sleeps=2, count=3, batch=4 + index // 2) for index in range(3)]
    begun = time.monotonic()
    ends = wait(ended, 60)
    assert [end.code for end in ends] == [2, 2, 2], ends
    named = "process 2 of 3 (counted from 0) was started otherwise than process 0:\n  engine.batch: 4 there, 5 here"
    assert f"error: {named}" in ends[2].said
    for end in ends[:2]:
        assert f"error: process 2 of 3 (counted from 0) has ended with exit code 2: {named}" in end.said
    assert time.monotonic() - begun < 60


def test_a_process_whose_neighbours_never_come(ended: list[subprocess.Popen[str]]) -> None:
    ended += [start(0, "lonely", sleeps=3)]
    (end,) = wait(ended, 60)
    assert end.code == 1
    assert "error: --pod: the other processes did not come within 3 s: start all of them" in end.said


def test_a_timeout_that_is_too_short() -> None:
    with pytest.raises(ConfigError, match="--pod-timeout 5: give at least 10 seconds"):
        processes.initialize(5, {})
