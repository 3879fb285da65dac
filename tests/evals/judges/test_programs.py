"""Programs whose verdict is known: right, wrong, slow, large, broken; in each language, reading input or called."""

from dataclasses import replace

from tessy_jax.evals import targets
from tessy_jax.evals.judges.code import CodeJudge
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.targets import Checker
from tests.kit.judging import LIMITS, SLEEPY, SLOW, Row, faults, function_target, judge_all, stdin_target

SUM = (("3\n1 2 3\n", "6\n"), ("1\n-5\n", "-5\n"), ("4\n1000000000 1000000000 1000000000 1\n", "3000000001\n"))
READ = "n = int(input())\nnumbers = list(map(int, input().split()))\n"

python, pypy = stdin_target(*SUM), stdin_target(*SUM, language="pypy3")
PYTHON = [
    Row("sum", python, READ + "print(sum(numbers))", "AC"),
    Row("sys.stdin", python, "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))", "AC"),
    Row("sys.stdin.buffer", python, "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split()[1:])))", "AC"),
    Row("for line", python, "import sys\nfor line in sys.stdin:\n    pass\nprint(sum(map(int, line.split())))", "AC"),
    Row("open(0)", python, "print(sum(map(int, open(0).read().split()[1:])))", "AC"),
    Row("os.read", python, "import os\nprint(sum(map(int, os.read(0, 999).split()[1:])))", "AC"),
    Row("stdout.buffer", python, f"import sys\n{READ}sys.stdout.buffer.write(b'%d\\n' % sum(numbers))", "AC"),
    Row("main", python, "def main():\n    n = input()\n    print(sum(map(int, input().split())))\n"
        "if __name__ == '__main__':\n    main()", "AC"),
    Row("global", python, f"{READ}total = 0\ndef add(x):\n    global total\n    total += x\n"
        "for x in numbers: add(x)\nprint(total)", "AC"),
    Row("exit()", python, READ + "print(sum(numbers))\nexit()", "AC"),
    Row("blanks", python, READ + "print(' ', sum(numbers), ' ', end='')", "AC"),
    Row("float", python, READ + "print(float(sum(numbers)))", "AC"),
    Row("threads", python, f"import threading\n{READ}threading.stack_size(64 << 20)\n"
        "t = threading.Thread(target=lambda: print(sum(numbers)))\nt.start()\nt.join()", "AC"),
    Row("recursion", python, f"import sys\nsys.setrecursionlimit(50000)\n{READ}"
        "def f(n): return f(n - 1) + 1 if n else 0\nf(40000)\nprint(sum(numbers))", "AC"),
    Row("stderr", python, READ + "import sys\nprint('debug', file=sys.stderr)\nprint(sum(numbers))", "AC"),
    Row("a dataclass", python, f"from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n{READ}"
        "print(A(sum(numbers)).x)", "AC"),
    Row("32 bits", python, READ + "print(sum(numbers) % 2**31)", "WA"),
    Row("another line", python, READ + "print(sum(numbers))\nprint('done')", "WA"),
    Row("nothing", python, "", "WA"),
    Row("half a line", python, READ + "print(str(sum(numbers))[:-1])", "WA"),
    Row("division", python, READ + "print(1 // 0)", "RTE"),
    Row("assert", python, READ + "print(sum(numbers))\nassert False", "RTE"),
    Row("exit code", python, READ + "print(sum(numbers))\nexit(1)", "RTE"),
    Row("abort", python, "import os\nos.abort()", "RTE"),
    Row("segmentation fault", python, "import ctypes\nctypes.string_at(0)", "RTE"),
    Row("input ends", python, READ + "input()", "RTE"),
    Row("no such module", python, "import numpy", "RTE"),
    Row("syntax", python, "print((", "CE"),
    Row("indentation", python, "if 1:\nprint(1)", "CE"),
    Row("not UTF-8", python, "print('\udcff')", "WA"),
    Row("busy", replace(python, limits=SLOW), "while True: pass", "TLE"),
    Row("asleep", replace(python, limits=SLEEPY), "import time\ntime.sleep(99)", "TLE"),
    Row("a list", python, "a = [0] * 10**9", "MLE"),
    Row("many lists", python, "a = []\nwhile True: a.append(bytearray(1 << 24))", "MLE"),
    Row("much output", python, "while True: print('1' * 999)", "OLE"),
    Row("a little too much", python, "print('1' * (1 << 20))", "OLE"),
    Row("much on stderr", python, "import sys\nwhile True: print('1' * 999, file=sys.stderr)", "OLE"),
    Row("PyPy: sum", pypy, READ + "print(sum(numbers))", "AC"),
    Row("PyPy: a function", function_target("f", ("2", "[2, 4]"), language="pypy3"), "def f(x): return x, x * x", "AC"),
    Row("PyPy: wrong", pypy, READ + "print(-sum(numbers))", "WA"),
    Row("PyPy: a list", pypy, "a = [0] * 10**9", "MLE"),
    Row("PyPy: syntax", pypy, "print((", "CE"),
]  # fmt: skip

