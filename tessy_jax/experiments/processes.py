"""A stage as a process of its own: its memory goes when it ends, and it is the command that a user would type."""

import ctypes
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Protocol

from tessy_jax.experiments.stages import Stage

_PR_SET_PDEATHSIG = 1


class Running(Protocol):
    """A stage that was started."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs; negative: the signal that ended it."""
        ...

    def stop(self) -> None:
        """Asks it to save where it is and to end."""
        ...


class Runner(Protocol):
    """What starts stages."""

    def start(self, stage: Stage) -> Running: ...


@dataclass(frozen=True)
class _Process:
    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)


class Processes:
    """Starts each stage as a process, whose messages go to the stage's log."""

    def start(self, stage: Stage) -> Running:
        stage.log.parent.mkdir(parents=True, exist_ok=True)
        with stage.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"tessy_jax.{stage.command}", *stage.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the experiment, which passes it on once
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        return _Process(process)


def _end_with_parent() -> None:
    """Or a stage would go on, and hold its folder, where the experiment was killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
