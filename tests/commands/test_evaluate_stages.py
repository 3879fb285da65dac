"""`evaluate` a stage at a time, and what is kept where one ends early: tests that come later, a server that dies."""

from pathlib import Path
from typing import Any

from tessy_jax import evaluate
from tests.commands.test_evaluate import (
    ONE,
    from_file,
    judgements,
    response,
)
from tests.evals.tasks.test_test_folders import FILES, ROW
from tests.kit.benchmarks import OjFolder, write_jsonl, write_zip

RIGHT = "```cpp\n#include <iostream>\nint main(){long long n;std::cin>>n;std::cout<<2*n;}\n```"
ZIP = FILES | {"testlib.h": ""}


def run(config: Path, *arguments: str) -> int:
    return evaluate.main([str(config), *arguments])


def lcb_pro(root: Path, rows: list[dict[str, Any]], names: tuple[str, ...] = ("1Z",)) -> Path:
    """The configuration of LiveCodeBench-Pro with these problems, whose tests belong in root/t."""
    data = write_jsonl(root / "rows.jsonl", [ROW | {"problem_id": name} for name in names])
    section = {"name": "lcb_pro", "label": "mine", "path": str(data), "tests": str(root / "t")}
    return from_file(root, rows, benchmarks=[section])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_tests_that_come_later(tmp_path, capsys):
    """Named before anything is written; what was generated and found without them is taken up when they are there."""
    config = lcb_pro(tmp_path, [response("1Z", 0, RIGHT), response("2Z", 0, "I cannot say.")], ("1Z", "2Z"))
    for arguments in (["--dry-run"], [], ["--stage", "judge"], ["judge.allow_judge_errors=true"]):
        assert run(config, *arguments) == 1
        said = capsys.readouterr().err
        assert (
            f"mine: 2 of 2 problems have no tests: there is no {tmp_path}/t: put them there, or correct 'tests'" in said
        )
    assert not (tmp_path / "run").exists()

    assert run(config, "--stage", "generate") == 0  # it needs no tests, and may be on another machine
    before = bytes_of(tmp_path / "run/mine/responses")
    write_zip(tmp_path / "t/1Z.zip", ZIP)
    assert run(config) == 1
    assert f"1 of 2 problems have no tests: there is no {tmp_path}/t/2Z.zip: " in capsys.readouterr().err
    assert run(config, "judge.allow_judge_errors=true") == 0
    assert judgements(tmp_path) == {("1Z", 0): "AC", ("2Z", 0): "NOANS"}

    write_zip(tmp_path / "t/2Z.zip", ZIP)
    assert run(config) == 1  # verdicts of other tests are not thrown away unasked
    assert "--stage judge --overwrite judges anew, and keeps the responses" in capsys.readouterr().err
    assert run(config, "--stage", "judge", "--overwrite") == 0
    assert judgements(tmp_path) == {("1Z", 0): "AC", ("2Z", 0): "NOANS"}
    assert bytes_of(tmp_path / "run/mine/responses") == before


def test_a_run_that_was_judged_without_its_tests_goes_on(tmp_path, monkeypatch):
    """As an earlier version left it, which looked for tests when it judged: errors, and what needs no tests."""
    config = lcb_pro(tmp_path, [response("1Z", 0, RIGHT), response("2Z", 0, "I cannot say.")], ("1Z", "2Z"))
    with monkeypatch.context() as earlier:
        earlier.setattr("tessy_jax.evals.benchmark.Benchmark.check_tests", lambda *_: None)
        assert run(config) == 1
    assert judgements(tmp_path) == {("2Z", 0): "NOANS"}
    before = bytes_of(tmp_path / "run/mine/responses")
    for name in ("1Z", "2Z"):
        write_zip(tmp_path / f"t/{name}.zip", ZIP)
    assert run(config) == 0
    assert judgements(tmp_path) == {("1Z", 0): "AC", ("2Z", 0): "NOANS"}
    assert bytes_of(tmp_path / "run/mine/responses") == before


def test_ojbench_without_its_folders_of_tests(tmp_path, capsys):
    root = OjFolder(tmp_path / "data").write()
    (root / "NOI").rename(tmp_path / "elsewhere")
    section = {"name": "ojbench", "label": "mine", "path": str(root), "python": "cpython"}
    assert run(from_file(tmp_path, ONE, benchmarks=[section]), "--dry-run") == 1
    assert f"mine: 2 of 6 problems have no tests: there is no {root}/NOI: put them there" in capsys.readouterr().err
