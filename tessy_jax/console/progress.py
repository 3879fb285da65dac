"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table


class Remaining:
    """Estimates the time that is left of rows, some of which are in flight at the same time.

    Short rows end first, so the mean of those that have ended would be too small for the others. What the rows in
    flight have written already counts too, as in any estimate from data of which a part is still open (Kaplan and Meier
    1958); beyond the longest row, a row ends as likely at any point, once in all work so far per row that has ended.

        rows of 1000 and 1000 have ended, 500 and 500 are in flight    ->  these have 500 more each
        a row of 100 has ended, 400 and 400 are in flight              ->  these have (100 + 400 + 400) / 1 more each

    Work is in any unit: bytes, steps. Its rate is that of the last `window` seconds. The first state that is seen only
    starts the clock: what came before it is compilation.
    """

    def __init__(self, window: float = 300.0, kept: int = 1000):
        """`kept`: how many of the last ended rows say how long rows are."""
        self._window = window
        self._states: deque[_State] = deque()
        self._ended: deque[float] = deque(maxlen=kept)
        self._active: list[float] = []
        self._work = 0.0

    def __bool__(self) -> bool:
        return bool(self._states)

    def see(self, now: float, ended: Iterable[float] = (), active: Iterable[float] = ()) -> None:
        """Takes a state.

        Args:
            now: seconds.
            ended: the work of each row that has ended since the last state.
            active: the work so far of each row in flight.
        """
        new, self._active = list(ended), list(active)
        self._ended.extend(new)
        self._work += sum(new)
        row_seconds = 0.0
        if self._states:
            last = self._states[-1]
            row_seconds = last.row_seconds + (len(new) + len(self._active)) * (now - last.now)
        self._states.append(_State(now, self._work + sum(self._active), row_seconds))
        while len(self._states) > 2 and self._states[1].now <= now - self._window:
            self._states.popleft()

    def seconds(self, rows: int, now: float) -> float | None:
        """Until so many rows have ended, those in flight among them; None where no row has ended yet."""
        if not self._ended or len(self._states) < 2:
            return None
        first, last = self._states[0], self._states[-1]
        work, seconds = last.work - first.work, last.now - first.now
        if work <= 0 or seconds <= 0:
            return None
        left_of = _mean_work_left(self._ended, self._active)
        in_flight = [left_of(done) for done in self._active]
        waiting = max(0, rows - len(in_flight)) * left_of(0.0)
        everything = (sum(in_flight) + waiting) * seconds / work
        longest = max(in_flight, default=0.0) * (last.row_seconds - first.row_seconds) / work  # alone, in the end
        return max(0.0, max(everything, longest) - (now - last.now))


class _State(NamedTuple):
    """What was done at a time: work of all rows, and seconds that they were in flight, added up."""

    now: float
    work: float
    row_seconds: float


def _mean_work_left(ended: Iterable[float], active: Iterable[float]) -> Callable[[float], float]:
    """How much more a row writes on average that has written so much, see `Remaining`."""
    sizes = sorted([(size, False) for size in ended] + [(size, True) for size in active])  # of equals, ended ones first
    mean = sum(size for size, _ in sizes) / sum(not in_flight for _, in_flight in sizes)
    points, shares, areas = [0.0], [1.0], [0.0]  # share of rows that are longer; its integral up to there
    for index, (size, in_flight) in enumerate(sizes):
        areas.append(areas[-1] + shares[-1] * (size - points[-1]))
        points.append(size)
        shares.append(shares[-1] if in_flight else shares[-1] * (1 - 1 / (len(sizes) - index)))
    whole = areas[-1] + shares[-1] * mean

    def left_of(done: float) -> float:
        at = bisect_right(points, done) - 1
        so_far = areas[at] + shares[at] * (done - points[at])
        return (whole - so_far) / shares[at] if shares[at] else 0.0

    return left_of


