"""What a reader of the report must know of the configurations: they are right, and may not be what was meant."""

from collections.abc import Sequence

from tessy_jax.config.sft import SftConfig
from tessy_jax.experiments.stages import Stage


def notes_on(stages: Sequence[Stage]) -> list[str]:
    """Where a student is trained on prompts that it was not given in synthesis, each once."""
    found: dict[str, None] = {}
    for stage in stages:
        if isinstance(stage.config, SftConfig):
            [data] = stage.needs
            student = data.config.student  # type: ignore[attr-defined]  # of every method
            for name in ("prompt", "thinking"):
                if getattr(stage.config, name) != getattr(student, name):
                    found[
                        f"{stage.arm}: sft has another {name} than student.{name} of synthesize: the student is "
                        "trained on prompts or markers other than those that it was given"
                    ] = None
    return list(found)
