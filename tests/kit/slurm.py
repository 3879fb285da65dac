"""Processes that find each other as Slurm's tasks do."""

import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from tests.kit import process


def task(index: int, job: int, count: int = 2) -> dict[str, str]:
    """The environment of one of some tasks on this machine; `job` decides the port."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


class End(NamedTuple):
    code: int
    said: str


def start(commands: Sequence[Sequence[object]], devices: int, job: int) -> list[subprocess.Popen[str]]:
    """A process for each Python command, with so many devices each; their messages come through `stderr`."""
    # Slurm's tasks have a device each unless they are told; on the CPU all of a process's devices are its own.
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    tasks = [task(index, job, len(commands)) for index in range(len(commands))]
    return [process.start(*command, **task, **flags) for command, task in zip(commands, tasks, strict=True)]


def wait(processes: Sequence[subprocess.Popen[str]], seconds: float = 300) -> list[End]:
    """How all of them end. Kills them where they do not in time."""
    try:
        return [End(p.returncode, errors) for p in processes for errors in [p.communicate(timeout=seconds)[1]]]
    finally:
        for each in processes:
            each.kill()
