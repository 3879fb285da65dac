"""A benchmark of an evaluation: its task, the problems that are asked, and how often."""

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from tessy_jax.config.evaluate import EvaluateConfig
from tessy_jax.evals.records import Problem
from tessy_jax.evals.task import Task
from tessy_jax.evals.tasks.registry import open_task


@dataclass(frozen=True)
class Benchmark:
    """A task as an evaluation asks it.

    Attributes:
        label: its name in folders and tables.
        runs: responses to each problem.
    """

    task: Task
    label: str
    problems: list[Problem]
    runs: int

    @property
    def question_identity(self) -> dict[str, Any]:
        """What the responses depend on: not how answers are extracted and judged."""
        return {key: value for key, value in self.task.identity().items() if key != "extract"}

    @cached_property
    def by_id(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.problems}


def open_benchmarks(config: EvaluateConfig) -> list[Benchmark]:
    """The benchmarks of a configuration, at most `config.limit` problems of each.

    Raises:
        TaskError: a file is not there, or a row is not what the benchmark's rows are.
    """
    found = []
    for section in config.benchmarks:
        task = open_task(section)
        problems = list(islice(task.problems(), config.limit))
        found.append(Benchmark(task, task.label, problems, task.runs))
    return found
