"""Where this judge and LiveCodeBench's own (testing_util.run_test, commit 28fef95) see the same, and where they do not.

The official verdicts were recorded by running that function. It runs programs inside the judge: some read the answer
there, and others fail that are right. Every difference is intended, and stands in docs/evaluation_judges.md.
"""

from typing import NamedTuple

from tessy_jax.evals.judges.code import CodeJudge
from tessy_jax.evals.targets import CodeTarget
from tests.kit.judging import Row, faults, function_target, stdin_target

READS = stdin_target(("2\n3\n", "5\n"))
CALLED = function_target("f", ("2\n3", "5"))
LIST = function_target("f", ("2\n3", "[5]"))
ONE = function_target("f", ("2\n3", "1"))


class Official(NamedTuple):
    name: str
    target: CodeTarget
    source: str
    official: str
    ours: str
    why: str = ""  # of a difference


TABLE = [
    Official("right", READS, "print(int(input()) + int(input()))", "AC", "AC"),
    Official("a method", CALLED, "class Solution:\n    def f(self, a, b): return a + b", "AC", "AC"),
    Official("a tuple", LIST, "class Solution:\n    def f(self, a, b): return (a + b,)", "AC", "AC"),
    Official("a float", CALLED, "class Solution:\n    def f(self, a, b): return float(a + b)", "AC", "AC"),
    Official("wrong", READS, "print(6)", "WA", "WA"),
    Official("true for 1", ONE, "class Solution:\n    def f(self, a, b): return True", "AC", "WA", "true is no number"),
    Official(
        "equals everything",
        CALLED,
        "class A:\n    def __eq__(self, other): return True\nclass Solution:\n    def f(self, a, b): return A()",
        "AC",
        "WA",
        "values are compared outside, as JSON",
    ),
    Official(
        "reads the answer in the judge's frame",
        CALLED,
        "import sys\nclass Solution:\n    def f(self, a, b): return sys._getframe(1).f_locals['gt_out']",
        "AC",
        "RTE",
        "the answer is not in the process",
    ),
    Official(
        "looks for the answer in all frames",
        READS,
        "import sys\nframe = sys._getframe()\nwhile frame:\n    seen = frame.f_locals\n"
        "    if 'gt_out' in seen: print(seen['gt_out'])\n    frame = frame.f_back",
        "AC",
        "WA",
        "the answer is not in the process",
    ),
    Official(
        "sys.stdout.buffer",
        READS,
        "import sys\nsys.stdout.buffer.write(str(int(input()) + int(input())).encode())",
        "RTE",
        "AC",
        "standard output is a real one",
    ),
    Official(
        "for line in sys.stdin",
        READS,
        "import sys\nprint(sum(int(line) for line in sys.stdin))",
        "RTE",
        "AC",
        "standard input is a real one",
    ),
    Official(
        "open(0)", READS, "print(sum(map(int, open(0).read().split())))", "WA", "AC", "standard input is a real one"
    ),
    Official(
        "a global variable",
        READS,
        "total = 0\ndef add(x):\n    global total\n    total += x\nadd(int(input()))\nadd(int(input()))\nprint(total)",
        "RTE",
        "AC",
        "a program is run as a program, not as the body of a function",
    ),
    Official(
        "an exit code", READS, "print(int(input()) + int(input()))\nexit(1)", "AC", "RTE", "so say all other judges"
    ),
    Official(
        "tuples in a list",
        function_target("f", ("2\n3", "[[5, 5]]")),
        "class Solution:\n    def f(self, a, b): return [(a + b, a + b)]",
        "WA",
        "AC",
        "JSON has no tuples: neither has the answer",
    ),
    Official(
        "numbers as keys",
        function_target("f", ("2\n3", '{"2": 3}')),
        "class Solution:\n    def f(self, a, b): return {a: b}",
        "WA",
        "AC",
        "JSON has no other keys than strings",
    ),
    Official(
        "NumPy", READS, "import numpy\nprint(int(numpy.add(int(input()), int(input()))))", "AC", "RTE", "not installed"
    ),
]


def test_verdicts_differ_from_the_official_ones_only_where_it_is_intended(judge: CodeJudge):
    assert all((row.official == row.ours) == (not row.why) for row in TABLE)
    assert not faults(judge, [Row(row.name, row.target, row.source, row.ours) for row in TABLE])
