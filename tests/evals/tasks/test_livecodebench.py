"""LiveCodeBench: splits, windows, prompts and tests; and data that would run programs or is not what it should be."""

import base64
import json
import pickle
import zlib
from datetime import date
from pathlib import Path

import pytest

from tessy_jax.config.benchmarks import LiveCodeBench
from tessy_jax.evals.targets import TestCase
from tessy_jax.evals.tasks.livecodebench import SYSTEM, LiveCodeBenchTask
from tessy_jax.evals.tasks.rows import TaskError
from tests.kit.benchmarks import FUNCTIONAL, STDIN, lcb_row, write_jsonl


def opened(path, **options):
    return LiveCodeBenchTask(LiveCodeBench(name="livecodebench", path=str(path), **options))


def ids(task):
    return [problem.id for problem in task.problems()]


@pytest.fixture
def folder(tmp_path):
    rows = [lcb_row(problem, packed=number % 2 == 1) for number, problem in enumerate((*STDIN, *FUNCTIONAL))]
    rows[0]["contest_date"] = "2024-08-03T00:00:00"
    for version in range(1, 7):
        name = "test.jsonl" if version == 1 else f"test{version}.jsonl"
        write_jsonl(tmp_path / name, rows[3 * version - 3 : 3 * version])
    return tmp_path


def test_splits_are_files(folder):
    names = [problem.name for problem in (*STDIN, *FUNCTIONAL)]
    assert ids(opened(folder)) == names[15:]
    assert ids(opened(folder, split="v5")) == names[12:15]
    assert ids(opened(folder, split="release_v2")) == ids(opened(folder, split="v1_v2")) == names[:6]
    assert opened(folder, split="v5").label == "LCB-V5"
    assert opened(folder / "test2.jsonl").identity()["problems"] == 3
    (folder / "test3.jsonl").unlink()
    with pytest.raises(TaskError, match=r"has no test3.jsonl, which the split release_v4 needs"):
        opened(folder, split="release_v4")


def test_options_leave_problems_out(folder):
    everything = {"split": "release_v6"}
    assert len(ids(opened(folder, **everything))) == 18
    assert ids(opened(folder, **everything, end_date=date(2024, 8, 3))) == ["double"]
    assert "double" not in ids(opened(folder, **everything, start_date=date(2024, 8, 4)))
    assert ids(opened(folder, **everything, difficulties=("hard",))) == ["unique"]
    assert len(ids(opened(folder, **everything, platforms=("leetcode",)))) == 6
    assert len(ids(opened(folder, **everything, limit=2))) == 2
    with pytest.raises(TaskError, match=r"no problem is left"):
        opened(folder, split="v6", platforms=("codeforces",))
    identities = [opened(folder, **everything, **more).identity() for more in ({}, {"limit": 2}, {"rules": "strict"})]
    assert len({json.dumps(one) for one in identities}) == 3


def test_prompts_and_targets(folder):
    task = opened(folder, split="release_v6", prompt="official")
    by_id = {problem.id: problem for problem in task.problems()}
    for tiny in (*STDIN, *FUNCTIONAL):
        target = task.target(by_id[tiny.name])
        assert target.cases == tuple(TestCase(*test) for test in tiny.tests)  # public and private ones, packed or not
        assert (target.entry_point, target.language) == (tiny.entry_point, "python3")
        assert target.checker.name == ("python" if tiny.entry_point else "lines")
    system, user = by_id["f_double"].messages
    assert system == {"role": "system", "content": SYSTEM}
    assert user["content"] == (
        "### Question:\nTwice n.\n\n### Format: You will use the following starter code to write the solution to the "
        "problem and enclose your code within delimiters.\n```python\ndef double(...):\n\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )
    assert "```python\n# YOUR CODE HERE\n```" in by_id["double"].messages[1]["content"]
    assert len(opened(folder).problems().__next__().messages) == 1
    strict = opened(folder, split="release_v6", rules="strict")
    assert [strict.target(one).checker.name for one in (by_id["double"], by_id["f_double"])] == ["numbers", "json"]


class Runs:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("case", ["object", "list", "bytes", "bomb", "broken"])
def test_private_tests_that_are_no_text_are_not_loaded(tmp_path, case, monkeypatch):
    monkeypatch.setattr("tessy_jax.evals.tasks.livecodebench.MAX_TESTS", 1000)
    seen = tmp_path / "it_ran"
    data = {"object": Runs(seen), "list": [1], "bytes": b"[]", "bomb": "[" + " " * 5000 + "]", "broken": "[}"}[case]
    packed = base64.b64encode(zlib.compress(pickle.dumps(data))).decode()
    write_jsonl(tmp_path / "x.jsonl", [lcb_row(STDIN[0]), lcb_row(STDIN[1], private_test_cases=packed)])
    task = opened(tmp_path / "x.jsonl")
    bad = list(task.problems())[1]
    with pytest.raises(TaskError, match=r"x.jsonl:2: field 'private_test_cases'"):
        task.target(bad)
    assert not seen.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"difficulty": "simple"}, "field 'difficulty' must be one of easy, medium, hard, not 'simple'"),
        ({"contest_date": "yesterday"}, "field 'contest_date' must be a date"),
        ({"question_content": 3}, "field 'question_content' must hold some text, not 3"),
        ({"metadata": "{"}, "field 'metadata' must hold JSON"),
        ({"metadata": '{"func_name": "os.system"}'}, "field 'metadata' must name a function"),
        ({"question_id": STDIN[0].name}, "the id 'double' has stood at .*x.jsonl:1"),
        (None, "there is no field 'metadata'; the row has a"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, words):
    second = {"a": 1} if change is None else lcb_row(STDIN[1], **change)
    write_jsonl(tmp_path / "x.jsonl", [lcb_row(STDIN[0]), second])
    with pytest.raises(TaskError, match=rf"x.jsonl:2: {words}"):
        opened(tmp_path / "x.jsonl")


def test_ids_are_never_paths(tmp_path):
    write_jsonl(tmp_path / "x.jsonl", [lcb_row(STDIN[0], question_id="../../x")])
    task = opened(tmp_path / "x.jsonl")
    (problem,) = task.problems()
    assert (problem.id, len(task.target(problem).cases)) == ("../../x", 2)  # harmless: it names no file


def test_lines_that_are_no_rows(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": \n')
    with pytest.raises(TaskError, match=r"x.jsonl:1: malformed JSON"):
        opened(tmp_path / "x.jsonl")
    with pytest.raises(TaskError, match=r"no such file or folder"):
        opened(tmp_path / "y.jsonl")
