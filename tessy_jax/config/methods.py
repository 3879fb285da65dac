"""The configurations of `synthesize`, by method: the paper's own, and what it is compared with (Table 1)."""

from typing import Any, Literal

from pydantic import Field

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


METHODS: Variants[SynthesisConfig | BaselineConfig] = Variants(
    "method",
    {
        "tessy": SynthesisConfig,
        "student_only": StudentOnlyConfig,
        "teacher_only": TeacherOnlyConfig,
        "teacher_think": TeacherThinkConfig,
        "teacher_answer": TeacherAnswerConfig,
        "teacher_mix": TeacherMixConfig,
    },
)
