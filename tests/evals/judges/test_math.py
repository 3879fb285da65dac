"""The judge of mathematical answers: OlympiadBench's own examples, whole numbers, and formulas that would not end."""

import json
import os
import time

import pytest

from tessy_jax.evals.judges import math as math_judge
from tessy_jax.evals.judges.math import MathJudge, expand, matched, split, tidy, whole_number
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.targets import MathTarget
from tests.kit import ROOT

pytest.importorskip("math_verify")

EXAMPLES = json.loads((ROOT / "tests/fixtures/olympiadbench_scoring_examples.json").read_text("utf-8"))
DIFFERENT = {r"\boxed{n_{\gamma}(\nu)"}
"""Beginnings of expected answers of which math-verify reads too little: it does not know \\odot."""
TOWER = "10^{10^{10^{10}}}"


@pytest.fixture(scope="module")
def judge():
    with MathJudge() as judge:
        yield judge


def right(judge, answer, *expected, **target):
    return judge.judge(MathTarget(expected, **target), answer).verdict is Verdict.ACCEPTED


def test_olympiadbench_examples(judge):
    """24 expected answers with 36 answers: we agree on 35."""
    odd = []
    for example in EXAMPLES:
        if example["GT"] == TOWER:
            continue  # see below
        for answer in example["Ans"]:
            given = answer.get("precision")
            tolerance = tuple(float(one) for one in (given if isinstance(given, list) else [given]) if one is not None)
            found = right(judge, answer["answer"], example["GT"], tolerance=tolerance or (None,))
            if found != answer["equal"]:
                odd.append(example["GT"])
    assert len(odd) == 1
    assert {text[: len(start)] for text, start in zip(odd, DIFFERENT, strict=True)} == DIFFERENT


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("204", True),
        ("0204", True),
        ("204.0", True),
        (r"\text{204}", True),
        (r"\frac{408}{2}", True),
        ("n = 204", True),
        ("$204$.", True),
        ("205", False),
        ("20 4/1", False),
        ("204, 205", False),
        ("", False),
        ("words only", False),
    ],
)
def test_whole_numbers(judge, answer, expected):
    assert right(judge, answer, "204", integer=True) == expected


def test_whole_numbers_as_people_write_them():
    assert [whole_number(text) for text in ("033", "1,024", "+7", "-0", "12.00", "x=5")] == [33, 1024, 7, 0, 12, 5]
    assert [whole_number(text) for text in ("1,02", "1.5", "", "1e3", "²", "٣", "1" * 50)] == [None] * 7


@pytest.mark.parametrize(
    ("answer", "expected", "tolerance"),
    [
        (r"2\pm\sqrt3", (r"2+\sqrt3, 2-\sqrt3",), (None,)),
        (r"2-\sqrt{3} \text{ and } 2+\sqrt{3}", (r"2+\sqrt{3}", r"2-\sqrt{3}"), (None,)),
        ("1, 1.5", ("1.5", "1"), (None,)),
        ("3.19", ("3.1",), (0.1,)),
        ("7, 2.04", ("2", "7"), (0.05, None)),
        (r"\{1, 2\}", (r"\{2, 1\}",), (None,)),
        ("1<x<2", ("1<x<2",), (None,)),
        ("(1,2)", ("(1,2)",), (None,)),
    ],
)
def test_equal_answers(judge, answer, expected, tolerance):
    assert right(judge, answer, *expected, tolerance=tolerance)


@pytest.mark.parametrize(
    ("answer", "expected", "tolerance"),
    [
        ("1", ("1, 2",), (None,)),
        ("1, 1", ("1, 2",), (None,)),
        ("1, 2, 3", ("1, 2",), (None,)),
        ("3.21", ("3.1",), (0.1,)),
        ("7.04, 2", ("2", "7"), (0.05, None)),
        ("y", ("x",), (None,)),
        (r"\frac{", ("1",), (None,)),
        ("__import__('os').system('true')", ("1",), (None,)),
        ("1" * 6000, ("1",), (None,)),
        (", ".join(map(str, range(40))), (", ".join(map(str, range(1, 41))),), (None,)),
    ],
)
def test_different_answers(judge, answer, expected, tolerance):
    assert not right(judge, answer, *expected, tolerance=tolerance)


def test_a_formula_without_end_is_killed_and_the_next_is_judged():
    with MathJudge(deadline=0.5) as judge:
        judge.judge(MathTarget(("2",)), "1+1")
        first = judge._worker._process.pid
        begun = time.monotonic()
        verdict = judge.judge(MathTarget((TOWER,)), "10^{10}")
        assert (verdict.verdict, verdict.detail) == ("WA", "not equal (not decided within 0.5 s)")
        assert time.monotonic() - begun < 5
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)  # killed and waited for
        judge.deadline = 20
        assert right(judge, "1+1", "2")
        last = judge._worker._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


@pytest.mark.parametrize(
    "answer", ["9^{9^{9^{9}}}", "\\frac{1}{" * 90_000 + "1" + "}" * 90_000], ids=["a tower", "a megabyte of fractions"]
)
def test_answers_that_are_too_much_are_wrong_and_the_next_is_judged(answer):
    with MathJudge(deadline=0.5) as judge:
        begun = time.monotonic()
        assert judge.judge(MathTarget(("5",)), answer).verdict == "WA"
        assert time.monotonic() - begun < 10
        judge.deadline = 20
        assert judge.judge(MathTarget(("2",)), "1+1").verdict == "AC"


def test_a_worker_that_dies_is_a_wrong_answer_and_starts_again():
    with MathJudge() as judge:
        assert right(judge, "1+1", "2")
        judge._worker._process.kill()
        assert judge.judge(MathTarget(("2",)), "1+1").detail == "not equal (math-verify died of it)"
        assert right(judge, "1+1", "2")


def test_a_worker_that_cannot_start_says_what_to_install(tmp_path, monkeypatch):
    broken = tmp_path / "worker.py"
    broken.write_text("import no_such_module")
    monkeypatch.setattr(math_judge, "WORKER", broken)
    with pytest.raises(math_judge.MathJudgeError, match=r"pip install 'tessy-jax.eval.'"), MathJudge() as judge:
        judge.judge(MathTarget(("2",)), "1+1")


def test_disagreement_is_said(judge, caplog, monkeypatch):
    monkeypatch.setattr(judge, "_ask", lambda *_: (False, "math-verify"))
    verdict = judge.judge(MathTarget(("7",), integer=True), "007")
    assert (verdict.verdict, verdict.detail) == ("AC", "math-verify says otherwise")
    assert "answer '007' to 7" in caplog.text


def test_answers_are_divided_outside_of_brackets():
    assert split("(1,2),[3,4],5") == ["(1,2)", "[3,4]", "5"]
    assert expand(r"x=\pm1; 2") == ["x=+1", "x=-1", "2"]
    assert tidy(r"$\boxed{\left(1,\ 2\right)}$.") == "(1,2)"
    assert tidy(r"\dfrac{1}{2}\,k_{\mathrm{B}}") == r"\frac{1}{2}k_{B}"


def test_answers_are_paired_where_a_greedy_choice_would_fail():
    close = {(0, 0), (0, 1), (1, 0)}  # the first fits both, the second only the first
    asked = []

    def equal(row, column):
        asked.append((row, column))
        return (row, column) in close

    assert matched(2, equal)
    assert len(asked) == len(set(asked))
    assert not matched(2, lambda row, column: column == 0)


def test_identity(judge):
    assert judge.identity() == {"name": "math", "version": 1, "math_verify": "0.9.0", "wall_seconds": 10.0}
