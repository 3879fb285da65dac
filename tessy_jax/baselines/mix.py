"""Teacher-Mix: half of the traces by the teacher alone, half by the student alone; one model is loaded at a time."""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from tessy_jax.baselines.seated import Seated, shared_identity, student_only, teacher_only
from tessy_jax.config.methods import BaselineConfig, TeacherMixConfig
from tessy_jax.data.records import Author
from tessy_jax.devices.processes import anywhere
from tessy_jax.engine.engine import Dispatch
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.engine.rows import NAMES, Job
from tessy_jax.engine.sizes import PromptRoom
from tessy_jax.engine.writers import WithoutPredictors


def author_of(record: str, sample: int) -> Author:
    """Who writes a sample of the problem `record`: of two samples each writes one, whatever else the input holds."""
    first = hashlib.sha256(record.encode("utf-8", "surrogatepass")).digest()[0]
    return NAMES[(first + sample) % 2]


@dataclass(frozen=True)
class Mix(WithoutPredictors):
    """The student alone and the teacher alone, each for its own traces."""

    config: BaselineConfig
    parts: tuple[Seated, Seated]

    @classmethod
    def open(cls, config: TeacherMixConfig) -> "Mix":
        """Opens both; raises what they raise."""
        return cls(config, (student_only(config), teacher_only(config, config.teacher_system)))

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """Of both."""
        return tuple(source for part in self.parts for source in part.sources)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return NAMES

    @property
    def plan(self) -> str:
        """What decides a trace, for the user."""
        who = "half of the traces by the student alone, then half by the teacher alone, one model loaded at a time"
        return f"method {self.config.method}: {who}; {self.config.cooperation}"

    @property
    def rooms(self) -> list[PromptRoom]:
        """The room for each prompt: whoever writes thinks and answers; raises ConfigError where there is none."""
        return [part.rooms[0] for part in self.parts]

    def identity(self) -> dict[str, Any]:
        """What the records depend on, for the manifest."""
        values = shared_identity(self.config)
        for part in self.parts:
            values |= part.models_identity()
        return values

    def load(self, mesh: Mesh | None = None) -> "MixRunner":
        """Loads nothing yet."""
        return MixRunner(self.parts, mesh)


@dataclass(frozen=True)
class MixRunner:
    """Runs the student's jobs, then the teacher's."""

    parts: tuple[Seated, Seated]
    mesh: Mesh | None

    def run(self, jobs: Iterator[Job]) -> Iterator[Dispatch]:
        """Runs all `jobs`; see `Engine.run`."""
        held: list[Job] = []

        def student() -> Iterator[Job]:
            for job in jobs:
                if author_of(job.problem.id, job.sample_index) == "student":
                    yield job
                else:
                    held.append(job)

        for dispatch in self.parts[0].load(self.mesh).run(student()):
            # What the teacher began earlier stays in the journal.
            waiting = [job.state for job in held if job.state is not None]
            yield dataclasses.replace(dispatch, active=[*dispatch.active, *waiting])
        if anywhere(bool(held)):
            yield from self.parts[1].load(self.mesh).run(iter(held))
