"""`evaluate` a stage at a time, and what is kept where one ends early: tests that come later, a server that dies."""

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

from tessy_jax import evaluate
from tessy_jax.evals.benchmark import Benchmark
from tessy_jax.evals.judging import Judges
from tessy_jax.evals.records import Judgement, Problem, Response
from tests.commands.test_evaluate import (
    ONE,
    TWO_RUNS,
    VERDICTS,
    configure,
    from_file,
    judgements,
    response,
    responses,
    serving,
)
from tests.evals.tasks.test_test_folders import FILES, ROW
from tests.kit.benchmarks import STDIN, OjFolder, lcb_row, write_jsonl, write_zip

RIGHT = "```cpp\n#include <iostream>\nint main(){long long n;std::cin>>n;std::cout<<2*n;}\n```"
ZIP = FILES | {"testlib.h": ""}


class Touch:
    """Unpickled, it runs a program."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


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


def test_a_judge_that_does_not_start_is_named_before_the_first_response(tmp_path, monkeypatch, capsys):
    """math-verify is an extra: who trains in an environment without it is told so before hours of generating."""
    config, worker = from_file(tmp_path, ONE), tmp_path / "worker.py"
    worker.write_text("import no_such_module")
    with monkeypatch.context() as without:
        without.setattr("tessy_jax.evals.judges.math.WORKER", worker)
        for arguments in (["--dry-run"], []):
            assert run(config, *arguments) == 1
            assert "install it (pip install 'tessy-jax[eval]')" in capsys.readouterr().err
        assert not responses(tmp_path)
        assert run(config, "--stage", "generate") == 0  # judged elsewhere, perhaps
        assert len(responses(tmp_path)) == len(ONE)
    assert run(config) == 0
    with monkeypatch.context() as without:
        without.setattr("tessy_jax.evals.judges.math.WORKER", worker)
        assert run(config) == 0  # all is judged


# -- stages that end early ---------------------------------------------------------------------------------------------


def test_a_server_that_dies_in_the_middle(tmp_path, capsys):
    """What it answered is kept, and asked for once in all."""
    asked: list[str] = []
    alive = False

    def answer(body: dict[str, Any]) -> str:
        if len(asked) == 2 and not alive:
            raise ConnectionError("gone")
        asked.append(body["messages"][-1]["content"])
        return "ANSWER: B"

    with serving(answer) as url:
        model = {"kind": "server", "url": url, "model": "x", "retries": 1, "backoff": 0.01, "concurrency": 1}
        config = configure(tmp_path, model)
        assert run(config) == 1
        said = capsys.readouterr().err
        assert "did not answer, asked 2 times" in said
        assert "what is done is kept" in said
        first = responses(tmp_path)
        assert len(first) == 2
        alive = True
        assert run(config) == 0
    assert len(responses(tmp_path)) == 4
    assert first.items() <= responses(tmp_path).items()
    assert len(asked) == len(set(asked)) == 4


def test_one_stage_after_the_other(tmp_path):
    """The report is that of one command."""
    found = []
    for name, stages in (("whole", [[]]), ("apart", [["--stage", stage] for stage in ("generate", "judge", "score")])):
        folder = tmp_path / name
        folder.mkdir()
        config = from_file(folder, TWO_RUNS, runs=2)
        for arguments in stages:
            assert not (folder / "run/report.json").exists()
            assert run(config, *arguments) == 0
        assert judgements(folder) == VERDICTS
        found.append((folder / "run/report.json").read_bytes())
    assert found[0] == found[1]


def test_stopped_while_it_judges(tmp_path, monkeypatch, interrupt):
    """Ctrl-C: what was judged is kept, and the same command judges the others alone."""
    config = from_file(tmp_path, TWO_RUNS, runs=2, judge={"workers": 1})
    judge, calls = Judges.judge, []

    def counted(self: Judges, benchmark: Benchmark, problem: Problem, response: Response) -> Judgement:
        calls.append(response.key)
        if len(calls) == 2:
            interrupt()
        return judge(self, benchmark, problem, response)

    monkeypatch.setattr(Judges, "judge", counted)
    assert run(config) == 130
    assert 2 <= len(calls) < len(VERDICTS)
    assert judgements(tmp_path) == {key: VERDICTS[key] for key in calls}
    assert not (tmp_path / "run/report.json").exists()
    assert run(config) == 0
    assert judgements(tmp_path) == VERDICTS
    assert sorted(calls) == sorted(VERDICTS)  # each once


# -- tests of one problem that are dangerous ---------------------------------------------------------------------------


def test_a_pickle_that_would_run_a_program(tmp_path, capsys):
    """An error of its problem, by file, line and field; the verdict of the other is kept."""
    double, upper = STDIN[0], STDIN[8]
    evil = base64.b64encode(zlib.compress(pickle.dumps(Touch(str(tmp_path / "ran"))))).decode()
    data = write_jsonl(tmp_path / "lcb.jsonl", [lcb_row(double, packed=True), lcb_row(upper, private_test_cases=evil)])
    texts = [response(one.name, 0, f"```python\n{one.right}\n```") for one in (double, upper)]
    section = {"name": "livecodebench", "label": "mine", "path": str(data)}
    assert run(from_file(tmp_path, texts, benchmarks=[section])) == 1
    said = capsys.readouterr().err
    assert f"judge error: upper, sample 0: {data}:2: field 'private_test_cases' asks for " in said
    assert "it was not loaded" in said
    assert "Traceback" not in said
    assert judgements(tmp_path) == {("double", 0): "AC"}
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_leads_out_of_its_folder(tmp_path, capsys, monkeypatch):
    """An error of its problem, with nothing written elsewhere; the verdict of the other is kept."""
    (tmp_path / "deep/er").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "deep/er"))  # where archives are unpacked
    config = lcb_pro(tmp_path, [response(name, 0, RIGHT) for name in ("1Z", "2Z")], ("1Z", "2Z"))
    write_zip(tmp_path / "t/1Z.zip", ZIP)
    write_zip(tmp_path / "t/2Z.zip", ZIP | {"../../escaped": "x"})
    assert run(config) == 1
    said = capsys.readouterr().err
    assert f"judge error: 2Z, sample 0: {tmp_path}/t/2Z.zip holds '../../escaped'" in said
    assert "leads out of its folder" in said
    assert "Traceback" not in said
    assert judgements(tmp_path) == {("1Z", 0): "AC"}
    assert not list(tmp_path.rglob("escaped"))


# -- responses of other programs ---------------------------------------------------------------------------------------


def test_programs_for_livecodebench_s_custom_evaluator(tmp_path):
    """Its list is judged, and written again as it was."""
    some = STDIN[:2]
    data = write_jsonl(tmp_path / "lcb.jsonl", [lcb_row(one) for one in some])
    rows = [{"question_id": one.name, "code_list": [one.right, one.wrong]} for one in some]
    (tmp_path / "programs.json").write_text(json.dumps(rows))
    section = {"name": "livecodebench", "label": "mine", "path": str(data), "runs": 2}
    model = {"kind": "responses", "path": str(tmp_path / "programs.json"), "model": "someone"}
    assert run(configure(tmp_path, model, benchmarks=[section])) == 0
    assert judgements(tmp_path) == {(one.name, sample): ("AC", "WA")[sample] for one in some for sample in (0, 1)}
    assert json.loads((tmp_path / "run/mine/custom_evaluator.json").read_text()) == rows
    graded = json.loads((tmp_path / "run/mine/mine_eval_all.json").read_text())
    assert [(row["question_id"], row["graded_list"]) for row in graded] == [(one.name, [True, False]) for one in some]


def test_rows_of_ojbench_with_responses(tmp_path):
    root = OjFolder(tmp_path / "data").write()
    texts = {"cpp": RIGHT, "python": "```python\nprint(3 * int(input()))\n```"}
    prompts = map(json.loads, (root / "prompts/full.jsonl").read_text().splitlines())
    rows = [row | {"content": texts[row["language"]]} for row in prompts]
    section = {"name": "ojbench", "label": "mine", "path": str(root), "python": "cpython", "runs": 1}
    assert run(from_file(tmp_path, rows, benchmarks=[section])) == 0
    assert judgements(tmp_path) == {
        ("loj-1/cpp", 0): "AC", ("loj-1/python", 0): "WA", ("own_A/cpp", 0): "AC", ("own_A/python", 0): "WA",
        ("nwerc2023_H/cpp", 0): "SKIP", ("nwerc2023_H/python", 0): "SKIP",
    }  # fmt: skip
