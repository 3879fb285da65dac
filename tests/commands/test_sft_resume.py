"""Resuming is exact: however a run is interrupted, it trains on the same batches and ends with the same weights."""

import random
import resource
import shutil
import signal
import time
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tessy_jax.sft import main
from tessy_jax.train import trainer
from tessy_jax.train.checkpoints import DiskCheckpoints
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.step import TrainState
from tessy_jax.train.student import Student
from tests.kit import process
from tests.kit.run_sft import EIGHT, FOUR, call, difference, kill_often, metrics, order, student, whole


def test_killed_processes(tmp_path):
    """The reference ran in this process, the killed ones in others."""
    run = tmp_path / "run"
    seen = kill_often(student(), run, 2, random.Random(4))
    assert len(seen) == 2
    assert metrics(run) == metrics(whole())
    assert difference(run, whole()) == 0


@pytest.fixture
def interrupt_at(monkeypatch, interrupt):
    """Sends signals to the process when a step begins to be computed."""

    def at(steps: dict[int, int]) -> None:
        place, calls = trainer.place, []

        def counted(batch, sharding):
            calls.append(batch)
            if (number := steps.get(len(calls))) is not None:
                interrupt(number)
            return place(batch, sharding)

        monkeypatch.setattr(trainer, "place", counted)

    return at


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_saves_and_leaves(tmp_path, monkeypatch, interrupt_at, capsys, number):
    run = tmp_path / "run"
    interrupt_at({6: number})  # the first is the evaluation before the first step
    assert call("--output", run) == 130
    messages = capsys.readouterr().err
    assert "stopping after this step; once more to stop at once" in messages
    assert "stopped after step 4 of 14; the same command goes on from here" in messages
    assert not (run / "export").exists()
    assert (run / "checkpoints/4").is_dir()
    monkeypatch.undo()
    assert call("--output", run) == 0
    assert "going on after step 4 of 14" in capsys.readouterr().err
    assert metrics(run) == metrics(whole())
    assert difference(run, whole()) == 0


def test_eight_devices_then_four(tmp_path, monkeypatch, interrupt_at):
    """Both are the run on one device, within the rounding of float32; so is one that changes over."""
    run = tmp_path / "run"
    interrupt_at({8: signal.SIGINT})
    assert call("--output", run, *EIGHT) == 130
    monkeypatch.undo()
    done = len(order(run))
    assert 0 < done < 14
    assert call("--output", run, *FOUR) == 0
    assert order(run) == order(whole())
    losses, wanted = ([row["loss"] for row in metrics(r) if "loss" in row] for r in (run, whole()))
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    assert difference(run, whole()) < 2e-6


def test_more_pieces_are_the_same_run(tmp_path, monkeypatch, interrupt_at):
    """A run may go on with another accumulation, as it may on other devices."""
    run = tmp_path / "run"
    interrupt_at({6: signal.SIGINT})
    assert call("--output", run) == 130
    monkeypatch.undo()
    assert call("--output", run, "batch.accumulate=4") == 0
    assert order(run) == order(whole())
    assert difference(run, whole()) < 2e-6


def test_a_torn_checkpoint_is_not_taken(tmp_path):
    """What a kill leaves of a checkpoint that is being written has another name, and goes away."""
    run = tmp_path / "run"
    shutil.copytree(whole(), run)
    torn = run / "checkpoints/14"
    torn.rename(run / "checkpoints/14.orbax-checkpoint-tmp")
    shutil.rmtree(run / "export")
    with DiskCheckpoints(run / "checkpoints", keep=2) as checkpoints:
        assert checkpoints.steps == [12]
    assert call("--output", run) == 0
    assert metrics(run) == metrics(whole())
    assert difference(run, whole()) == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["12", "14"]


def test_disk_full(tmp_path, monkeypatch, capsys):
    """Writing in the background fails: the run ends with a message, and goes on from the checkpoint before."""
    run, soft = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    place, calls = trainer.place, []

    def no_room_later(batch, sharding):
        calls.append(batch)
        if len(calls) == 8:  # after the checkpoint of step 3
            wait_for(run / "checkpoints/3")
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, soft[1]))
        return place(batch, sharding)

    monkeypatch.setattr(trainer, "place", no_room_later)
    try:
        assert call("--output", run) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    monkeypatch.undo()
    message = capsys.readouterr().err.partition("error: ")[2]
    assert message.startswith("cannot write ")
    assert "earlier checkpoints are as they were; repair this and run the same command again" in message
    assert call("--output", run) == 0
    assert "going on after step 3 of 14" in capsys.readouterr().err
    assert metrics(run) == metrics(whole())
    assert difference(run, whole()) == 0


def wait_for(folder):
    while not folder.is_dir():
        time.sleep(0.01)


def test_the_best_checkpoint_stays(tmp_path):
    """The one with the lowest held-out loss, and the newest."""
    state = _state(0)
    with DiskCheckpoints(tmp_path / "checkpoints", keep=2, best=1) as checkpoints:
        for step, loss in enumerate([0.5, 0.1, 0.7, None, 0.6]):
            checkpoints.save(step, _state(step), {"next": step}, loss)
            checkpoints.check()
        checkpoints.wait()
        assert (checkpoints.steps, checkpoints.newest, checkpoints.best) == ([1, 3, 4], 4, 1)
    with DiskCheckpoints(tmp_path / "checkpoints", keep=2, best=1) as checkpoints:
        assert (checkpoints.steps, checkpoints.best) == ([1, 3, 4], 1)
        restored, data = checkpoints.restore(1, state)
    assert data == {"next": 1}
    jax.tree.map(np.testing.assert_array_equal, restored, _state(1))


def test_interrupt_before_the_loop(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Student, "open", Mock(side_effect=KeyboardInterrupt))
    assert main([str(student()), "--output", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_one_process_at_a_time(tmp_path, capsys):
    """A second command on the same directory says who is there; a second signal ends the first at once."""
    run = tmp_path / "run"
    training = process.start("-m", "tessy_jax.sft", student(), "--output", run, "max_steps=3000", "epochs=600")
    process.read_until(training, "compiling for")
    assert call("--output", run) == 1
    assert f"{run} is in use by process {training.pid} on " in capsys.readouterr().err
    training.send_signal(signal.SIGINT)
    process.read_until(training, "stopping after this step")
    training.send_signal(signal.SIGINT)
    assert training.wait(timeout=10) == 130


def _state(step: int):
    params = {"a.weight": jnp.full((3, 2), float(step)), "norm.weight": jnp.full(3, -float(step))}
    return TrainState(jnp.int32(step), params, AdamW(peak=1.0, steps=9).transform().init(params), {})
