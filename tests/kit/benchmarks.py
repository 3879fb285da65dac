"""Tiny benchmarks of our own, in the shapes of the official data sets: programs, mathematics, choices."""

import base64
import json
import pickle
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TinyProgram:
    """A problem, its tests, and programs that are right and wrong.

    Attributes:
        entry_point: the function; None: a program that reads standard input.
    """

    name: str
    statement: str
    right: str
    wrong: str
    tests: Sequence[tuple[str, str]]
    entry_point: str | None = None
    difficulty: str = "easy"


def stdin(name: str, statement: str, right: str, wrong: str, *tests: tuple[str, str], **more: Any) -> TinyProgram:
    return TinyProgram(name, statement, right, wrong, tests, **more)


STDIN = (
    stdin("double", "Read n, print 2n.", "print(2 * int(input()))", "print(int(input()))", ("2\n", "4\n"), ("0", "0")),
    stdin(
        "sum_line",
        "Print the sum of the numbers of a line.",
        "print(sum(map(int, input().split())))",
        "print(max(map(int, input().split())))",
        ("1 2 3\n", "6\n"),
        ("5\n", "5\n"),
    ),
    stdin("reverse", "Print the line backwards.", "print(input()[::-1])", "print(input())", ("abc\n", "cba\n")),
    stdin(
        "count_lines",
        "Print how many lines there are.",
        "import sys\nprint(len(sys.stdin.readlines()))",
        "print(1)",
        ("a\nb\n", "2\n"),
    ),
    stdin("parity", "even or odd?", "print('odd' if int(input()) % 2 else 'even')", "print('odd')", ("4\n", "even\n")),
    stdin(
        "sort_numbers",
        "Sort the numbers.",
        "print(*sorted(map(int, input().split())))",
        "print(*sorted(input().split()))",
        ("10 9\n", "9 10\n"),
        difficulty="medium",
    ),
    stdin(
        "mean",
        "Print the mean.",
        "v = list(map(float, input().split()))\nprint(sum(v) / len(v))",
        "print(0)",
        ("1 2\n", "1.5\n"),
        ("2 2\n", "2\n"),
    ),
    stdin(
        "fibonacci",
        "Print the n-th Fibonacci number.",
        "a, b = 0, 1\nfor _ in range(int(input())):\n    a, b = b, a + b\nprint(a)",
        "print(1)",
        ("10\n", "55\n"),
        difficulty="medium",
    ),
    stdin("upper", "Print the line in capitals.", "print(input().upper())", "print(input())", ("ab c\n", "AB C\n")),
    stdin(
        "two_lines",
        "Print a+b and a-b.",
        "a, b = map(int, input().split())\nprint(a + b)\nprint(a - b)",
        "a, b = map(int, input().split())\nprint(a + b, a - b)",
        ("3 1\n", "4\n2\n"),
    ),
    stdin("power", "Print 2 to the n.", "print(2 ** int(input()))", "print(2 * int(input()))", ("64\n", f"{2**64}\n")),
    stdin(
        "unique",
        "Print how many different words there are.",
        "print(len(set(input().split())))",
        "print(len(input().split()))",
        ("a b a\n", "2\n"),
        difficulty="hard",
    ),
)
FUNCTIONAL = (
    TinyProgram(
        "f_double",
        "Twice n.",
        "def double(n):\n    return 2 * n",
        "def double(n):\n    return n",
        [("2", "4")],
        "double",
    ),
    TinyProgram(
        "f_pair",
        "Both numbers.",
        "class Solution:\n    def pair(self, a, b):\n        return (a, b)",
        "class Solution:\n    def pair(self, a, b):\n        return [b, a]",
        [("1\n2", "[1, 2]")],
        "pair",
    ),
    TinyProgram(
        "f_odd", "Is it odd?", "def odd(n):\n    return n % 2 == 1", "def odd(n):\n    return n", [("3", "true")], "odd"
    ),
    TinyProgram(
        "f_words",
        "The words.",
        "def words(s):\n    return s.split()",
        "def words(s):\n    return s",
        [('"a b"', '["a", "b"]')],
        "words",
    ),
    TinyProgram(
        "f_none", "Nothing.", "def none():\n    return None", "def none():\n    return 0", [("", "null")], "none"
    ),
    TinyProgram(
        "f_nest",
        "n brackets.",
        "def nest(n):\n    return [nest(n - 1)] if n else []",
        "def nest(n):\n    return []",
        [("2", "[[[]]]")],
        "nest",
    ),
)
MATHS = (
    ("What is 6 * 7?", "42"),
    ("How many days has June?", "030"),
    ("What is 2 to the 9?", "512"),
    ("What is 10 - 10?", "0"),
    ("How many hours has a day?", "24"),
    ("What is 31 * 32?", "992"),
    ("What is the first prime above 100?", "101"),
    ("What is 999 / 3?", "333"),
    ("How many edges has a cube?", "12"),
    ("What is 1 + 2 + ... + 10?", "55"),
)
CHOICES = tuple(
    (f"Which of these is {right}?", (right, *wrong))
    for right, *wrong in (
        ("a prime", "four", "six", "eight"),
        ("even", "one", "three", "five"),
        ("a colour", "seven", "loud", "cold"),
        ("a square", "two", "three", "five"),
        ("a planet", "Sirius", "Vega", "the Moon"),
        ("a metal", "oxygen", "neon", "helium"),
        ("a vowel", "b", "c", "d"),
        ("a cube", "two", "four", "six"),
    )
)


