"""What an answer is judged against: tests of a program, a mathematical answer, a letter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

Language = Literal["python3", "pypy3", "cpp17"]


@dataclass(frozen=True)
class TestCase:
    """A test of a program; text, or the file that holds it.

    Attributes:
        input: standard input; of a function, one JSON value per line, one line per argument.
        output: what is expected on standard output; of a function, one JSON value.
    """

    __test__: ClassVar[bool] = False  # or pytest takes it for a test

    input: str | Path
    output: str | Path


@dataclass(frozen=True)
class Limits:
    """Of one run of a program."""

    cpu_seconds: float
    wall_seconds: float
    memory_mib: int
    output_mib: int = 24


@dataclass(frozen=True)
class Checker:
    """How output is compared with what is expected: a named comparator, or a testlib checker of the benchmark's.

    Attributes:
        name: of `compare.COMPARATORS`, or "testlib".
        args: of the comparator: {"precision": 6}.
        source: the checker's C++ source, for "testlib".
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None


@dataclass(frozen=True)
class CodeTarget:
    """A program is right if it passes all tests.

    Attributes:
        entry_point: the function, or the method of `Solution`, that is called; None: the program reads standard input.
        prelude: Python source that stands before the program. epilogue: behind it, in the same namespace.
        stop_at_first_failure: leaves the tests after a failed one out.
    """

    language: Language
    cases: tuple[TestCase, ...]
    limits: Limits
    checker: Checker
    entry_point: str | None = None
    prelude: str = ""
    epilogue: str = ""
    stop_at_first_failure: bool = True


@dataclass(frozen=True)
class MathTarget:
    """A mathematical answer is right if it equals the expected one.

    Attributes:
        answers: the expected answers; all are to be given where there are several.
        tolerance: absolute difference that numbers may have, one for all answers or one each; None: exact.
        integer: whether only a whole number can be right.
    """

    answers: tuple[str, ...]
    tolerance: tuple[float | None, ...] = (None,)
    integer: bool = False


@dataclass(frozen=True)
class ChoiceTarget:
    """A letter is right if it is this one of `letters`."""

    letter: str
    letters: str = "ABCD"


Target = CodeTarget | MathTarget | ChoiceTarget
