"""What a benchmark is: where its problems come from, how they are asked, where the answer stands, what it is judged
against. A benchmark is one file in `tasks/`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import Target


class Task(Protocol):
    """A benchmark, opened from a local file or folder.

    Attributes:
        name: of the benchmark: "livecodebench".
        label: of the column in tables: "LCB-V5".
        runs: responses per problem that reproduce the paper's column.
        groups: tags by which tables are divided: ("difficulty", "platform").
        mean_over: a tag: the headline is the plain mean of its values' scores; None: the mean over problems.
        shows_prompts: whether its problems may stand in reports.
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def runs(self) -> int: ...
    @property
    def groups(self) -> tuple[str, ...]: ...
    @property
    def mean_over(self) -> str | None: ...
    @property
    def shows_prompts(self) -> bool: ...

    def problems(self) -> Iterator[Problem]:
        """The problems, in the order of the file, without their tests: these may be gigabytes.

        Raises:
            TaskError: a row is not what the benchmark's rows are; with file, line and field.
        """
        ...

    def extract(self, problem: Problem, answer: str) -> str | None:
        """The part of an answer (the response after its thinking) that is judged; None where there is none."""
        ...

    def target(self, problem: Problem) -> Target | None:
        """What the answer is judged against, read when it is needed; None where the benchmark itself skips it."""
        ...

    def absent_tests(self, problem: Problem) -> Path | None:
        """Where the problem's tests should lie and do not; None where nothing is missing."""
        ...

    def identity(self) -> dict[str, str | int]:
        """What the scores depend on, for manifests: split, number of problems, hash of the file, extractor."""
        ...
