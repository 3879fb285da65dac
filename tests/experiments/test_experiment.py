"""`experiment` from end to end: real stages, kills in each kind of them, and what is done stays done."""

from functools import cache
from pathlib import Path

from tests.kit.run_experiment import InProcess, call, write_experiment


@cache
def whole(tmp: Path) -> tuple[Path, InProcess]:
    file = write_experiment(tmp)
    runner = InProcess()
    assert call(file, runner=runner) == 0
    return tmp / "out", runner


def test_all(tmp_path):
    import time

    t = time.process_time()
    out, runner = whole(tmp_path)
    print(runner.started, time.process_time() - t)
    print((out / "report.md").read_text())
    t = time.process_time()
    again = InProcess()
    assert call(tmp_path / "experiment.yaml", runner=again) == 0
    assert again.started == []
    print(time.process_time() - t)
