"""From the files of a benchmark to the verdict: tiny ones of our own, with programs that are right and wrong."""

from tessy_jax.config.benchmarks import LcbPro, LiveCodeBench, OjBench
from tessy_jax.evals.judges.code import CodeJudge
from tessy_jax.evals.tasks.registry import open_task
from tests.kit.benchmarks import CHECKER, FUNCTIONAL, STDIN, OjFolder, lcb_row, write_jsonl, write_zip
from tests.kit.judging import Row, faults


def test_livecodebench(judge: CodeJudge, tmp_path):
    tiny = {problem.name: problem for problem in (*STDIN, *FUNCTIONAL)}
    path = write_jsonl(tmp_path / "test6.jsonl", [lcb_row(problem, packed=True) for problem in tiny.values()])
    task = open_task(LiveCodeBench(name="livecodebench", path=str(path), rules="strict"))
    rows = []
    for problem in task.problems():
        target = task.target(problem)
        for source, verdicts in ((tiny[problem.id].right, "AC"), (tiny[problem.id].wrong, "WA RTE")):
            program = task.extract(problem, f"So:\n```python\n{source}\n```\n")
            rows.append(Row(f"{problem.id}: {verdicts}", target, program, verdicts))
    assert len(rows) == 36
    assert not faults(judge, rows)


CPP = "#include <iostream>\nint main() { long long n; std::cin >> n; std::cout << FACTOR * n << std::endl; }"
PYTHON = "def main():\n    print(FACTOR * int(input()))"


def test_ojbench(judge: CodeJudge, tmp_path):
    task = open_task(OjBench(name="ojbench", path=str(OjFolder(tmp_path).write()), python="cpython"))
    rows = []
    for problem in task.problems():
        target = task.target(problem)
        language, source = problem.tags["language"], CPP if problem.tags["language"] == "cpp" else PYTHON
        for factor, verdicts in (("2", "AC"), ("3", "WA")):
            program = task.extract(problem, f"```{language}\n{source.replace('FACTOR', factor)}\n```")
            if target is not None:
                rows.append(Row(f"{problem.id}: {verdicts}", target, program, verdicts))
    assert len(rows) == 8
    assert not faults(judge, rows)


def test_livecodebench_pro(judge: CodeJudge, tmp_path):
    row = {"problem_id": "1Z", "difficulty": "easy", "platform": "codeforces", "problem_statement": "Print 2n."}
    files = {f"testdata/{n}.in": f"{n}\n" for n in (1, 2)} | {f"testdata/{n}.ans": f"{2 * n}\n" for n in (1, 2)}
    config = "type: default\ntime_limit: 2s\nmemory_limit: 256m\nsubtasks: [{n_cases: 2}]\n"
    write_zip(tmp_path / "1Z.zip", files | {"config.yaml": config, "chk.cc": CHECKER, "testlib.h": "// of our own\n"})
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    task = open_task(LcbPro(name="lcb_pro", path=str(path), tests=str(tmp_path)))
    (problem,) = task.problems()
    rows = [
        Row(
            verdicts,
            task.target(problem),
            task.extract(problem, f"```cpp\n{CPP.replace('FACTOR', factor)}\n```"),
            verdicts,
        )
        for factor, verdicts in (("2", "AC"), ("3", "WA"))
    ]
    assert not faults(judge, rows)
