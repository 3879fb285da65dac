"""The methods by the name that a configuration calls them: one line each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tessy_jax.baselines.mix import Mix
from tessy_jax.baselines.seated import student_only, teacher_answer, teacher_only, teacher_think
from tessy_jax.baselines.staged import teacher_reference, teacher_score
from tessy_jax.config.methods import BaselineConfig
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.console.messages import say
from tessy_jax.engine.pair import Pair
from tessy_jax.engine.writers import Writers

OPEN: dict[str, Callable[[Any], Writers]] = {
    "tessy": Pair.open,
    "student_only": student_only,
    "teacher_only": lambda config: teacher_only(config, config.teacher_system),
    "teacher_think": teacher_think,
    "teacher_answer": teacher_answer,
    "teacher_mix": Mix.open,
    "teacher_reference": teacher_reference,
    "teacher_score": teacher_score,
}


@dataclass(frozen=True)
class Methods:
    """Opens the models that the method of a configuration needs, looks at no other, and says so on the console."""

    console: Console

    def open(self, config: SynthesisConfig | BaselineConfig) -> Writers:
        """Finds and checks them; raises what their `open` raises."""
        if isinstance(config, BaselineConfig) and config.unused:
            say(self.console, f"method {config.method} has no use for {' and '.join(config.unused)}: not loaded")
        return OPEN[config.method](config)

    def identity_as(self, stored: Mapping[str, Any], config: SynthesisConfig | BaselineConfig) -> dict[str, Any] | None:
        """As `Pair.identity_as`; None for the other methods, whose models are opened to tell."""
        return Pair.identity_as(stored, config) if isinstance(config, SynthesisConfig) else None