def lcb_row(problem: TinyProgram, *, packed: bool = False, **changes: Any) -> dict[str, Any]:
    """A row of LiveCodeBench: the first test public, the others private."""
    kind = "functional" if problem.entry_point else "stdin"
    tests = [{"input": given, "output": wanted, "testtype": kind} for given, wanted in problem.tests]
    private = json.dumps(tests[1:])
    if packed:
        private = base64.b64encode(zlib.compress(pickle.dumps(private))).decode()
    row = {
        "question_title": problem.name,
        "question_content": problem.statement,
        "platform": "leetcode" if problem.entry_point else "atcoder",
        "question_id": problem.name,
        "contest_id": "own1",
        "contest_date": "2025-01-04T00:00:00",
        "starter_code": f"def {problem.entry_point}(...):\n" if problem.entry_point else "",
        "difficulty": problem.difficulty,
        "public_test_cases": json.dumps(tests[:1]),
        "private_test_cases": private,
        "metadata": json.dumps({"func_name": problem.entry_point} if problem.entry_point else {}),
    }
    return row | changes


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_zip(path: Path, files: dict[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


CHECKER = """// of our own, in testlib's manner: input, output, answer; exit code 0 is right and 1 wrong
#include "testlib.h"
#include <fstream>
int main(int argc, char** argv) {
    std::ifstream out(argv[2]), answer(argv[3]);
    long long got, wanted;
    answer >> wanted;
    return (out >> got) && got == wanted ? 0 : 1;
}
"""


@dataclass(frozen=True)
class OjFolder:
    """An OJBench_testdata of our own: problem 1 in NOI, with an archive; problem own_A in ICPC, with plain files."""

    root: Path
    settings: dict[str, str] = field(
        default_factory=lambda: {
            "NOI/loj-1": "archive: tests.zip\ntest_cases:\n- {in: 1.in, out: 1.out, points: 1}\n"
            "- batched:\n  - {in: 2.in, out: 2.out}\n",
            "ICPC/own_A": "test_cases: [{in: a.in, out: a.out}]\nchecker: {name: floats, args: {precision: 3}}\n",
        }
    )

    def write(self) -> Path:
        rows = [
            {"id": name, "prompt": f"Read n, print 2n, in {language}.", "dataset": dataset, "language": language}
            | {"difficulty": "easy"}
            for name, dataset in ((1, "NOI"), ("own_A", "ICPC"), ("nwerc2023_H", "ICPC"))
            for language in ("cpp", "python")
        ]
        write_jsonl(self.root / "prompts" / "full.jsonl", rows)
        for folder, text in self.settings.items():
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            (self.root / folder / "init.yml").write_text(text, "utf-8")
        tests: dict[str, str | bytes] = {"1.in": "2\n", "1.out": "4\n", "2.in": "5\n", "2.out": "10\n"}
        write_zip(self.root / "NOI" / "loj-1" / "tests.zip", tests)
        (self.root / "ICPC" / "own_A" / "a.in").write_text("1\n")
        (self.root / "ICPC" / "own_A" / "a.out").write_text("2.0\n")
        return self.root
