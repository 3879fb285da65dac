"""Scores by hand-computed numbers, and what is never averaged."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from tessy_jax.evals.records import Judgement, Problem, Verdict
from tessy_jax.evals.scores import ScoreError, check_comparable, compare_models, passes, score

JUDGE = {
    "name": "code",
    "version": 1,
    "language": "python3",
    "tool": "Python 3.11",
    "cpu_seconds": 6,
    "checker": "lines",
}
PROBLEMS = [
    Problem("a", [], {"difficulty": "easy"}),
    Problem("b", [], {"difficulty": "easy"}),
    Problem("c", [], {"difficulty": "hard"}),
]


def judgements(*rows, **changes):
    """Of problems a, b, c: "10" passes the first run of two."""
    return [
        Judgement(name, run, Verdict.ACCEPTED if passed == "1" else Verdict.WRONG_ANSWER, judge=JUDGE | changes)
        for name, row in zip("abc", rows, strict=True)
        for run, passed in enumerate(row)
    ]


def test_scores_by_hand():
    found = score(PROBLEMS, judgements("11", "10", "00"), runs=2, groups=("difficulty",), ks=(1, 2))
    assert found.score.value == pytest.approx(50)
    assert found.score.error == pytest.approx(100 * sqrt(0.5 / 2 / 3))  # of the means 1, 1/2, 0
    assert found.runs == pytest.approx((200 / 3, 100 / 3))
    assert found.std == pytest.approx(100 / 3 / sqrt(2))
    assert found.pass_at == pytest.approx({1: 50, 2: 200 / 3})
    easy, hard = found.groups["difficulty"]["easy"], found.groups["difficulty"]["hard"]
    assert (easy.value, easy.problems, hard.value, hard.error) == (75, 2, 0, 0)
    assert found.verdicts == {"AC": 3, "WA": 3}


def test_majorities_of_answers():
    rows = [
        Judgement("a", run, Verdict.ACCEPTED if answer == "7" else Verdict.WRONG_ANSWER, answer, judge={"name": "math"})
        for run, answer in enumerate(("7", "$7$", "8"))
    ]
    rows[1] = replace(rows[1], verdict=Verdict.ACCEPTED)
    found = score(PROBLEMS[:1], rows, runs=3, ks=(1, 2, 3))
    assert found.majority_at == pytest.approx({1: 200 / 3, 2: 100 * (1 + 0.5 + 0.5) / 3, 3: 100})
    assert (
        score(PROBLEMS, judgements("11", "10", "00"), runs=2, ks=(2,)).majority_at == {}
    )  # of programs there are none


def test_the_order_of_judgements_does_not_matter():
    rows = judgements("110", "101", "000")
    assert score(PROBLEMS, rows, runs=3) == score(PROBLEMS, reversed(rows), runs=3)


def test_a_mean_of_subsets():
    found = score(PROBLEMS, judgements("1", "0", "1"), runs=1, mean_over="difficulty")
    assert found.score.value == pytest.approx((50 + 100) / 2)


def test_the_standard_error_is_that_of_simulated_problems():
    random = np.random.default_rng(1)
    problems = [Problem(str(number), []) for number in range(40)]
    means, errors = [], []
    for _ in range(200):
        rates = random.beta(0.6, 0.6, len(problems))
        rows = [
            Judgement(one.id, run, Verdict.ACCEPTED if random.random() < rate else Verdict.WRONG_ANSWER)
            for one, rate in zip(problems, rates, strict=True)
            for run in range(4)
        ]
        found = score(problems, rows, runs=4).score
        means.append(found.value)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_a_failed_judge_is_no_wrong_answer():
    rows = judgements("11", "10", "00")
    rows[-1] = replace(rows[-1], verdict=Verdict.JUDGE_ERROR, detail="no space left", judge={})
    with pytest.raises(ScoreError, match=r"failed on 1 responses .c, run 1: no space left.*allow"):
        score(PROBLEMS, rows, runs=2)
    found = score(PROBLEMS, rows, runs=2, allow_judge_errors=True)
    assert (found.judge_errors, found.verdicts["IE"], found.score.value) == (1, 1, pytest.approx(50))
    assert found.runs == pytest.approx((200 / 3, 50))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (judgements("11", "10", "00")[:-1], "1 of 6 judgements are missing .c: run 1."),
        (judgements("11", "10", "00") + judgements("1", "1", "1")[:1], "'a' has two judgements for run 0"),
        (judgements("111", "10", "00"), "'a' has more than 2 runs"),
        (
            [*judgements("11", "10", "00"), Judgement("z", 0, Verdict.ACCEPTED)],
            "'z', which the benchmark does not have",
        ),
        (
            judgements("11", "10", "00")[:-1] + judgements("11", "10", "00", tool="PyPy")[-1:],
            'tool is "Python 3.11" and "PyPy"',
        ),
        (
            judgements("11", "10", "00")[:-1] + judgements("11", "10", "00", cpu_seconds=9)[-1:],
            "c, run 1.: cpu_seconds is 6 and 9",
        ),
    ],
)
def test_what_makes_no_score_is_named(rows, words):
    with pytest.raises(ScoreError, match=words):
        score(PROBLEMS, rows, runs=2)


def test_numbers_of_different_conditions_do_not_stand_in_one_column():
    rows = ("1", "0", "1")
    one = score(PROBLEMS, judgements(*rows), runs=1, identity={"split": "v5"})
    check_comparable({"x": one, "y": one})
    for other, words in (
        (score(PROBLEMS, judgements(*rows, version=2), runs=1, identity={"split": "v5"}), '"version": 2'),
        (score(PROBLEMS, judgements(*rows, cpu_seconds=9), runs=1, identity={"split": "v5"}), '"cpu_seconds": 9'),
        (score(PROBLEMS, judgements(*rows), runs=1, identity={"split": "v6"}), 'split is "v5" and "v6"'),
        (score(PROBLEMS, judgements("11", "00", "11"), runs=2, identity={"split": "v5"}), "runs is 1 and 2"),
        (score(PROBLEMS[:2], judgements(*rows)[:2], runs=1, identity={"split": "v5"}), "3 and 2 problems"),
    ):
        with pytest.raises(ScoreError, match=words):
            check_comparable({"x": one, "y": other})


def test_two_models_on_the_same_problems():
    first, second = passes(judgements("10", "10", "00")), passes(judgements("11", "11", "00"))
    found = compare_models(first, second)
    assert found.value == pytest.approx(100 / 3)
    assert (found.better, found.worse, found.problems) == (2, 0, 3)
    assert found.low < found.value < found.high
    assert found == compare_models(first, second)  # the seed is fixed
    assert compare_models(second, first).value == -found.value
    with pytest.raises(ScoreError, match=r"'c' is of one only"):
        compare_models(first, {name: second[name] for name in "ab"})


def test_the_interval_covers_what_it_should():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        rates = random.uniform(0, 1, 50)
        first = {str(number): list(random.random(2) < rate * 0.8) for number, rate in enumerate(rates)}
        second = {str(number): list(random.random(2) < rate) for number, rate in enumerate(rates)}
        found = compare_models(first, second)
        covered += found.low <= 10 <= found.high
    assert covered >= 87  # 95 are expected
