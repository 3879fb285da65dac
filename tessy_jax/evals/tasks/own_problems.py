"""Problems of one's own, a JSON line each. Which fields a row has beside its prompt says what kind it is:

    {"id": "a", "prompt": "What is 6 * 7? Put the answer in \\boxed{}.", "answer": "42"}
    {"id": "b", "prompt": "... ANSWER: $LETTER ...", "choices": ["7", "8"], "answer": "A"}
    {"id": "c", "prompt": "Read n, print 2n.", "tests": [{"input": "2\\n", "output": "4\\n"}]}
    {"id": "d", "prompt": "Write double(n).", "entry_point": "double", "tests": [{"input": "2", "output": "4"}]}

A prompt may be a list of messages. A mathematical answer may be a list, and have a "tolerance"; a program may have a
"language" (python3, pypy3, cpp17) and a "checker" (a comparator's name). "tags" divide tables: {"difficulty": "easy"}.
"""

from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any, get_args

from tessy_jax.config.benchmarks import OwnProblems
from tessy_jax.evals.extract import CODE, TEXT
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import ChoiceTarget, CodeTarget, Language, Limits, MathTarget, Target, TestCase
from tessy_jax.evals.tasks.base import BaseTask, Entry, hash_files, user
from tessy_jax.evals.tasks.checkers import named_checker
from tessy_jax.evals.tasks.rows import Row, read_rows

FIELDS = (
    *("id", "prompt", "tags", "answer", "tolerance", "choices"),
    *("tests", "entry_point", "language", "checker", "checker_args"),
)


class OwnTask(BaseTask[OwnProblems]):
    name = "jsonl"

    def __init__(self, config: OwnProblems):
        super().__init__(config, _read(config), label=Path(config.path).stem, runs=1)
        self.groups = tuple(sorted({name for problem in self.problems() for name in problem.tags}))  # type: ignore[misc]

    def extract(self, problem: Problem, answer: str) -> str | None:
        target = self.entry(problem).material
        if isinstance(target, CodeTarget):
            return CODE[self.config.extract](answer, "cpp" if target.language == "cpp17" else "python")
        rule = "choice" if isinstance(target, ChoiceTarget) else self.config.extract_answer or "final_answer"
        return TEXT[rule](answer)

    def target(self, problem: Problem) -> Target:
        target: Target = self.entry(problem).material
        return target

    def identity(self) -> dict[str, str | int]:
        return super().identity() | {"files": hash_files([Path(self.config.path)])}


def _read(config: OwnProblems) -> Iterator[Entry]:
    for row in read_rows(Path(config.path)):
        if unknown := sorted(set(row.values).difference(FIELDS)):
            row.fail(f"field '{unknown[0]}' is not known; known are {', '.join(FIELDS)}")
        tags = row.values.get("tags", {})
        if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
            row.fail('field \'tags\' must be like {"difficulty": "easy"}')
        yield Entry(Problem(row.id("id"), _messages(row), tags), row.place, _target(config, row))


def _messages(row: Row) -> list[dict[str, Any]]:
    value = row.values[row.name_of("prompt")]
    if isinstance(value, str):
        return user(row.text("prompt"))
    if not isinstance(value, list) or not value:
        row.fail("field 'prompt' must hold text or a list of messages")
    messages = [row.inner(f"message {number} of 'prompt'", one) for number, one in enumerate(value, start=1)]
    found = [
        {"role": one.one_of("role", ("system", "user", "assistant")), "content": one.text("content", empty=True)}
        for one in messages
    ]
    if found[-1]["role"] != "user":
        row.fail("field 'prompt' must end with a message of the user")
    return found


def _target(config: OwnProblems, row: Row) -> Target:
    if "tests" in row.values:
        return _code(config, row)
    if "choices" in row.values:
        choices = row.list_of_texts("choices")
        letters = ascii_uppercase[: len(choices)]
        return ChoiceTarget(row.one_of("answer", tuple(letters)), letters)
    value = row.values[row.name_of("answer")]
    answers = row.list_of_texts("answer") if isinstance(value, list) else (row.id("answer"),)
    tolerance = row.values.get("tolerance")
    if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance > 0):
        row.fail(f"field 'tolerance' must be a number above 0, not {tolerance!r}")
    return MathTarget(answers, (None if tolerance is None else float(tolerance),))


def _code(config: OwnProblems, row: Row) -> CodeTarget:
    tests, name = row.values["tests"], row.values.get("entry_point")
    if not isinstance(tests, list) or not tests:
        row.fail("field 'tests' must hold a list of tests")
    if name is not None and not row.text("entry_point").isidentifier():
        row.fail(f"field 'entry_point' must be the name of a function, not {name!r}")
    inner = [row.inner(f"test {number}", test) for number, test in enumerate(tests, start=1)]
    cases = tuple(TestCase(test.text("input", empty=True), test.text("output", empty=True)) for test in inner)
    known: tuple[Language, ...] = get_args(Language)
    language: Any = row.one_of("language", known) if "language" in row.values else "python3"
    checker = row.text("checker") if "checker" in row.values else "json" if name else "numbers"
    args = row.inner("'checker_args'", row.values.get("checker_args", {})).values
    if language == "cpp17" and name is not None:
        row.fail("field 'entry_point' is for Python: a C++ program reads standard input")
    limits = Limits(config.cpu_seconds, 2 * config.cpu_seconds, config.memory_mib)
    return CodeTarget(language, cases, limits, named_checker(row, checker, args), name)
