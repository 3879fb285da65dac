"""The benchmarks by name. A new one is a file beside this one, a section in `config/benchmarks.py`, and a line here."""

from collections.abc import Callable
from typing import Any

from tessy_jax.config.benchmarks import BenchmarkConfig
from tessy_jax.evals.task import Task
from tessy_jax.evals.tasks.aime import AimeTask
from tessy_jax.evals.tasks.gpqa import GpqaTask
from tessy_jax.evals.tasks.humaneval import HumanEvalTask
from tessy_jax.evals.tasks.lcb_pro import LcbProTask
from tessy_jax.evals.tasks.livecodebench import LiveCodeBenchTask
from tessy_jax.evals.tasks.ojbench import OjBenchTask
from tessy_jax.evals.tasks.olympiadbench import OlympiadBenchTask
from tessy_jax.evals.tasks.own_problems import OwnTask

TASKS: dict[str, Callable[[Any], Task]] = {
    task.name: task
    for task in (
        LiveCodeBenchTask,
        LcbProTask,
        OjBenchTask,
        AimeTask,
        GpqaTask,
        OlympiadBenchTask,
        HumanEvalTask,
        OwnTask,
    )
}


def open_task(config: BenchmarkConfig) -> Task:
    """The benchmark of a section of the configuration, its problems read and checked.

    Raises:
        TaskError: its data is absent, or not what the benchmark's data is.
    """
    return TASKS[config.name](config)
