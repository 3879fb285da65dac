"""The order of stages, how many run at a time, what follows a failure or Ctrl-C: with processes of a shell script."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tessy_jax import experiment
from tessy_jax.errors import DONE, ERROR, INTERRUPTED, REJECTS
from tests.kit.run_experiment import write_experiment

ARMS = {"a": {"method": "student_only"}, "b": {"method": "teacher_only"}, "c": {"data": "b"}}
# In the place of Python: it notes its stage and makes its folder; what else it does stands in a file.
SCRIPT = """#!/bin/bash
for last; do :; done
stage=${last#ROOT/out/}
echo "begin $stage" >> ROOT/order
mkdir -p "$last"
echo one; echo two >&2
source ROOT/behaviour
echo "end $stage" >> ROOT/order
"""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an experiment without evaluations, whose stages are the script."""
    write_experiment(tmp_path, arms=ARMS, control=None, evaluate=None, seeds=[0, 1])
    script = tmp_path / "python"
    script.write_text(SCRIPT.replace("ROOT", str(tmp_path)))
    script.chmod(0o755)
    behave(tmp_path, "")
    (tmp_path / "order").touch()
    monkeypatch.setattr(sys, "executable", str(script))
    # What such stages wrote is nothing to report of.
    monkeypatch.setattr("tessy_jax.experiments.run._report", lambda *_: None)
    return tmp_path


def behave(root: Path, lines: str) -> None:
    (root / "behaviour").write_text(lines + "\n")


def run(root: Path, *arguments: str) -> int:
    (root / "order").write_text("")
    return experiment.main([str(root / "experiment.yaml"), *arguments])


def order(root: Path, what: str = "begin") -> list[str]:
    return [line.split()[1] for line in (root / "order").read_text().splitlines() if line.startswith(what)]


SEED_0 = ["a/seed-0/synthesize", "a/seed-0/sft", "b/seed-0/synthesize", "b/seed-0/sft", "c/seed-0/sft"]
ALL = [*SEED_0, *(name.replace("-0", "-1") for name in SEED_0)]


def test_stages_run_once_and_in_order(python: Path) -> None:
    assert run(python) == DONE
    assert order(python) == ALL
    marks = [json.loads(line) for line in (python / "out/stages.jsonl").read_text().splitlines()]
    assert [(mark["stage"], mark["code"]) for mark in marks] == [(name, 0) for name in ALL]
    assert (python / "out/a/seed-0/sft.log").read_text() == "one\ntwo\n"

    assert run(python) == DONE
    assert order(python) == []
    # What has changed is run again, and what depends on it; so is what is no longer there.
    assert run(python, 'arms.b.synthesize=["samples=2"]') == DONE
    assert order(python) == [name for name in ALL if not name.startswith("a/")]
    assert run(python) == DONE
    (python / "out/a/seed-1/sft").rmdir()
    assert run(python) == DONE
    assert order(python) == ["a/seed-1/sft"]


def test_several_at_a_time_wait_for_what_they_need(python: Path) -> None:
    # None ends before the first three have begun: they run at the same time, however slow the machine is.
    behave(python, f"for _ in {{1..600}}; do (( $(grep -c begin {python}/order) >= 3 )) && break; sleep 0.1; done")
    assert run(python, "jobs=3") == DONE
    lines = (python / "order").read_text().splitlines()
    assert sorted(order(python)) == sorted(ALL)
    running = list(itertools.accumulate(1 if line.startswith("begin") else -1 for line in lines))
    assert max(running) == 3
    for seed in (0, 1):
        for arm, data in (("a", "a"), ("b", "b"), ("c", "b")):
            assert lines.index(f"end {data}/seed-{seed}/synthesize") < lines.index(f"begin {arm}/seed-{seed}/sft")


def test_a_stage_that_fails_leaves_out_what_needs_it(python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    behave(python, '[[ $stage == b/seed-0/synthesize ]] && { echo "no such luck"; touch "$last/run.log"; exit 7; }')
    assert run(python) == ERROR
    assert order(python, "end") == [name for name in ALL if not name.startswith(("b/seed-0", "c/seed-0"))]
    said = capsys.readouterr().err
    out = python / "out"
    assert "error: b/seed-0/synthesize failed: exit code 7\n    one\n    two\n    no such luck\n" in said
    assert f"all that it printed: {out}/b/seed-0/synthesize.log; its log: {out}/b/seed-0/synthesize/run.log\n" in said
    assert "the stage alone: python -m tessy_jax.synthesize" in said
    assert "not run without them: b/seed-0/sft, c/seed-0/sft\n" in said
    assert run(python) == ERROR
    shown = "exit code 7\n    one\n    two\n    no such luck\nall that it printed"
    assert shown in capsys.readouterr().err, "of this start, not of the one before"

    behave(python, "")
    assert run(python) == DONE
    assert order(python) == ["b/seed-0/synthesize", "b/seed-0/sft", "c/seed-0/sft"]


def test_rejects_are_no_failure_and_a_signal_is(python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    behave(python, "[[ $stage == a/seed-0/synthesize ]] && exit 3; [[ $stage == a/seed-0/sft ]] && kill -9 $$; true")
    assert run(python) == ERROR
    assert "a/seed-0/sft failed: ended by SIGKILL, often for want of memory" in capsys.readouterr().err
    behave(python, '[[ $stage == a/seed-0/sft ]] && { rmdir "$last"; exit 0; }; true')
    assert run(python) == ERROR
    assert "a/seed-0/sft failed: it ended well, but there is no run directory" in capsys.readouterr().err
    behave(python, "")
    assert run(python) == REJECTS


def test_ctrl_c_reaches_the_stages_and_the_same_command_goes_on(
    python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = f'echo "ready $stage" >> {python}/order; for n in {{1..600}}; do sleep 0.1; done'
    behave(python, f'[[ $stage == b/seed-0/* ]] && {{ trap "echo saved; exit 130" INT; {waits}; }}; true')

    def stop() -> None:
        while not order(python, "ready"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    assert run(python) == INTERRUPTED
    thread.join()
    assert "saved" in (python / "out/b/seed-0/synthesize.log").read_text()
    assert "stopped with 8 stages left; the same command goes on from here" in capsys.readouterr().err
    behave(python, "")
    assert run(python) == DONE
    assert order(python) == ALL[2:]


def test_a_killed_experiment_leaves_no_stage_behind(python: Path) -> None:
    waits = f'echo "ready $stage" >> {python}/order; for n in {{1..600}}; do sleep 0.1; done'
    behave(python, f'trap "touch {python}/saved; exit 130" INT; {waits}')
    (python / "order").write_text("")
    code = (
        f"import sys; sys.executable = {str(python / 'python')!r}\n"
        f"from tessy_jax import experiment; experiment.main([{str(python / 'experiment.yaml')!r}])"
    )
    real, paths = os.readlink("/proc/self/exe"), os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([real, "-c", code], stderr=subprocess.DEVNULL, env=paths)
    while not order(python, "ready"):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while not (python / "saved").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_folder_of_something_else_is_left_alone(python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (python / "other").mkdir()
    (python / "other/manifest.json").write_text("{}")
    assert run(python, "--output", str(python / "other")) == ERROR
    said = capsys.readouterr().err
    assert "is not empty and holds no experiment (it has manifest.json): use another --output" in said
    assert order(python) == []
