"""What a run needs of models that write traces, found and checked, whoever writes what."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jax.sharding import Mesh

from tessy_jax.config.sections import TraceRunConfig
from tessy_jax.data.inputs import Reject
from tessy_jax.data.records import Problem
from tessy_jax.engine.engine import Dispatch
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.engine.rows import Job
from tessy_jax.engine.sizes import PromptRoom
from tessy_jax.predictors.base import OwnModel


class JobRunner(Protocol):
    """An engine, or what drives several."""

    def run(self, jobs: Iterator[Job]) -> Iterator[Dispatch]:
        """Runs all `jobs`; see `Engine.run`."""
        ...


@dataclass(frozen=True)
class Stage:
    """What must have been written before: a run of its own within the run directory.

    Attributes:
        name: of its folder, for the user.
        models: who writes it; their configuration says where and how often.
        rows: its input, from that of the run; called when the stages before it are done.
    """

    name: str
    models: "Writers"
    rows: Callable[[Sequence[Problem | Reject]], Sequence[Problem | Reject]]


class Writers(Protocol):
    """Models that write a run's traces, their weights not loaded: `Pair`, `Solo`, those of `baselines`."""

    @property
    def config(self) -> TraceRunConfig:
        """Of the command."""
        ...

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """The models that will be loaded."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources: "student", "teacher"."""
        ...

    @property
    def plan(self) -> str:
        """What decides a trace, for the user."""
        ...

    @property
    def rooms(self) -> list[PromptRoom]:
        """The room for the prompt of each source; raises ConfigError where there is none."""
        ...

    @property
    def predictor_models(self) -> dict[str, OwnModel]:
        """The models that predictors bring along, by name."""
        ...

    @property
    def rules(self) -> int:
        """The number of the rules that records follow and that no key of the configuration says."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is written first, in order."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the records depend on but for `rules`, for the manifest."""
        ...

    def load(self, mesh: Mesh | None = None) -> JobRunner:
        """Loads what is to be loaded before the first trace; raises UserError."""
        ...


class WithoutPredictors:
    """What is the same of all `Writers` whose words nobody judges."""

    @property
    def predictor_models(self) -> dict[str, OwnModel]:
        """None: everything is kept."""
        return {}

    @property
    def rules(self) -> int:
        """The first: the rules of such records have never changed."""
        return 1

    @property
    def stages(self) -> tuple[Stage, ...]:
        """None: nothing is written first."""
        return ()
