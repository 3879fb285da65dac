"""What tasks share: entries read once, labels, and the prompt of a user."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from tessy_jax.config.benchmarks import BenchmarkConfig
from tessy_jax.data.hashing import hash_file, hash_text
from tessy_jax.data.records import Message
from tessy_jax.evals.records import Problem
from tessy_jax.evals.tasks.rows import TaskError, unique

ConfigT = TypeVar("ConfigT", bound=BenchmarkConfig)


@dataclass(frozen=True)
class Entry:
    """A problem, where it stands, and what its target is made of."""

    problem: Problem
    place: str
    material: Any = field(default=None, repr=False)


class BaseTask(Generic[ConfigT]):
    """A task whose problems are read when it is opened, without their tests.

    Attributes:
        config: its section.
        label, runs: as the configuration says, else those of the paper's column.
    """

    name: ClassVar[str]
    groups: ClassVar[tuple[str, ...]] = ()
    shows_prompts: ClassVar[bool] = True
    """Whether its problems may stand in reports."""
    mean_over: ClassVar[str | None] = None
    """A tag: the headline is the plain mean of its values' scores; None: the mean over problems."""

    def __init__(self, config: ConfigT, entries: Iterator[Entry], *, label: str, runs: int):
        """Raises TaskError where a row is wrong, an id stands twice, or there is no problem at all."""
        self.config = config
        self.label = config.label or label
        self.runs = config.runs or runs
        found = unique(entries, lambda entry: (entry.problem.id, entry.place))
        if not found:
            raise TaskError(f"{config.path}: no problem is left: see the options of {self.name}")
        self._entries = dict(list(found.items())[: config.limit])

    def problems(self) -> Iterator[Problem]:
        """The problems, in the order of the file."""
        return (entry.problem for entry in self._entries.values())

    def entry(self, problem: Problem) -> Entry:
        return self._entries[problem.id]

    def absent_tests(self, problem: Problem) -> Path | None:
        """Where the problem's tests should lie and do not; None: most tasks' tests stand in the rows."""
        return None

    def hash_materials(self) -> str:
        """Of what the targets are made of: answers, tests."""
        return hash_text(repr([entry.material for entry in self._entries.values()]))[:16]

    def identity(self) -> dict[str, str | int]:
        """What the scores depend on: all options but the runs, the number of problems, and a hash of what was read."""
        options = self.config.model_dump(mode="json", exclude={"path", "tests", "testlib", "verifier", "label", "runs"})
        prompts = hash_text("\n".join(f"{one.id}\t{one.messages}" for one in self.problems()))
        about: dict[str, str | int] = {"benchmark": self.name, "problems": len(self._entries), "prompts": prompts[:16]}
        return about | {key: str(value) for key, value in options.items() if value is not None and key != "name"}


def user(text: str, system: str | None = None) -> list[Message]:
    """The messages of a prompt."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def hash_names(paths: Sequence[Path]) -> str:
    """Of the names and lengths of files that are too many to be read."""
    return hash_text("\n".join(f"{path.name} {path.stat().st_size}" for path in paths))[:16]


def hash_files(paths: Sequence[Path]) -> str:
    """Of several files, whole."""
    return hash_text("".join(hash_file(path) for path in paths))[:16]