@dataclass
class SynthesisProgress:
    """Running totals of a run that writes traces; whoever runs it updates the fields.

    Attributes:
        total: rows to do, those done before included; None while unknown.
        done, rejected, active: rows finished, given up and in flight.
        resumed: rows that were finished before this process started.
        kept: tokens kept so far, by author; the answer counts for the student.
        rolled_back: tokens generated and discarded.
        evicted: how often a row gave the pages of its caches back, to begin again later.
        switches: changes of author.
        passes: forward passes of the writing models. rows: of all of them together, padding included; `wrote` of these
            got a token, and `read` only caught up with what the other model had written.
        visits: how often the host was asked for words or text. visitors: for how many rows in all.
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
    evicted: int = 0
    switches: int = 0
    passes: int = 0
    rows: int = 0
    wrote: int = 0
    read: int = 0
    visits: int = 0
    visitors: int = 0
    started: float = field(default_factory=time.monotonic)
    remaining: Remaining = field(default_factory=Remaining)

    def see(self, finished: Iterable[int], active: Iterable[int], now: float | None = None) -> None:
        """Takes the present state into the estimate of the time that is left, after a dispatch.

        Args:
            finished: bytes of each row that was finished since the last call.
            active: bytes of each row in flight.
        """
        self.remaining.see(time.monotonic() if now is None else now, finished, active)

    def _eta(self, now: float, seconds: float) -> float | None:
        if self.total is None:
            return None
        left, new = self.total - self.done - self.rejected, self.done + self.rejected - self.resumed
        if self.remaining:
            return self.remaining.seconds(left, now)
        return left * seconds / new if new > 0 else None

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
            "evicted": self.evicted,
            "waste": round(self.rolled_back / (tokens + self.rolled_back), 4) if tokens + self.rolled_back else 0.0,
            "switches_per_1k_tokens": round(1000 * self.switches / tokens, 2) if tokens else 0.0,
            "passes": self.passes,
            "rows_wrote": round(self.wrote / self.rows, 4) if self.rows else 0.0,
            "rows_read": round(self.read / self.rows, 4) if self.rows else 0.0,
            "host_visits": self.visits,
            "rows_per_visit": round(self.visitors / self.visits, 2) if self.visits else 0.0,
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
        super().__init__("synthesis", lambda now: cells_of(progress.metrics(now)), console, **options)


def panel(metrics: dict[str, Any]) -> Panel:
    """The panel of a state given by `SynthesisProgress.metrics`."""
    return _panel("synthesis", cells_of(metrics))


def plain_line(metrics: dict[str, Any]) -> str:
    """One line of text of a state given by `SynthesisProgress.metrics`."""
    return _line(cells_of(metrics))


def _panel(title: str, cells: dict[str, str]) -> Panel:
    table = Table.grid(padding=(0, 3))
    table.add_column(style="bold")
    table.add_column()
    for name, value in cells.items():
        table.add_row(name, value)
    return Panel(table, title=title, expand=False)


def _line(cells: dict[str, str]) -> str:
    return "  ".join(f"{name} {value}" for name, value in cells.items())


def cells_of(metrics: dict[str, Any]) -> dict[str, str]:
    """A state given by `SynthesisProgress.metrics` in words, by name."""
    total = "?" if metrics["total"] is None else metrics["total"]
    rates = metrics["tokens_per_second"]
    kept = sum(metrics["tokens"].values())
    passes = {}
    if "passes" in metrics:  # not in those of earlier versions
        wrote, read = metrics["rows_wrote"], metrics["rows_read"]
        passes["passes"] = f"{metrics['passes']}, of their rows {wrote:.0%} wrote, {read:.0%} read"
    if "host_visits" in metrics:
        passes["host"] = f"{metrics['host_visits']} visits for {metrics['rows_per_visit']:.1f} rows each"
    return {
        "done": f"{metrics['done']}/{total}",
        "active": f"{metrics['active']}" + (f", {metrics['evicted']} evicted" if metrics.get("evicted") else ""),
        "rejected": str(metrics["rejected"]),
        "tok/s": ", ".join(f"{author} {rate:.1f}" for author, rate in rates.items()),
        "kept": f"{kept} tokens, {metrics['rolled_back']} rolled back ({metrics['waste']:.0%} waste)",
        "switches/1k": f"{metrics['switches_per_1k_tokens']:.1f}",
        **passes,
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