cpp = stdin_target(*SUM, language="cpp17")
SCAN = "#include <cstdio>\n#include <cstdlib>\n%sint main() { int n; long long s = 0, x; scanf(\"%%d\", &n);" \
    " while (n--) { scanf(\"%%lld\", &x); s += x; } %s }"  # fmt: skip
RECURSION = "int f(int n) { volatile char a[64]; a[0] = n; return n ? f(n - 1) + 1 : a[0]; }\n"
FILL = "void fill(int n) { volatile char *p = (char *)malloc(n << 20); for (int i = 0; i < n << 20; i += 4096) p[i] = 1; }\n"
CPP = [
    Row("C++: sum", cpp, SCAN % ("", 'printf("%lld\\n", s);'), "AC"),
    Row("C++: everything", cpp, "#include <bits/stdc++.h>\nusing namespace std;\nint main() { int n; cin >> n;"
        " vector<long long> v(n); for (auto &x : v) cin >> x; cout << accumulate(v.begin(), v.end(), 0LL) << endl; }",
        "AC"),
    Row("C++: C++17", cpp, SCAN % ("#include <utility>\n", 'auto [a, b] = std::pair(s, 0); printf("%lld", a + b);'), "AC"),
    Row("C++: deep recursion", cpp, SCAN % (RECURSION, 'if (f(1000000) > 0) printf("%lld", s);'), "AC"),
    Row("C++: 200 MiB", cpp, SCAN % (FILL, 'fill(200); printf("%lld", s);'), "AC"),
    Row("C++: 32 bits", cpp, SCAN % ("", 'printf("%d", (int)s);'), "WA"),
    Row("C++: nothing", cpp, "int main() {}", "WA"),
    Row("C++: exit code", cpp, SCAN % ("", 'printf("%lld", s); return 1;'), "RTE"),
    Row("C++: abort", cpp, SCAN % ("", "abort();"), "RTE"),
    Row("C++: null", cpp, SCAN % ("", "volatile int *p = nullptr; *p = 1;"), "RTE"),
    Row("C++: division", cpp, SCAN % ("", "volatile int z = 0; z = 1 / z;"), "RTE"),
    Row("C++: exception", cpp, SCAN % ("", "throw 1;"), "RTE"),
    Row("C++: endless recursion", cpp, SCAN % (RECURSION, "return f(-1);"), "MLE RTE"),
    Row("C++: 300 MiB", cpp, SCAN % (FILL, "fill(300);"), "MLE"),
    Row("C++: bad_alloc", cpp, "int *volatile p;\nint main() { while (1) p = new int[1 << 24]; }", "MLE"),
    Row("C++: busy", replace(cpp, limits=SLOW), "int main() { for (volatile int i = 0;; i = 1); }", "TLE"),
    Row("C++: asleep", replace(cpp, limits=SLEEPY), "#include <unistd.h>\nint main() { sleep(99); }", "TLE"),
    Row("C++: much output", cpp, '#include <cstdio>\nint main() { while (1) puts("tessy"); }', "OLE"),
    Row("C++: syntax", cpp, "int main() {", "CE"),
    Row("C++: not declared", cpp, "int main() { return x; }", "CE"),
    Row("C++: not linked", cpp, "int f();\nint main() { return f(); }", "CE"),
    Row("C++: empty", cpp, "", "CE"),
]  # fmt: skip

