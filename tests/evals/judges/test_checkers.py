"""Checkers in C++: what they see, what their exit codes mean, and what happens where they themselves are wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from tessy_jax.evals.judges.code import CodeJudge, TargetError
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.targets import Checker, CodeTarget
from tests.kit.judging import Row, faults, stdin_target

TESTLIB = """
#include <fstream>
#include <iostream>
#include <cstdlib>
std::ifstream in, out, ans;
void start(char **argv) { in.open(argv[1]); out.open(argv[2]); ans.open(argv[3]); }
void quit(int code, const char *why) { std::cerr << why; exit(code); }
"""
DIVISOR = """
#include <testlib.h>
int main(int, char **argv) {
    start(argv);
    long n, given, limit;
    in >> n; ans >> limit;
    if (!(out >> given)) quit(2, "a number is missing");
    if (given == 99) quit(3, "the answer is worse");
    if (given == 98) for (;;) {}
    if (given < 2 || given > limit || n % given) quit(1, "no divisor");
    quit(0, "ok");
}
"""


@pytest.fixture
def target(tmp_path: Path) -> CodeTarget:
    """Any divisor of the input that is at most the answer."""
    (tmp_path / "testlib.h").write_text(TESTLIB)
    (tmp_path / "chk.cc").write_text(DIVISOR)
    return replace(stdin_target(("12\n", "6\n")), checker=Checker("testlib", source=tmp_path / "chk.cc"))


def test_exit_codes_of_checkers(judge: CodeJudge, target: CodeTarget):
    rows = [
        Row("two", target, "print(2)", "AC"),
        Row("six", target, "print(6)", "AC"),
        Row("five", target, "print(5)", "WA"),
        Row("twelve", target, "print(12)", "WA"),
        Row("nothing", target, "", "WA"),
        Row("no number", target, "print('a')", "WA"),
        Row("a crash", target, "print(2)\nexit(1)", "RTE"),
        Row("the checker gives up", target, "print(99)", "IE"),
    ]
    assert not faults(judge, rows)
    assert judge.judge(target, "print(5)").detail == "test 1 of 1: no divisor"
    assert "the checker failed" in judge.judge(target, "print(99)").detail


def test_the_answer_is_in_the_box_of_the_checker_alone(judge: CodeJudge, target: CodeTarget):
    source = "import os\nprint(2 if sorted(os.listdir('/box')) == ['main.py'] else 5)"
    assert judge.judge(target, source).verdict is Verdict.ACCEPTED


def test_a_checker_that_does_not_compile_is_an_error_of_the_benchmark(judge: CodeJudge, target: CodeTarget):
    source = target.checker.source
    assert source
    (source.parent / "testlib.h").unlink()
    with pytest.raises(TargetError, match=r"chk\.cc: the checker does not compile \(testlib\.h belongs beside it\)"):
        judge.judge(target, "print(2)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checker": Checker("exactly")}, "checker 'exactly' is not known; known are testlib, lines"),
        ({"checker": Checker("testlib")}, "checker testlib: a checker has a source if"),
        ({"cases": ()}, "no tests: any program would pass"),
        ({"language": "cpp17", "entry_point": "f"}, "a C\\+\\+ program reads standard input"),
        ({"checker": Checker("floats", {"precisoin": 3})}, "checker floats: .*precisoin"),
    ],
)
def test_targets_that_cannot_be_used(judge: CodeJudge, change: dict, message: str):
    with pytest.raises(TargetError, match=message):
        judge.judge(replace(stdin_target(("1", "1")), **change), "print(1)")


def test_a_test_whose_file_is_missing(judge: CodeJudge, tmp_path: Path):
    target = stdin_target((tmp_path / "1.in", "1"))
    with pytest.raises(TargetError, match=r"1\.in: No such file"):
        judge.judge(target, "print(1)")


def test_an_answer_that_is_no_json_is_not_held_against_the_program(judge: CodeJudge):
    target = replace(stdin_target(("1", "[1,")), checker=Checker("json"))
    assert judge.judge(target, "print(1)").verdict is Verdict.JUDGE_ERROR
