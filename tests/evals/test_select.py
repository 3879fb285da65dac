"""`select`: which records go on, why the others do not, and that a run that stops goes on."""

import json
from pathlib import Path

import pytest

from tessy_jax import select
from tessy_jax.data.run_rows import RunDir
from tessy_jax.evals import judging
from tessy_jax.evals.judging import Judges
from tessy_jax.evals.records import Judgement, Verdict
from tests.kit.run_synthesize import records, rejects

OPEN, CLOSE = "<think>\n", "\n</think>\n\n"


def record(name: str, sample: int, number: int, think: str = "end", tokens: int = 6, **more: object) -> dict:
    thought, answer = "So.", f"It is \\boxed{{{number}}}."
    start = len(OPEN + thought + CLOSE)
    span = {"by": "student", "n_tokens": 3, "dropped_tokens": 0}
    return {
        "id": name,
        "sample_index": sample,
        "messages": [
            {"role": "user", "content": "What is 6 * 7?"},
            {"role": "assistant", "content": OPEN + thought + CLOSE + answer},
        ],
        "spans": [
            span | {"phase": "think", "start": len(OPEN), "end": len(OPEN + thought)},
            span | {"phase": "answer", "start": start, "end": start + len(answer)},
        ],
        "n_tokens": {"student": 1, "teacher": 1, "answer": tokens - 2, "rolled_back": 5},
        "switches": 0,
        "finish": {"think": think, "answer": "stop"},
        "seed": 5,
    } | more


ROWS = [
    record("a", 0, 42, tokens=26, score=3),
    record("a", 1, 41, score=9.5),
    record("a", 2, 42, score=8, dropped_text=[{"by": "student", "at": 10, "n_tokens": 1, "text": " But"}]),
    record("a", 3, 42, think="loop", score=10),
    record("b", 0, 7, tokens=4, score="high"),
    record("c", 0, 42),
]


@pytest.fixture
def given(tmp_path) -> Path:
    """A folder of records, two rows of which are none, and the problems with their answers."""
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*ROWS, {"id": "x", "question": "Hi"}]) + '{"id": \n'
    )
    problems = [{"id": name, "prompt": "6 * 7?", "answer": "42"} for name in ("a", "b")]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    (tmp_path / "select.yaml").write_text(f"output: {tmp_path / 'kept'}\n")
    return tmp_path


def call(given: Path, *arguments: object) -> int:
    return select.main([str(given / "in.jsonl"), str(given / "select.yaml"), *map(str, arguments)])


def outcome(given: Path) -> tuple[list[tuple[str, int]], dict]:
    """What is kept, and why the rest is not."""
    kept = records(given / "kept")
    assert all(row in ROWS for row in kept)
    reasons = {(row["id"], row.get("sample_index", row["line"])): row["reason"] for row in rejects(given / "kept")}
    return [(row["id"], row["sample_index"]) for row in kept], reasons


NO_RECORD = "no record of synthesize or sample"


@pytest.mark.parametrize(
    ("arguments", "kept", "reasons"),
    [
        ([], [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("c", 0)], {}),
        (
            ["finish.think=[end, eos]", "tokens={min: 5, max: 20}"],
            [("a", 1), ("a", 2), ("c", 0)],
            {
                ("a", 0): "tokens: 26 are more than 20",
                ("a", 3): "finish.think: is loop, not end or eos",
                ("b", 0): "tokens: 4 are fewer than 5",
            },
        ),
        (
            ["score.min=8", "n=1", "prefer=score"],
            [("a", 3)],
            {
                ("a", 0): "score: 3.0 is less than 8.0",
                ("a", 1): "n: 1 of this problem's 3 records are kept, by score",
                ("a", 2): "n: 1 of this problem's 3 records are kept, by score",
                ("b", 0): "score: field 'score' holds no number but 'high'",
                ("c", 0): "score: field 'score' holds no number but None",
            },
        ),
        (
            ["n=2", "prefer=shortest"],
            [("a", 1), ("a", 2), ("b", 0), ("c", 0)],
            {
                ("a", 0): "n: 2 of this problem's 4 records are kept, by shortest",
                ("a", 3): "n: 2 of this problem's 4 records are kept, by shortest",
            },
        ),
    ],
)
def test_rules(given, arguments, kept, reasons, capsys):
    assert call(given, *arguments) == 3
    found, why = outcome(given)
    assert found == kept
    assert {key: reason for key, reason in why.items() if key[0] in ("a", "b", "c")} == reasons
    assert why[None, 7] == NO_RECORD
    assert len(why) == len(reasons) + 2
    assert f"{len(kept)} of 6 records kept, 2 rows are no records" in capsys.readouterr().err
    before = {file: file.read_bytes() for file in (given / "kept").rglob("*.jsonl")}
    assert call(given, *arguments) == 3
    assert {file: file.read_bytes() for file in (given / "kept").rglob("*.jsonl")} == before


