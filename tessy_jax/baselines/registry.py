"""The methods by the name that a configuration calls them: one line each."""

from collections.abc import Callable
from typing import Any

from rich.console import Console

from tessy_jax.baselines.mix import Mix
from tessy_jax.baselines.seated import student_only, teacher_answer, teacher_only, teacher_think
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
}


def open_method(config: SynthesisConfig | BaselineConfig, console: Console) -> Writers:
    """Finds and checks the models that the method of a configuration needs, looks at no other, and says so."""
    if isinstance(config, BaselineConfig) and config.unused:
        say(console, f"method {config.method} has no use for {' and '.join(config.unused)}: not loaded")
    return OPEN[config.method](config)
