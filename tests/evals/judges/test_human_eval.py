"""An oracle that nobody here wrote: HumanEval's own solutions are right, and functions that return nothing are not."""

import json

from tessy_jax.evals.judges.code import CodeJudge
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
