"""Methods that are one engine: who plays which role of the loop, and who begins.

The first role of the loop writes the answer, the second thinks at most. A model that writes all plays the first role;
predictors let everything pass.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from tessy_jax.config.methods import BaselineConfig
from tessy_jax.config.sections import RoleConfig
from tessy_jax.data.records import Author
from tessy_jax.engine.build import build_engine
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import ModelSource
from tessy_jax.engine.rows import Seats
from tessy_jax.engine.sizes import PromptRoom, prompt_room
from tessy_jax.engine.solo import KeepAll, solo_engine
from tessy_jax.engine.writers import WithoutPredictors
from tessy_jax.errors import ConfigError
from tessy_jax.models.hub import model_folder
from tessy_jax.text.thinking import Thinking, thinking_of


@dataclass(frozen=True)
class Seated(WithoutPredictors):
    """The models of a method, in the roles of the loop.

    Attributes:
        sources: the model of the first role, and that of the second where there is one.
        who: what each of them writes, for the user.
    """

    config: BaselineConfig
    sources: tuple[ModelSource, ...]
    seats: Seats
    who: str

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return self.seats.authors[: len(self.sources)]

    @property
    def plan(self) -> str:
        """What decides a trace, for the user."""
        return f"method {self.config.method}: {self.who}; {self.config.cooperation}"

    @property
    def rooms(self) -> list[PromptRoom]:
        """The room for each prompt; raises ConfigError where there is none."""
        cooperation = self.config.cooperation
        return prompt_room(cooperation, self.config.engine, cooperation.k)

    def identity(self) -> dict[str, Any]:
        """What the records depend on, for the manifest."""
        return shared_identity(self.config) | self.models_identity()

    def models_identity(self) -> dict[str, Any]:
        """The part of the models."""
        models = {name: source.identity() for name, source in zip(self.names, self.sources, strict=True)}
        form = self.seats.form
        return models if form is None else models | {"form": [form.open, form.close]}

    def load(self, mesh: Mesh | None = None) -> Engine:
        """Loads the weights onto the mesh and builds the engine.

        Raises:
            WeightsError, ShardingError: with the file and what to do.
        """
        config, cooperation = self.config, self.config.cooperation
        models = [source.load(mesh, jnp.dtype(config.engine.dtype)) for source in self.sources]
        if len(models) == 1:
            return solo_engine(models[0], cooperation, cooperation.k, config.engine, config.seed, mesh, self.seats)
        keep = (KeepAll(models[0].chat.tokenizer), KeepAll(models[1].chat.tokenizer, p_style=0.0))
        return build_engine(models, keep, cooperation, config.engine, config.seed, mesh, seats=self.seats)


def shared_identity(config: BaselineConfig) -> dict[str, Any]:
    """What the records of every method depend on besides the models; k changes none."""
    values = config.model_dump(mode="json", include={"method", "cooperation", "seed", "columns"})
    del values["cooperation"]["k"]
    return values | {"context": config.engine.context, "dtype": config.engine.dtype}


# -- the methods -------------------------------------------------------------------------------------------------------


def student_only(config: BaselineConfig) -> Seated:
    """The student writes all. A teacher is not looked at."""
    return Seated(config, (_open(config.student, "student"),), Seats(), "the student thinks and answers")


def teacher_only(config: BaselineConfig, system: str | None = None) -> Seated:
    """The teacher writes all; of the student only the form of thinking is needed.

    Args:
        system: a system message in place of the configured one.
    """
    role = config.teacher
    if role is not None and system is not None:
        role = role.model_copy(update={"prompt": role.prompt.model_copy(update={"system": system})})
    teacher = _answering(role, config.method)
    seats = Seats(("teacher", "student"), "teacher", _student_form(config))
    return Seated(config, (teacher,), seats, "the teacher thinks and answers")


def teacher_think(config: BaselineConfig) -> Seated:
    """The teacher thinks, the student answers."""
    sources = _open(config.student, "student"), _open(config.teacher, "teacher")
    return Seated(config, sources, Seats(first="teacher"), "the teacher thinks, the student answers")


def teacher_answer(config: BaselineConfig) -> Seated:
    """The student thinks, the teacher answers."""
    sources = _answering(config.teacher, config.method), _open(config.student, "student")
    seats = Seats(("teacher", "student"), "student", sources[1].chat.thinking)
    return Seated(config, sources, seats, "the student thinks, the teacher answers")


def _open(role: RoleConfig | None, name: Author) -> ModelSource:
    assert role is not None, "the configuration of the method asks for it"
    return ModelSource.open(role, f"{name}.model")


def _answering(role: RoleConfig | None, method: str) -> ModelSource:
    """The teacher, of which it must be known how its thinking ends and its answer begins."""
    source = _open(role, "teacher")
    if source.chat.textual_marker is not None and source.config.thinking.marker is None:
        raise ConfigError(
            f"teacher.thinking: method {method} lets the teacher answer, and {source.config.model} has no token that "
            "ends its thinking: give the text that does as teacher.thinking.marker (with before and after), or use "
            "teacher_think"
        )
    return source


def _student_form(config: BaselineConfig) -> Thinking:
    """How the student writes its thinking; none of its weights is needed for that."""
    folder = model_folder(config.student.model, "student.model")
    return thinking_of(folder, **config.student.thinking.model_dump(exclude_none=True))
