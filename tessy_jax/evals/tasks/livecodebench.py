"""LiveCodeBench, code generation: https://github.com/LiveCodeBench/LiveCodeBench (MIT)

The data set livecodebench/code_generation_lite has one file a version, test.jsonl (v1) to test6.jsonl (v6), with what
was new in it. A row looks like this one of ours; the last three fields are JSON in a text, and private tests may be
base64 of zlib of a pickled text of JSON:

    {"question_title": "Double it", "question_content": "Read n, and print 2n.", "platform": "atcoder",
     "question_id": "abc999_z", "contest_id": "abc999", "contest_date": "2025-02-01T00:00:00", "starter_code": "",
     "difficulty": "easy",
     "public_test_cases": "[{\\"input\\": \\"2\\", \\"output\\": \\"4\\", \\"testtype\\": \\"stdin\\"}]",
     "private_test_cases": "[...]", "metadata": "{}"}

Tests are gigabytes: each row's are read when it is judged.
"""

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from tessy_jax.config.benchmarks import LiveCodeBench
from tessy_jax.evals.extract import CODE
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import Checker, CodeTarget, Limits, TestCase
from tessy_jax.evals.tasks.base import BaseTask, Entry, hash_files, user
from tessy_jax.evals.tasks.rows import Row, TaskError

PLATFORMS, DIFFICULTIES = ("leetcode", "codeforces", "atcoder"), ("easy", "medium", "hard")
LIMITS = Limits(cpu_seconds=6, wall_seconds=12, memory_mib=4096)
"""6 s a test, as officially, where it is wall time of one process; 4 GiB as in OpenCompass."""
MAX_TESTS = 1 << 30
"""Bytes that the private tests of a problem may take, unpacked."""

SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a "
    "correct Python program that matches the specification and passes all tests. You will NOT return anything except "
    "for the program."
)
STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows."
)
_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json"
)
PRELUDE = "\n".join(
    [
        *(f"from {name} import *" for name in (*_MODULES.split(), "builtins", "typing")),
        *(f"import {name}" for name in _MODULES.split()),
        "sys.setrecursionlimit(50000)\n",
    ]
)
"""What the official judge puts before every program, so that imports may be missing."""


@dataclass(frozen=True)
class Material:
    """Where a row's line begins, and the function that is called."""

    file: Path
    line: int
    offset: int
    entry_point: str | None


class LiveCodeBenchTask(BaseTask[LiveCodeBench]):
    name = "livecodebench"
    groups = ("difficulty", "platform")

    def __init__(self, config: LiveCodeBench):
        self.files = _files(Path(config.path), config.split)
        super().__init__(config, self._read(config), label=f"LCB-{config.split.upper()}", runs=1)

    def _read(self, config: LiveCodeBench) -> Iterator[Entry]:
        for file in self.files:
            for line, offset, row in _rows(file):
                entry = _entry(config, row, Material(file, line, offset, _entry_point(row)))
                if entry is not None:
                    yield entry

    def extract(self, problem: Problem, answer: str) -> str | None:
        return CODE[self.config.extract](answer, "python")

    def target(self, problem: Problem) -> CodeTarget:
        """Reads the tests.

        Raises:
            TaskError: they are not what the data set's tests are.
        """
        material: Material = self.entry(problem).material
        row = _row_at(material)
        tests = [*_tests(row, "public_test_cases"), *_tests(row, "private_test_cases")]
        functional, strict = material.entry_point is not None, self.config.rules == "strict"
        names = ("json", "python") if functional else ("numbers", "lines")
        return CodeTarget(
            "python3", tuple(tests), LIMITS, Checker(names[0] if strict else names[1]), material.entry_point, PRELUDE
        )

    def rows(self) -> Iterator[Row]:
        """The rows of the problems, one at a time: with their tests they may be large."""
        return (_row_at(self.entry(problem).material) for problem in self.problems())

    def identity(self) -> dict[str, str | int]:
        return super().identity() | {"files": hash_files(self.files)}