def correct(given: Path) -> str:
    return f"correct={{name: jsonl, path: {given / 'problems.jsonl'}}}"


def test_right_answers_after_a_failure_and_a_kill(given, monkeypatch, capsys):
    """The judge fails on a record: nothing is selected, and the next command tries that record alone again."""
    judged, real, append = [], Judges.judge, RunDir.append

    def failing(self, benchmark, problem, response):
        judged.append(response.key)
        if len(judged) == 1:
            return Judgement(*response.key, Verdict.JUDGE_ERROR, detail="no sandbox")
        return real(self, benchmark, problem, response)

    def killed(self, row):
        if self.path == given / "kept" and self.n_records == 1:
            raise KeyboardInterrupt
        append(self, row)

    monkeypatch.setattr(judging.Judges, "judge", failing)
    assert call(given, correct(given)) == 1
    assert "1 responses could not be judged" in capsys.readouterr().err
    assert not records(given / "kept")
    assert sorted(judged) == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0)]
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append", killed)
        assert call(given, correct(given)) == 130
    assert len(records(given / "kept")) == 1
    assert len(judged) == 6
    assert call(given, correct(given)) == 3
    assert len(judged) == 6
    kept, why = outcome(given)
    assert kept == [("a", 0), ("a", 2)]
    assert why["a", 1] == why["b", 0] == "correct: wrong answer"
    assert why["a", 3] == "correct: truncated"
    assert why["c", 0] == f"correct: {given / 'problems.jsonl'} has no problem 'c'"


def test_dry_run_writes_nothing(given, capsys, monkeypatch):
    assert call(given, "--dry-run", "finish.think=[end]", "n=1", correct(given)) == 3
    shown = capsys.readouterr().out
    assert "6 records, 2 rows are no records" in shown
    assert "1  finish.think" in shown
    assert "4 left, whose answers would be judged against problems; then at most 1 of a problem, by first" in shown
    monkeypatch.setattr("tessy_jax.evals.judges.math.WORKER", given / "no_worker.py")
    assert call(given, "--dry-run", correct(given)) == 1
    assert "install it (pip install 'tessy-jax[eval]')" in capsys.readouterr().err
    assert not (given / "kept").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["n=0"], 2, "'n' in override 'n=0' should be greater than 0, got 0"),
        (["finish.answer=[done]"], 2, "should be 'stop' or 'length', got 'done'"),
        (["input=[]"], 2, "input: name the runs whose records are to be selected"),
        (["input=[/no/run]"], 1, "no such file or folder: /no/run"),
        (["tokens={min: 9, max: 5}"], 2, "'tokens' in override 'tokens={min: 9, max: 5}' keeps nothing: min is 9"),
        (["correct={name: jsonl, path: /no/file}"], 1, "/no/file"),
    ],
)
def test_wrong_values(given, arguments, code, message, capsys):
    assert select.main([str(given / "select.yaml"), f"input=[{given}/in.jsonl]", *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (given / "kept").exists()


def test_two_records_of_one_key(given, capsys):
    assert select.main([str(given / "in.jsonl"), str(given / "in.jsonl"), str(given / "select.yaml")]) == 1
    assert f"{given}/in.jsonl:1: id 'a', sample 0 stands in the input twice" in capsys.readouterr().err


def test_other_rules_are_another_run(given, capsys):
    assert call(given, "n=1") == 3
    assert call(given, "n=2") == 1
    assert "\n  select.n: 1 there, 2 now\n" in capsys.readouterr().err
    assert call(given, "n=2", "--overwrite") == 3
