"""How many programs the judge runs a second, and what a run costs: python benchmarks/judge_throughput.py"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor

from tessy_jax.evals.judges.code import CodeJudge
from tessy_jax.evals.records import Verdict
from tessy_jax.evals.targets import Checker, CodeTarget, Language, Limits, TestCase

PROGRAMS: dict[Language, str] = {
    "python3": "print(sum(map(int, input().split())))",
    "cpp17": '#include <cstdio>\nint main() { int a, b; scanf("%d%d", &a, &b); printf("%d\\n", a + b); }',
}
CASES = 20


def measure(judge: CodeJudge, language: Language, programs: int) -> tuple[float, float, float]:
    """Runs a second; CPU seconds in the box, and in all, per run."""
    cases = tuple(TestCase(f"{number} 1\n", f"{number + 1}\n") for number in range(CASES))
    target = CodeTarget(language, cases, Limits(5, 10, 256), Checker("lines"))
    assert judge.judge(target, PROGRAMS[language]).verdict is Verdict.ACCEPTED  # compiled, and keepers started
    started, used = time.monotonic(), os.times()
    with ThreadPoolExecutor(judge.sandbox.workers) as pool:
        verdicts = list(pool.map(lambda _: judge.judge(target, PROGRAMS[language]), range(programs)))
    seconds, now, runs = time.monotonic() - started, os.times(), programs * CASES
    assert all(verdict.verdict is Verdict.ACCEPTED for verdict in verdicts)
    boxes = sum(verdict.cpu_seconds for verdict in verdicts)
    judging = now.user - used.user + now.system - used.system
    return runs / seconds, boxes / runs, (boxes + judging) / runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--programs", type=int, default=20, help=f"of {CASES} tests each")
    options = parser.parse_args()
    with CodeJudge.open(list(PROGRAMS), workers=options.workers) as judge:
        for language in PROGRAMS:
            rate, box, whole = measure(judge, language, options.programs)
            costs = f"{1000 * box:.1f} ms CPU in the box, {1000 * whole:.1f} ms in all"
            print(f"{language}: {rate:.0f} runs/s; a run takes {costs}")


if __name__ == "__main__":
    main()