def _entry(config: LiveCodeBench, row: Row, material: Material) -> Entry | None:
    """The problem of a row; None where the options leave it out."""
    platform, difficulty = row.one_of("platform", PLATFORMS), row.one_of("difficulty", DIFFICULTIES)
    try:
        day = datetime.fromisoformat(row.text("contest_date"))
    except ValueError:
        row.fail("field 'contest_date' must be a date, such as 2025-02-01T00:00:00")
    day = day.replace(tzinfo=None)
    if (config.platforms and platform not in config.platforms) or (
        config.difficulties and difficulty not in config.difficulties
    ):
        return None
    first, last = (date and datetime(date.year, date.month, date.day) for date in (config.start_date, config.end_date))
    if (first and day < first) or (last and day > last):
        return None
    system = SYSTEM if config.prompt == "official" else None
    tags = {"difficulty": difficulty, "platform": platform, "contest_date": day.date().isoformat()}
    return Entry(Problem(row.id("question_id"), user(prompt(row), system), tags), row.place, material)


def prompt(row: Row) -> str:
    """LiveCodeBench's prompt for models that chat; OpenCompass's is the same."""
    starter = row.text("starter_code", empty=True)
    return (
        f"### Question:\n{row.text('question_content')}\n\n### Format: {STARTER if starter else STDIN}\n"
        f"```python\n{starter or '# YOUR CODE HERE'}\n```\n\n### Answer: (use the provided format with backticks)\n\n"
    )


def _entry_point(row: Row) -> str | None:
    metadata = row.json("metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        row.fail("field 'metadata' must name a function in 'func_name'")
    return name


# -- files -------------------------------------------------------------------------------------------------------------


def _files(path: Path, split: str) -> list[Path]:
    """The files of a split: v5 is test5.jsonl; release_v5 and v1_v5 are test.jsonl to test5.jsonl."""
    if not path.is_dir():
        if not path.is_file():
            raise TaskError(f"no such file or folder: {path}")
        return [path]
    last = int(split[-1])
    first = 1 if split.startswith("release") else int(split[1])
    if first > last:
        raise TaskError(f"the split {split} ends before it begins")
    files = [path / f"test{'' if version == 1 else version}.jsonl" for version in range(first, last + 1)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise TaskError(f"{path} has no {', '.join(absent)}, which the split {split} needs")
    return files


def _rows(path: Path) -> Iterator[tuple[int, int, Row]]:
    """Line, offset and row of each line that is not blank."""
    offset = 0
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            if data.strip():
                yield line, offset, _parse(path, line, data)
            offset += len(data)


def _parse(path: Path, line: int, data: bytes) -> Row:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path}:{line}: malformed JSON: {error}") from None
    if not isinstance(value, dict):
        raise TaskError(f"{path}:{line}: a row must have fields")
    return Row(f"{path}:{line}", value)


def _row_at(material: Material) -> Row:
    with material.file.open("rb") as file:
        file.seek(material.offset)
        return _parse(material.file, material.line, file.readline())


# -- tests -------------------------------------------------------------------------------------------------------------


def _tests(row: Row, name: str) -> Iterator[TestCase]:
    text = row.text(name)
    try:
        tests = json.loads(text)
    except (ValueError, RecursionError):
        tests = _unpacked(row, name, text)
    if not isinstance(tests, list):
        row.fail(f"field '{name}' must hold a list of tests")
    for number, test in enumerate(tests, start=1):
        one = row.inner(f"test {number} of '{name}'", test)
        yield TestCase(one.text("input", empty=True), one.text("output", empty=True))


def _unpacked(row: Row, name: str, text: str) -> Any:
    try:
        packed = zlib.decompressobj()
        data = packed.decompress(base64.b64decode(text), MAX_TESTS)
        if packed.unconsumed_tail:
            row.fail(f"field '{name}' is larger than {MAX_TESTS >> 20} MiB, unpacked")
        return json.loads(_PickledText(io.BytesIO(data)).load())
    except (zlib.error, binascii.Error) as error:
        row.fail(f"field '{name}' is neither JSON nor base64 of zlib: {error}")
    except _NotAText as error:
        row.fail(f"field '{name}' {error}: it was not loaded")
    except Exception as error:  # of the unpickler, which any bytes may bring to any of them
        row.fail(f"field '{name}' cannot be unpacked: {type(error).__name__}: {error}")


class _NotAText(Exception):
    pass


class _PickledText(pickle.Unpickler):
    """Takes a pickled text and nothing else. A pickle that makes objects could run any program."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise _NotAText(f"asks for {module}.{name}, where only a text belongs")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _NotAText("refers to something outside of it")

    def load(self) -> str:
        value = super().load()
        if not isinstance(value, str):
            raise _NotAText(f"holds a {type(value).__name__}, where only a text belongs")
        return value
