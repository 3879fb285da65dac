"""Responses from and for other programs: OJBench's rows, and the files of LiveCodeBench's runner.

LiveCodeBench (lcb_runner/runner/custom_evaluator.py) reads a list of {"question_id", "code_list"}, to judge it, and
writes `*_eval_all.json`: a list with a row for each problem, its `code_list`, `graded_list` and `pass@1`.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tessy_jax.data.jsonl import replace_file
from tessy_jax.evals.judged import JudgedProblem
from tessy_jax.evals.records import Response
from tessy_jax.evals.tasks.rows import Row, read_rows

_LCB_FIELDS = (
    *("question_title", "question_content", "platform", "question_id", "contest_id", "contest_date"),
    *("starter_code", "difficulty"),
)


def read_ojbench(path: Path) -> Iterator[Response]:
    """Responses from OJBench's rows: a row of full.jsonl with the response in `content`, once for each run."""
    runs: dict[str, int] = {}
    for row in read_rows(path):
        name = row.id("id")
        name = f"loj-{name.removeprefix('loj-')}" if row.one_of("dataset", ("NOI", "ICPC")) == "NOI" else name
        problem = f"{name}/{row.one_of('language', ('cpp', 'python'))}"
        runs[problem] = runs.get(problem, -1) + 1
        yield Response(problem, runs[problem], row.text("content", empty=True))


def read_lcb_outputs(path: Path) -> Iterator[Response]:
    """Responses from a list for LiveCodeBench's custom evaluator: each program as an answer with one code block."""
    seen: set[str] = set()
    for row in read_rows(path):
        name = row.id("question_id")
        if name in seen:
            row.fail(f"the question_id {name!r} has stood before: each problem has one row")
        seen.add(name)
        for run, code in enumerate(_programs(row)):
            yield Response(name, run, f"```python\n{code}\n```")


def _programs(row: Row) -> list[str]:
    programs = row.values[row.name_of("code_list")]
    if not isinstance(programs, list) or not all(isinstance(code, str) for code in programs):
        row.fail("field 'code_list' must hold a list of programs")
    return programs


def write_lcb_outputs(path: Path, problems: Iterable[JudgedProblem]) -> None:
    """Writes the list that LiveCodeBench's custom evaluator judges, of all problems in the benchmark's order."""
    rows = [{"question_id": one.problem.id, "code_list": _codes(one)} for one in problems]
    replace_file(path, json.dumps(rows, indent=4) + "\n")


def write_lcb_eval_all(path: Path, problems: Iterable[JudgedProblem], rows: Iterable[Row]) -> None:
    """Writes what LiveCodeBench's runner writes after judging.

    Args:
        rows: of these problems, which the output repeats without the tests.
    """
    kept: dict[str, dict[str, Any]] = {}  # without the tests, which are large
    for row in rows:
        kept[row.id("question_id")] = {name: row.values.get(name, "") for name in _LCB_FIELDS}
    found: list[dict[str, Any]] = []
    for one in problems:
        graded = [bool(judged.judgement and judged.judgement.passed) for judged in one.responses]
        found.append(
            kept[one.problem.id]
            | {
                "output_list": [judged.response.response for judged in one.responses],
                "code_list": _codes(one),
                "graded_list": graded,
                "pass@1": sum(graded) / len(graded) if graded else 0.0,
                "metadata": [json.dumps(_metadata(judged.judgement)) for judged in one.responses],
            }
        )
    replace_file(path, json.dumps(found, indent=4) + "\n")


def _codes(found: JudgedProblem) -> list[str]:
    """The programs that were judged; an empty one where a response has none, as in LiveCodeBench."""
    return [(judged.judgement.extracted if judged.judgement else None) or "" for judged in found.responses]


def _metadata(judgement: Any) -> dict[str, Any]:
    return {} if judgement is None else {"verdict": str(judgement.verdict), "detail": judgement.detail}
