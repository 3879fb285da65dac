"""What is run in a box, and what is known of it afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tessy_jax.errors import UserError

Stopped = Literal["", "wall", "output"]
"""Why the box was killed: it wasn't; it took too long; it wrote too much."""


class SandboxError(UserError):
    """Programs cannot be run safely here; the text says why, and what to do."""


@dataclass(frozen=True)
class BoxLimits:
    """What one run may use. All but the times and the output hold for each of its processes.

    Attributes:
        cpu_seconds: the kernel kills at the next whole second after these.
        address_mib: of address space: what is allocated, used or not.
        output_bytes: of standard output, and as much again of standard error and of the result.
        processes: threads count, and so does the first process of the box.
        disk_mib: of /tmp, which is in memory.
    """

    cpu_seconds: float
    wall_seconds: float
    address_mib: int
    stack_mib: int
    output_bytes: int
    processes: int = 4
    disk_mib: int = 64


@dataclass(frozen=True)
class Job:
    """One run, in a box of its own.

    Attributes:
        command: the program and its arguments.
        files: what is in the box besides the system, read-only: {"/box/main.py": b"print(1)"}.
        result: whether the program has a pipe for its result besides its output: the number is its last argument.
    """

    command: tuple[str, ...]
    limits: BoxLimits
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    result: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        failure: why there was no run: the box could not be made. Says nothing about the program.
        exit_code: of the program; 128 + the signal that ended it.
        stderr: the last 4,000 bytes.
        memory_mib: what the largest process held in memory at most.
    """

    failure: str = ""
    exit_code: int = 0
    stopped: Stopped = ""
    stdout: bytes = b""
    stderr: bytes = b""
    result: bytes = b""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    memory_mib: float = 0.0
