"""The first stage: every benchmark's problems to the model, its responses into run directories."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property

from rich.console import Console

from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import tell
from tessy_jax.console.progress import Remaining, View, duration
from tessy_jax.data.records import RowState
from tessy_jax.data.run_rows import RunDir
from tessy_jax.evals.benchmark import Benchmark
from tessy_jax.evals.generate.base import Group, Request, ResponseSource, SourceError


@dataclass(frozen=True)
class Wanted:
    """The responses that a benchmark needs, and where they are."""

    benchmark: Benchmark
    run: RunDir

    @cached_property
    def waiting(self) -> dict[tuple[str, int], RowState]:
        """The rows that were in flight when the last command ended and are not taken up again yet."""
        return {(row.id, row.sample_index): row for row in self.run.read_journal()}

    def requests(self) -> Iterator[Request]:
        """What is left to do: rows that were in flight first."""
        left = [
            Request(self.benchmark.folder, problem, sample)
            for problem in self.benchmark.problems
            for sample in range(self.benchmark.runs)
            if (problem.id, sample) not in self.run.done
        ]
        left.sort(key=lambda request: (request.id, request.sample_index) not in self.waiting)
        for request in left:
            begun = self.waiting.pop((request.id, request.sample_index), None)
            yield Request(request.benchmark, request.problem, request.sample_index, begun)

    def store(self, group: Group) -> None:
        """Stores what of a group is this benchmark's: responses first, then the journal. A kill between the two repeats
        nothing, as done rows are not taken up again.
        """
        for one in group.written:
            if one.request.benchmark == self.benchmark.folder:
                self.run.append(asdict(one.response))
        for failed in group.refused:
            if failed.request.benchmark == self.benchmark.folder:
                request = failed.request
                self.run.reject(
                    {"problem_id": request.problem.id, "sample_index": request.sample_index, "reason": failed.reason}
                )
        mine = [row for row in group.active if row.id.startswith(f"{self.benchmark.folder}/")]
        self.run.write_journal([*mine, *self.waiting.values()])


@dataclass
class GenerationProgress:
    """Running totals over all benchmarks, those of earlier commands included.

    Attributes:
        total, done, refused: responses in all, written, impossible.
        tokens: written by this command, where the source says.
        truncated: responses whose thinking was cut off, of this command.
    """

    total: int
    done: int
    refused: int
    in_flight: int = 0
    tokens: int = 0
    truncated: int = 0
    started: float = field(default_factory=time.monotonic)
    remaining: Remaining = field(default_factory=Remaining)

    @classmethod
    def of(cls, benchmarks: Sequence[Wanted]) -> "GenerationProgress":
        """What is there already."""
        keys = [each.benchmark.keys for each in benchmarks]
        refused = sum(len(each.run.failed & wanted) for each, wanted in zip(benchmarks, keys, strict=True))
        done = sum(len(each.run.done & wanted) for each, wanted in zip(benchmarks, keys, strict=True)) - refused
        return cls(sum(map(len, keys)), done, refused)

    @property
    def left(self) -> int:
        return self.total - self.done - self.refused

    def add(self, group: Group) -> None:
        self.done += len(group.written)
        self.refused += len(group.refused)
        self.tokens += sum(one.response.n_tokens or 0 for one in group.written)
        self.truncated += sum(one.response.finish == "truncated_thinking" for one in group.written)
        self.in_flight = group.in_flight
        written = [len(one.response.response.encode()) for one in group.written]
        begun = [len(row.text) for row in group.active] or [0] * group.in_flight  # a server does not say how far it is
        self.remaining.see(time.monotonic(), written, begun)

    def cells(self, now: float) -> dict[str, str]:
        """The panel's values."""
        seconds = max(now - self.started, 1e-9)
        eta = self.remaining.seconds(self.left, now)
        return {
            "responses": f"{self.done}/{self.total}",
            "in flight": str(self.in_flight),
            "refused": str(self.refused),
            "truncated": str(self.truncated),
            "tok/s": f"{self.tokens / seconds:.1f}",
            "elapsed": duration(seconds),
            "eta": "?" if eta is None else duration(eta),
        }


@dataclass(frozen=True)
class Ending:
    """How a stage ended: by an error, by the user, or (neither) because nothing was left."""

    error: SourceError | None = None
    interrupted: bool = False


def generate(benchmarks: Sequence[Wanted], source: ResponseSource, console: Console) -> Ending:
    """Writes every response that is wanted and not there."""
    progress = GenerationProgress.of(benchmarks)
    if not progress.left:
        tell(console, f"generate: all {progress.total} responses are there")
        return Ending()
    tell(console, f"generate: {progress.left} of {progress.total} responses by {source.name}")
    requests = itertools.chain.from_iterable(each.requests() for each in benchmarks)
    with (
        Interrupt(console, "the responses in flight") as stop,
        View("generate", progress.cells, console) as view,
        closing(source.write(itertools.takewhile(lambda _: not stop.asked, requests))) as groups,
    ):
        try:
            for group in groups:
                for each in benchmarks:
                    each.store(group)
                progress.add(group)
                view.update()
                # Rows in flight are journaled, and need not be finished; what a file holds is not lost.
                if stop.asked and (group.active or not group.in_flight):
                    break
        except SourceError as error:
            return Ending(error, stop.asked)
    return Ending(None, stop.asked)
