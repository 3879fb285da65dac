"""Nothing is lost (design, invariant 5): however a run is interrupted, in the end it has written the same records."""

import errno
import json
import os
import random
import shutil
import signal
import time
from unittest.mock import Mock

from tessy_jax.baselines.registry import Methods
from tessy_jax.cooperate.turn import WorkCount
from tessy_jax.data import jsonl
from tessy_jax.data.run_rows import RunDir
from tessy_jax.engine.engine import Dispatch, Engine
from tessy_jax.synthesize import main
from tests.kit import process
from tests.kit.run_synthesize import NAME, call, kill_often, pair, records, whole


class Disk:
    """`os` for the module that writes a run's files; `before` is called between any two changes on the disk."""

    def __init__(self, before):
        self.before = before

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, file, data):
        self.before("write")
        written = os.write(file, data[: len(data) // 2])
        self.before("half a line")
        return written + os.write(file, data[len(data) // 2 :])

    def replace(self, old, new):
        self.before("replace")
        os.replace(old, new)


def test_killed_processes(tmp_path):
    """While rows wait for pages, of which there are those of one row of full length."""
    few = ("engine.batch=6", "engine.cache_tokens=384", "engine.page=16")
    seen = kill_often(pair(), tmp_path / "run", 2, random.Random(1), "samples=2", *few)
    assert records(tmp_path / "run") == whole()
    assert len(seen) > 1
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["evicted"] for line in metrics) > 0


def test_killed_at_any_change_of_the_disk(tmp_path, monkeypatch):
    """A kill leaves the disk as it is at that moment: a copy of the run is a run that was killed there."""
    run, rng, copies = tmp_path / "run", random.Random(2), {}

    def maybe_copy(moment):
        if rng.random() < 0.06:
            copies[shutil.copytree(run, tmp_path / f"copy{len(copies)}")] = moment

    monkeypatch.setattr(jsonl, "os", Disk(maybe_copy))
    assert call("--output", run, "samples=2") == 0
    monkeypatch.undo()
    assert records(run) == whole()
    assert len(copies) >= 5
    for copy, moment in copies.items():
        assert call("--output", copy, "samples=2") == 0, moment
        assert records(copy) == whole(), moment


def test_disk_full(tmp_path, monkeypatch, capsys):
    run, left = tmp_path / "run", [60]

    def fill(moment):
        left[0] -= 1
        if left[0] < 0 and moment != "replace":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(jsonl, "os", Disk(fill))
    assert call("--output", run, "samples=2") == 1
    monkeypatch.undo()
    there = len(records(run))
    message = f"{there} records are safe; free space and run the same command again"
    assert "error: disk full while writing " in (shown := capsys.readouterr().err)
    assert message in shown
    assert 0 < there < len(whole())
    assert call("--output", run, "samples=2") == 0
    assert records(run) == whole()


def test_first_interrupt_finishes_the_dispatch(tmp_path, monkeypatch, capsys, interrupt):
    run, write, journals = tmp_path / "run", RunDir.write_journal, []

    def interrupted(self, rows):
        journals.append(rows)
        if len(journals) == 3:
            interrupt()
        write(self, rows)

    monkeypatch.setattr(RunDir, "write_journal", interrupted)
    assert call("--output", run, "samples=2") == 130
    monkeypatch.undo()
    messages = capsys.readouterr().err
    assert "stopping after this dispatch; once more to stop at once" in messages
    assert "stopped; the same command goes on from here" in messages
    assert len(journals) == 3
    text = (run / "journal/rows-00000-of-00001.jsonl").read_text()
    assert text.splitlines() == [row.to_json() for row in journals[-1]]
    assert len(journals[-1]) == 3 - len(records(run)) > 1

    def one_dispatch_with_one_slot(self, jobs):
        job, none = next(jobs), (0, 0)
        yield Dispatch([], [], [job.state], WorkCount.filled(none), none, none, 0, 0, {})

    with monkeypatch.context() as patches:
        patches.setattr(Engine, "run", one_dispatch_with_one_slot)
        call("--output", run, "samples=2")
    assert (run / "journal/rows-00000-of-00001.jsonl").read_text() == text
    assert call("--output", run, "samples=2") == 0
    assert records(run) == whole()


def test_interrupt_before_the_loop(tmp_path, monkeypatch, capsys):
    config = str(pair())
    capsys.readouterr()  # a library's progress bars, where this test is the first to make the models
    monkeypatch.setattr(Methods, "open", Mock(side_effect=KeyboardInterrupt))
    assert main([config, "--output", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_second_interrupt_ends_at_once(tmp_path):
    command = process.start("-m", NAME, pair(), "--output", tmp_path / "run", "engine.compilation_cache=null")
    process.read_until(command, "compiling for")
    time.sleep(1)
    command.send_signal(signal.SIGINT)
    process.read_until(command, "stopping after this dispatch")
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=5) == 130
