"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
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

    def __bool__(self) -> bool:
        return bool(self._states)

    def see(self, now: float, ended: int, active: int = 0, in_flight: int = 0, per_row: float = 0.0) -> None:
        """Takes a state.

        Args:
            now: seconds.
            ended: rows that have ended, however.
            active: rows in flight.
            in_flight: size of what they have written by now, in any unit.
            per_row: size of a row that has ended, on average; 0: unknown.
        """
        begun = min(in_flight / per_row, 0.9 * active) if per_row else 0.0  # long rows are not done either
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
        remaining: the recent past, see `see`; where nothing was seen, the average of the whole run counts.
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
    remaining: Remaining = field(default_factory=Remaining)
    _written: int = 0
    _rows: int = 0

    def see(self, finished: Iterable[int], active: Iterable[int], now: float | None = None) -> None:
        """Takes the present state into the estimate of the time that is left, after a dispatch.

        Args:
            finished: bytes of each row that was finished since the last call.
            active: bytes of each row in flight.
        """
        sizes, writing = list(finished), list(active)
        self._written, self._rows = self._written + sum(sizes), self._rows + len(sizes)
        per_row = self._written / self._rows if self._rows else 0.0
        now = time.monotonic() if now is None else now
        self.remaining.see(now, self.done + self.rejected, len(writing), sum(writing), per_row)

    def _eta(self, now: float, seconds: float) -> float | None:
        if self.total is None:
            return None
        if self.remaining:
            return self.remaining.seconds(self.total, now)
        new = self.done + self.rejected - self.resumed
        return (self.total - self.done - self.rejected) * seconds / new if new > 0 else None

    def metrics(self, now: float | None = None) -> dict[str, Any]:
        """The totals and what follows from them, as a line of `metrics.jsonl`: seconds, tokens per second, shares."""
        now = time.monotonic() if now is None else now
        seconds = max(now - self.started, 1e-9)
        tokens = sum(self.kept.values())
        eta = self._eta(now, seconds)
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
            "eta_seconds": None if eta is None else round(eta, 1),
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
        waiting: str | None = None,
        tick: float = 1.0,
    ):
        """
        Args:
            cells: gives the values to show at a time of the clock, in seconds.
            interval: seconds between two lines.
            clock: seconds.
            waiting: what goes on until the first `update`; it is shown meanwhile, with a time that moves.
            tick: seconds between two states of the panel meanwhile.
        """
        self._title = title
        self._cells = cells
        self._console = console
        self._interval = interval
        self._clock = clock
        self._next = self._began = clock()
        self._live: Live | None = None
        self._waiting = waiting
        self._tick = tick
        self._updated = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._waiting is not None:
            self._ticker = threading.Thread(target=self._wait, daemon=True)
        if self._console.is_terminal:
            self._live = Live(self._panel(), console=self._console, auto_refresh=False)
            self._live.start(refresh=True)
        if self._ticker is not None:
            self._ticker.start()
        return self

    def _wait(self) -> None:
        """Shows, until the first update, that the process lives: the panel every tick, a line every interval."""
        due = self._began + self._interval
        while not self._updated.wait(self._tick):
            if self._live is not None:
                self._live.update(self._panel(), refresh=True)
            elif self._clock() >= due:
                due += self._interval
                line = f"{self._waiting}  elapsed {duration(self._clock() - self._began)}"
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _end_waiting(self) -> None:
        if self._ticker is not None:
            self._updated.set()
            self._ticker.join()
            self._ticker = None

    def update(self) -> None:
        """Shows the present state, where it is time to."""
        self._end_waiting()
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
        elif self._clock() >= self._next:
            self._next = self._clock() + self._interval
            self._print_line()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_waiting()
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
            self._live.stop()
        else:
            self._print_line()

    def _panel(self) -> Panel:
        title = self._title if self._ticker is None else f"{self._title}: {self._waiting}"
        return _panel(title, self._cells(self._clock()))

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


def compiling(count: int, device: Any) -> str:
    """What a run says until its first step on so many devices of JAX is done."""
    return f"compiling for {count} x {device.device_kind}" + (" (about a minute)" if device.platform == "cpu" else "")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
