"""The configuration of `synthesize`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from tessy_jax.config.boundary_predictors import PredictorConfig, PredictorsConfig
from tessy_jax.config.schema import Config, load_as
from tessy_jax.config.sections import Budgets, RoleConfig, TraceRunConfig


class PaperCooperation(Budgets):
    """Algorithm 1 of the paper; k changes the speed, never the text."""

    preset: Literal["paper"] = Field(description="Algorithm 1 of the paper.")
    k: PositiveInt = Field(
        default=20, description="Tokens generated per turn; schedule stream: only how long a dispatch is."
    )


class ReleasedCodeCooperation(Budgets):
    """The behaviour of the released code, for comparison with the released data."""

    max_think_tokens: PositiveInt = Field(
        default=30720, description="Tokens of prompt and thinking, in the student's tokens."
    )
    max_answer_tokens: PositiveInt = Field(
        default=8192, description="With max_think_tokens: tokens of prompt, thinking and answer."
    )
    preset: Literal["released_code"] = Field(description="The behaviour of the released code.")
    k_student: int = Field(default=5, ge=4, description="Tokens per turn of the student; 4 hold a whole character.")
    k_teacher: int = Field(default=10, ge=4, description="Tokens per turn of the teacher.")
    window: PositiveInt = Field(default=200, description="Tokens that the predictors see.")


ScheduleName = Literal["stream", "rollback"]
"""In which order the models' forward passes are made; no text depends on it."""

CooperationConfig = Annotated[PaperCooperation | ReleasedCodeCooperation, Field(discriminator="preset")]


class PairConfig(Config):
    """Who writes, who judges, and what a trace is."""

    student: RoleConfig
    teacher: RoleConfig
    predictors: PredictorsConfig
    cooperation: CooperationConfig = Field(default=PaperCooperation(preset="paper"), description="Meaning of a trace.")


class SynthesisConfig(TraceRunConfig, PairConfig):
    """What `python -m tessy_jax.synthesize` needs to know for the method of the paper. The keys of the pair come
    first. Other methods: see `config.methods`.
    """

    method: Literal["tessy"] = Field(
        default="tessy",
        description="Who writes what (docs/methods.md): tessy, student_only, teacher_only, teacher_think, "
        "teacher_answer, teacher_mix, teacher_reference, teacher_score.",
        exclude_if=lambda value: value == "tessy",  # or the configurations of earlier runs would read otherwise
    )
    schedule: ScheduleName | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="stream: passes that are full (docs/algorithm.md); rollback: turns of k tokens, as Algorithm 1; "
        "null: stream, and turns in the preset released_code.",
    )

    keep_dropped: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="Records also hold the text that was rolled back at each cut (dropped_text); as dropped_tokens, it "
        "depends on the schedule and on k.",
    )

    keep_scores: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="Records also hold what the predictors said of each word that was judged, rejected ones included "
        "(word_scores: P(style)).",
    )

    @field_validator("schedule")
    @classmethod
    def _check_schedule(cls, value: ScheduleName | None, info: ValidationInfo) -> ScheduleName | None:
        if value == "stream" and isinstance(info.data.get("cooperation"), ReleasedCodeCooperation):
            raise ValueError("cannot be stream: the preset released_code judges whole turns; leave it out")
        return value

    @field_validator("keep_scores")
    @classmethod
    def _check_scores(cls, value: bool, info: ValidationInfo) -> bool:
        if value and isinstance(info.data.get("cooperation"), ReleasedCodeCooperation):
            raise ValueError("cannot be true: the preset released_code judges no words; leave it out")
        return value


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> SynthesisConfig:
    """The configuration of a YAML file.

    Args:
        path: of the file.
        overrides: replace values or whole sections: `["engine.batch=8"]`.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong. Every problem is named, one per line.
    """
    return load_as(SynthesisConfig, path, overrides)


def add_predictor_section(section: type[PredictorConfig]) -> None:
    """Lets `predictors.student` and `predictors.teacher` be of one more kind, whose section this is."""
    for field in PredictorsConfig.model_fields.values():
        known: Any = field.annotation
        widened: Any = known | section
        field.annotation = widened
    outer: list[type[Config]] = [PredictorsConfig, *_with_kinds(PairConfig)]  # each holds a copy of the inner one
    for schema in outer:
        schema.model_rebuild(force=True)


def _with_kinds(schema: type[PairConfig]) -> Iterator[type[PairConfig]]:
    yield schema
    for kind in schema.__subclasses__():
        yield from _with_kinds(kind)