two = function_target("solve", ("[1, 2, 3]\n2", "[2, 4, 6]"), ("[]\n5", "[]"))
RIGHT = "def solve(numbers, k): return [x * k for x in numbers]"
FUNCTIONS = [
    Row("method", two, RIGHT.replace("def solve(", "class Solution:\n    def solve(self, "), "AC"),
    Row("function", two, RIGHT, "AC"),
    Row("tuple", two, "def solve(numbers, k): return tuple(x * k for x in numbers)", "AC"),
    Row("floats", two, "def solve(numbers, k): return [float(x * k) for x in numbers]", "AC"),
    Row("prints", two, "def solve(numbers, k):\n    print('[2, 4, 6]')\n    return [x * k for x in numbers]", "AC"),
    Row("class and function", two, "class Solution: pass\n" + RIGHT, "AC"),
    Row("wrong value", two, "def solve(numbers, k): return numbers", "WA"),
    Row("no value", two, "def solve(numbers, k): print([x * k for x in numbers])", "WA"),
    Row("a set", two, "def solve(numbers, k): return {x * k for x in numbers}", "WA"),
    Row("a string", two, "def solve(numbers, k): return str([x * k for x in numbers])", "WA"),
    Row("another name", two, "def answer(numbers, k): return [x * k for x in numbers]", "RTE"),
    Row("other arguments", two, "def solve(numbers): return numbers", "RTE"),
    Row("function: raises", two, "def solve(numbers, k): raise ValueError", "RTE"),
    Row("function: syntax", two, "def solve(numbers, k) return", "CE"),
    Row("function: busy", replace(two, limits=SLOW), "def solve(numbers, k):\n    while True: pass", "TLE"),
]  # fmt: skip


def test_programs_get_the_verdict_that_is_known(judge: CodeJudge):
    assert not faults(judge, PYTHON + CPP + FUNCTIONS)


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
    busy = "        while time.process_time() < 0.4: pass\n        os._exit(0)\n"
    child = f"import os, time\nfor _ in range(2):\n    if not os.fork():\n{busy}%s\nprint(1)"
    rows = [
        Row("waits", stdin_target(("", "1"), limits=SLOW), child % "os.wait(), os.wait()", "TLE"),
        Row("does not wait", stdin_target(("", "1"), limits=SLOW), child % "time.sleep(1.5)", "TLE"),
    ]
    assert not faults(judge, rows)


def test_a_source_is_compiled_once(judge: CodeJudge):
    source = SCAN % ("// once\n", 'printf("%lld", s);')
    rows = [Row(str(number), cpp, source, "AC") for number in range(6)]
    before = len(judge._compiler._programs)
    assert all(verdict.verdict is Verdict.ACCEPTED for verdict in judge_all(judge, rows).values())
    assert len(judge._compiler._programs) == before + 1


def test_programs_are_the_same_whatever_the_comparator(judge: CodeJudge):
    """The checker sees what was written, and nothing else: `identical` minds a blank that `standard` does not."""
    source = "print(1, end=' ')"
    for checker, verdict in (("standard", Verdict.ACCEPTED), ("identical", Verdict.WRONG_ANSWER)):
        target = replace(stdin_target(("", "1\n"), limits=LIMITS), checker=Checker(checker))
        assert judge.judge(target, source).verdict is verdict
