"""Runs the stages that are not done, so many at a time, each after those that it needs."""

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import tell, visible
from tessy_jax.console.progress import View, duration
from tessy_jax.errors import DONE, INTERRUPTED, REJECTS
from tessy_jax.experiments.marks import Marks
from tessy_jax.experiments.processes import Runner, Running
from tessy_jax.experiments.stages import Stage
from tessy_jax.storage.paths import StorePath

_PAUSE = 0.1
"""Seconds between two looks at what runs."""
_SHOWN_LINES = 8
"""Of what a failed stage printed last."""
_TAIL_BYTES = 1 << 14


@dataclass(frozen=True)
class _Active:
    """A stage that runs, since when, and how long its log was then."""

    stage: Stage
    running: Running
    began: float
    logged: int


@dataclass
class Schedule:
    """The stages of an experiment on their way.

    Attributes:
        stages: all of them, in the order in which they are started.
        jobs: how many run at the same time.
        failed: names of the stages that failed.
        interrupted: whether the user stopped it.
    """

    stages: Sequence[Stage]
    marks: Marks
    runner: Runner
    jobs: int
    console: Console
    failed: set[str] = field(default_factory=set)
    interrupted: bool = False
    _active: list[_Active] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> list[Stage]:
        """The stages that are not done."""
        return [stage for stage in self.stages if not self.marks.is_done(stage)]

    def run(self) -> None:
        """Runs what is left. A stage that fails leaves out those that need it, and all others go on."""
        with (
            Interrupt(self.console, "what the stages save") as stop,
            View("experiment", self._cells, self.console) as view,
        ):
            try:
                while True:
                    if stop.asked and not self.interrupted:
                        self._stop()
                    if not self.interrupted:
                        self._start_ready()
                    if not self._active:
                        break
                    view.update()
                    self._wait()
            finally:
                for active in self._active:  # after an error of our own nothing goes on unseen
                    active.running.stop()

    def _start_ready(self) -> None:
        for stage in self._ready()[: self.jobs - len(self._active)]:
            tell(self.console, f"{stage.name}: {stage.typed}")
            began, logged = time.monotonic(), stage.log.stat().st_size if stage.log.exists() else 0
            self._active.append(_Active(stage, self.runner.start(stage), began, logged))

    def _ready(self) -> list[Stage]:
        """What can be started now, in order."""
        active = {each.stage.name for each in self._active}
        return [
            stage
            for stage in self.left
            if stage.name not in self.failed | active and all(map(self.marks.is_done, stage.needs))
        ]

    def _wait(self) -> None:
        """For a moment, or until a stage has ended."""
        ended = [(each, code) for each in self._active if (code := each.running.poll()) is not None]
        for each, code in ended:
            self._active.remove(each)
            self._end(each, code)
        if not ended:
            time.sleep(_PAUSE)

    def _stop(self) -> None:
        """Tells all stages to save and to end; none is started any more."""
        self.interrupted = True
        for each in self._active:
            each.running.stop()

    def _end(self, each: _Active, code: int) -> None:
        """Notes how a stage ended, and says so."""
        stage, seconds = each.stage, time.monotonic() - each.began
        self.marks.add(stage, code, seconds)
        if code == INTERRUPTED:
            if not self.interrupted:
                self._stop()
        elif self.marks.is_done(stage):
            rejects = ", with rejects" if code == REJECTS else ""
            tell(self.console, f"{stage.name}: done in {duration(seconds)}{rejects}")
        else:
            self.failed.add(stage.name)
            tell(self.console, "\n".join(_explain(each, code)))

    def _cells(self, now: float) -> dict[str, str]:
        left = len(self.left)
        cells = {"stages": f"{len(self.stages) - left}/{len(self.stages)}", "failed": str(len(self.failed))}
        for each in self._active:
            last = next(iter(_last_lines(each, 1)), "")
            cells[each.stage.name] = f"{duration(now - each.began)}  {last}"
        return cells | {"elapsed": duration(now - self._began)}


def _explain(each: _Active, code: int) -> Iterator[str]:
    """What a user needs to know of a stage that failed."""
    stage = each.stage
    yield f"error: {stage.name} failed: {_ending(code)}"
    for line in _last_lines(each, _SHOWN_LINES):
        yield f"    {line}"
    printed, run_log = stage.root / stage.log_name, stage.folder / "run.log"
    logged = not isinstance(run_log, StorePath) and run_log.exists()
    yield f"all that it printed: {printed}" + (f"; its log: {run_log}" if logged else "")
    yield f"the stage alone: {stage.typed}"


def _ending(code: int) -> str:
    if code in (DONE, REJECTS):
        return "it ended well, but there is no run directory"
    if code > 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"ended by {name}" + (", often for want of memory" if -code == signal.SIGKILL else "")


def _last_lines(each: _Active, count: int) -> list[str]:
    """What it printed last, without blank lines; not what an earlier start of the stage printed."""
    log = each.stage.log
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(each.logged, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return [visible(line.rstrip()) for line in lines if line.strip()][-count:]
