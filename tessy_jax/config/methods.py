"""The configurations of `synthesize`, by method: the paper's own, and what it is compared with (Table 1)."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator

from tessy_jax.config.schema import Variants
from tessy_jax.config.sections import RoleConfig, TraceRunConfig
from tessy_jax.config.synthesize import PaperCooperation, SynthesisConfig


class BaselineConfig(TraceRunConfig):
    """What the methods without cooperation share. One file serves all methods: `predictors` may stand there."""

    method: str
    student: RoleConfig
    teacher: RoleConfig | None = None
    predictors: dict[str, Any] | None = Field(default=None, description="Only method tessy reads them.")
    cooperation: PaperCooperation = Field(
        default=PaperCooperation(preset="paper"), description="Budgets of a trace, and k, which changes the speed."
    )

    @property
    def unused(self) -> list[str]:
        """Sections that are given and that the method has no use for."""
        return [] if self.predictors is None else ["predictors"]


class StudentOnlyConfig(BaselineConfig):
    """The student writes all."""

    method: Literal["student_only"]

    @property
    def unused(self) -> list[str]:
        """Sections that are given and that the method has no use for."""
        return super().unused + ([] if self.teacher is None else ["teacher"])


class TaughtConfig(BaselineConfig):
    """A method in which the teacher writes."""

    teacher: RoleConfig


class TeacherThinkConfig(TaughtConfig):
    """The teacher thinks, the student answers."""

    method: Literal["teacher_think"]


class TeacherAnswerConfig(TaughtConfig):
    """The student thinks, the teacher answers."""

    method: Literal["teacher_answer"]


class AloneConfig(TaughtConfig):
    """A method in which the teacher writes traces alone."""

    teacher_system: str | None = Field(
        default=None, description="System message for a teacher that writes alone; null: teacher.prompt.system."
    )


class TeacherOnlyConfig(AloneConfig):
    """The teacher writes all."""

    method: Literal["teacher_only"]


class TeacherMixConfig(AloneConfig):
    """Half of the traces by the teacher alone, half by the student alone."""

    method: Literal["teacher_mix"]


class TeacherReferenceConfig(TaughtConfig):
    """The student writes all, given the teacher's answer."""

    method: Literal["teacher_reference"]
    reference_template: str = Field(
        default="{problem}\n\nA correct answer, for reference:\n\n{reference}\n\n"
        "Think it through yourself, then give your own complete answer. Do not mention the reference.",
        description="What the student is asked: {problem} is the last message, {reference} the teacher's answer.",
    )

    @field_validator("reference_template")
    @classmethod
    def _check_places(cls, value: str) -> str:
        return _with_places(value, "{problem}", "{reference}")

    def texts(self, problems: int) -> int:
        """With the references."""
        return super().texts(problems) + problems


class TeacherScoreConfig(TaughtConfig):
    """The best of several texts of the student, as the teacher thinks."""

    method: Literal["teacher_score"]
    candidates: PositiveInt = Field(default=5, description="Texts of the student, of which one is kept.")
    score_template: str = Field(
        default="Rate the response to the problem for correctness and clarity, from 0 (useless) to 10 (perfect).\n\n"
        "Problem:\n{problem}\n\nResponse:\n{response}\n\nEnd your answer with a line of the form: Score: 7",
        description="What the teacher is asked: {problem} is the last message, {response} the student's text. The "
        "last number behind the word 'score' in the answer counts, or an answer that is a number.",
    )

    @field_validator("score_template")
    @classmethod
    def _check_places(cls, value: str) -> str:
        return _with_places(value, "{response}")

    def texts(self, problems: int) -> int:
        """The candidates, and what the teacher says of each."""
        return super().texts(problems) * self.candidates * 2


def _with_places(template: str, *places: str) -> str:
    if missing := [place for place in places if place not in template]:
        raise ValueError(f"must say where {' and '.join(missing)} stands")
    return template


METHODS: Variants[SynthesisConfig | BaselineConfig] = Variants(
    "method",
    {
        "tessy": SynthesisConfig,
        "student_only": StudentOnlyConfig,
        "teacher_only": TeacherOnlyConfig,
        "teacher_think": TeacherThinkConfig,
        "teacher_answer": TeacherAnswerConfig,
        "teacher_mix": TeacherMixConfig,
        "teacher_reference": TeacherReferenceConfig,
        "teacher_score": TeacherScoreConfig,
    },
)
