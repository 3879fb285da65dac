"""Programs whose verdict is known: right, wrong, slow, large, broken; in each language, reading input or called."""

from dataclasses import replace
from pathlib import Path

from tessy_jax.evals import targets
from tessy_jax.evals.judges.code import CodeJudge
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.targets import Checker
from tests.kit.judging import SLEEPY, SLOW, Row, faults, function_target, judge_all, read_rows, stdin_target

SUM = (("3\n1 2 3\n", "6\n"), ("1\n-5\n", "-5\n"), ("4\n1000000000 1000000000 1000000000 1\n", "3000000001\n"))
READ = "n = int(input())\nnumbers = list(map(int, input().split()))\n"

python, cpp = stdin_target(*SUM), stdin_target(*SUM, language="cpp17")
two = function_target("solve", ("[1, 2, 3]\n2", "[2, 4, 6]"), ("[]\n5", "[]"))
TARGETS = {
    "python": python,
    "slow": replace(python, limits=SLOW),
    "sleepy": replace(python, limits=SLEEPY),
    "pypy": stdin_target(*SUM, language="pypy3"),
    "pypy function": function_target("f", ("2", "[2, 4]"), language="pypy3"),
    "cpp": cpp,
    "cpp slow": replace(cpp, limits=SLOW),
    "cpp sleepy": replace(cpp, limits=SLEEPY),
    "two": two,
    "slow function": replace(two, limits=SLOW),
}
PROGRAMS = read_rows(Path(__file__).with_name("programs.txt"), TARGETS)


def test_programs_get_the_verdict_that_is_known(judge: CodeJudge):
    assert not faults(judge, PROGRAMS)


def test_verdicts_do_not_depend_on_order_or_on_blanks_at_the_end(judge: CodeJudge):
    """Of the tests; a program that fails on the second of three fails wherever this stands."""
    rows = [
        Row(
            f"{value}, {change}",
            replace(python, cases=cases, stop_at_first_failure=stop),
            f"{READ}print({value})",
            wanted,
        )
        for value, wanted in (("sum(numbers)", "AC"), ("sum(numbers) % 2**31", "WA"))
        for stop in (True, False)
        for change, cases in (
            (f"reversed {stop}", python.cases[::-1]),
            (f"rotated {stop}", python.cases[1:] + python.cases[:1]),
            (f"blanks {stop}", tuple(targets.TestCase(case.input, f"{case.output} \n\n") for case in python.cases)),
        )
    ]
    assert not faults(judge, rows)


def test_verdicts_do_not_depend_on_how_many_run_side_by_side(judge: CodeJudge):
    rows = [row for row in PROGRAMS if row.target in (python, two)][::4]
    with CodeJudge.open(["python3"], workers=1) as lone:
        one, other = judge_all(lone, rows), judge_all(judge, rows)
    assert {name: verdict.verdict for name, verdict in one.items()} == {
        name: verdict.verdict for name, verdict in other.items()
    }


def test_cases_are_counted(judge: CodeJudge):
    source = READ + "print(sum(numbers) if n != 1 else 0)"
    stopped = judge.judge(python, source)
    assert (stopped.verdict, stopped.cases, stopped.cases_passed) == (Verdict.WRONG_ANSWER, 3, 1)
    whole = judge.judge(replace(python, stop_at_first_failure=False), source)
    assert (whole.verdict, whole.cases, whole.cases_passed) == (Verdict.WRONG_ANSWER, 3, 2)
    assert whole.detail == r"test 2 of 3: it gave '0\n'" == stopped.detail


def test_the_first_failure_in_the_order_of_tests_is_the_verdict(judge: CodeJudge):
    source = READ + "print(sum(numbers) if n == 3 else 1 // (n - 1))"
    assert judge.judge(replace(python, stop_at_first_failure=False), source).verdict is Verdict.RUNTIME_ERROR


def test_a_prelude_stands_before_the_program(judge: CodeJudge):
    """And moves none of its lines, nor what must be its first statement."""
    target = replace(stdin_target(("9", "3")), prelude="from math import *\nx = 5\n")
    right = "from __future__ import annotations\nprint(isqrt(int(input())))"
    wrong = "print(isqrt(int(input())))\n\n1 / 0"
    assert judge.judge(target, right).verdict is Verdict.ACCEPTED
    assert 'File "/box/main.py", line 3' in judge.judge(target, wrong).detail
    function = replace(function_target("f", ("9", "3")), prelude="from math import *")
    assert judge.judge(function, "def f(x): return isqrt(x)").verdict is Verdict.ACCEPTED


def test_what_is_used_is_measured(judge: CodeJudge):
    busy = "import time\na = bytearray(100 << 20)\nwhile time.process_time() < 0.5: pass\nprint(1)"
    verdict = judge.judge(stdin_target(("", "1")), busy)
    assert verdict.verdict is Verdict.ACCEPTED
    assert 0.5 <= verdict.cpu_seconds < 1.5
    assert verdict.cpu_seconds * 0.9 < verdict.wall_seconds
    assert 100 <= verdict.memory_mib < 140


def test_times_are_those_of_all_processes(judge: CodeJudge):
    """A program cannot hide what it uses in children, waited for or not."""
    program = """
import os, time

def busy():
    child = os.fork()
    if not child:
        while time.process_time() < 0.4: pass
        os._exit(0)
    return child

for child in (busy(), busy()):
    os.waitid(os.P_PID, child, os.WEXITED | %s)
print(1)
"""
    rows = [
        Row("waits", stdin_target(("", "1"), limits=SLOW), program % "0", "TLE"),
        Row("leaves zombies", stdin_target(("", "1"), limits=SLOW), program % "os.WNOWAIT", "TLE"),
    ]
    assert not faults(judge, rows)


def test_a_source_is_compiled_once(judge: CodeJudge):
    source = '#include <cstdio>\nint main() { puts("once"); }'
    rows = [Row(str(number), stdin_target(("", "once"), language="cpp17"), source, "AC") for number in range(6)]
    before = len(judge._compiler._programs)
    assert all(verdict.verdict is Verdict.ACCEPTED for verdict in judge_all(judge, rows).values())
    assert len(judge._compiler._programs) == before + 1


def test_programs_are_the_same_whatever_the_comparator(judge: CodeJudge):
    """The checker sees what was written, and nothing else: `identical` minds a blank that `standard` does not."""
    source = "print(1, end=' ')"
    for checker, verdict in (("standard", Verdict.ACCEPTED), ("identical", Verdict.WRONG_ANSWER)):
        target = replace(stdin_target(("", "1\n")), checker=Checker(checker))
        assert judge.judge(target, source).verdict is verdict
