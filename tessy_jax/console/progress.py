"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table


class Remaining:
    """Estimates the time that is left from the recent past.

    The unit is a row: those that are left, less the share that the rows in flight have done already, over the rows per
    second of the last `window` seconds. The first state that is seen only starts the clock: what came before it is
    compilation. Nothing is said before `enough` rows have ended since.
    """

    def __init__(self, window: float = 300.0, enough: int = 2):
        self._window, self._enough = window, enough
        self._states: deque[tuple[float, float]] = deque()
        self._ended = 0
        self._ends = 0

    def see(self, now: float, ended: int, active: int = 0, in_flight: int = 0, per_row: float = 0.0) -> None:
        """Takes a state.

        Args:
            now: seconds.
            ended: rows that have ended, however.
            active: rows in flight.
            in_flight: tokens that they have by now.
            per_row: tokens of a row that has ended, on average; 0: unknown.
        """
        begun = min(in_flight / per_row, 0.9 * active) if per_row else 0.0
        if not self._states:
            self._ended = ended
        self._ends = ended - self._ended
        self._states.append((now, ended + begun))
        while len(self._states) > 2 and self._states[1][0] <= now - self._window:
            self._states.popleft()

    def seconds(self, total: int, now: float) -> float | None:
        """Until all `total` rows have ended; None where too little is known."""
        if self._ends < self._enough:
            return None
        (first, before), (last, after) = self._states[0], self._states[-1]
        if last <= first or after <= before:
            return None
        return max(0.0, (total - after) * (last - first) / (after - before) - (now - last))


@dataclass
class SynthesisProgress:
    """Running totals of a run that writes traces; whoever runs it updates the fields.

    Attributes:
        total: rows to do, those done before included; None while unknown.
        done, rejected, active: rows finished, given up and in flight.
        resumed: rows that were finished before this process started.
        kept: tokens kept so far, by author; the answer counts for the student.
        rolled_back: tokens generated and discarded.
        switches: changes of author.
        started: time of the start, in seconds of `time.monotonic`.
    """

    total: int | None = None
    done: int = 0
    rejected: int = 0
    active: int = 0
    resumed: int = 0
    kept: dict[str, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})
    rolled_back: int = 0
    switches: int = 0
    started: float = field(default_factory=time.monotonic)

    def metrics(self, now: float | None = None) -> dict[str, Any]:
        """The totals and what follows from them, as a line of `metrics.jsonl`: seconds, tokens per second, shares."""
        seconds = max((time.monotonic() if now is None else now) - self.started, 1e-9)
        tokens = sum(self.kept.values())
        new = self.done + self.rejected - self.resumed
        left = None if self.total is None else self.total - self.done - self.rejected
        return {
            "seconds": round(seconds, 3),
            "total": self.total,
            "done": self.done,
            "rejected": self.rejected,
            "active": self.active,
            "tokens": dict(self.kept),
            "tokens_per_second": {author: round(count / seconds, 2) for author, count in self.kept.items()},
            "rolled_back": self.rolled_back,
            "waste": round(self.rolled_back / (tokens + self.rolled_back), 4) if tokens + self.rolled_back else 0.0,
            "switches_per_1k_tokens": round(1000 * self.switches / tokens, 2) if tokens else 0.0,
            "eta_seconds": round(left * seconds / new, 1) if left is not None and new > 0 else None,
        }


class View:
    """Shows named values on a console: a live panel on a terminal, otherwise one line every `interval` seconds.

    Use it in a `with` statement and call `update` often; a last state is shown at the end.
    """

    def __init__(
        self,
        title: str,
        cells: Callable[[float], dict[str, str]],
        console: Console,
        *,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`cells` gives the values to show at a time of the clock, in seconds."""
        self._title = title
        self._cells = cells
        self._console = console
        self._interval = interval
        self._clock = clock
        self._next = clock()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self._panel(), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def update(self) -> None:
        """Shows the present state, where it is time to."""
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
        elif self._clock() >= self._next:
            self._next = self._clock() + self._interval
            self._print_line()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
            self._live.stop()
        else:
            self._print_line()

    def _panel(self) -> Panel:
        return _panel(self._title, self._cells(self._clock()))

    def _print_line(self) -> None:
        self._console.print(_line(self._cells(self._clock())), highlight=False, markup=False, soft_wrap=True)


class ProgressView(View):
    """Shows a `SynthesisProgress` on a console."""

    def __init__(self, progress: SynthesisProgress, console: Console, **options: Any):
        super().__init__("synthesis", lambda now: _cells(progress.metrics(now)), console, **options)


def panel(metrics: dict[str, Any]) -> Panel:
    """The panel of a state given by `SynthesisProgress.metrics`."""
    return _panel("synthesis", _cells(metrics))


def plain_line(metrics: dict[str, Any]) -> str:
    """One line of text of a state given by `SynthesisProgress.metrics`."""
    return _line(_cells(metrics))


def _panel(title: str, cells: dict[str, str]) -> Panel:
    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold")
    table.add_column()
    for name, value in cells.items():
        table.add_row(name, value)
    return Panel(table, title=title, expand=False)


def _line(cells: dict[str, str]) -> str:
    return "  ".join(f"{name} {value}" for name, value in cells.items())


def _cells(metrics: dict[str, Any]) -> dict[str, str]:
    total = "?" if metrics["total"] is None else metrics["total"]
    rates = metrics["tokens_per_second"]
    kept = sum(metrics["tokens"].values())
    return {
        "done": f"{metrics['done']}/{total}",
        "active": str(metrics["active"]),
        "rejected": str(metrics["rejected"]),
        "tok/s": ", ".join(f"{author} {rate:.1f}" for author, rate in rates.items()),
        "kept": f"{kept} tokens, {metrics['rolled_back']} rolled back ({metrics['waste']:.0%} waste)",
        "switches/1k": f"{metrics['switches_per_1k_tokens']:.1f}",
        "elapsed": duration(metrics["seconds"]),
        "eta": "?" if metrics["eta_seconds"] is None else duration(metrics["eta_seconds"]),
    }


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
