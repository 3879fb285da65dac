"""Kept tokens per second of a pair: the schedule's own policy, run over simulated rows.

What a pass costs is the plan's estimate of a decode step; how long spans are is told, or read from a run. Rows are
always thinking, their number stays the same, and the host takes no time: a bound from above, for comparing sizes and
pairs.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessy_jax.cooperate.stream import PassShape, Policy
from tessy_jax.data.jsonl import read_objects
from tessy_jax.errors import ConfigError
from tessy_jax.planning.simulation import SpanTokens, simulate
from tessy_jax.storage.copies import local_runs

ROUNDS = 4000
"""Passes simulated: the rate is then known to about one percent with 12 rows, and better with more."""


@dataclasses.dataclass(frozen=True)
class SpanLengths:
    """Spans of the thinking, by role: tokens kept and dropped on average. Lengths are drawn geometrically.

    Attributes:
        source: where the numbers come from, for the reader.
    """

    kept: tuple[float, float]
    dropped: tuple[float, float]
    source: str


TYPICAL = SpanLengths((5.0, 17.0), (1.0, 1.0), "assumed")
"""Of a pair of which nothing is known: the student's few words of style, the teacher's step of a calculation."""


@dataclasses.dataclass(frozen=True)
class PairRate:
    """What the simulation says of a pair in steady state.

    Attributes:
        spans: what was assumed of spans.
        kept_per_second: tokens of the trace, over all rows and chips.
        passes_per_kept, teacher_alone: forward passes per kept token, and kept tokens per second of the teacher alone,
            all rows writing.
    """

    spans: SpanLengths
    kept_per_second: float
    passes_per_kept: float
    teacher_alone: float


def spans_of(run: Path) -> SpanLengths:
    """The mean lengths of the thinking's spans in a run's records.

    Raises:
        ConfigError: there are none.
    """
    kept, dropped, number = ({"student": 0, "teacher": 0} for _ in range(3))
    for span in _thinking(run):
        number[span["by"]] += 1
        kept[span["by"]] += span["n_tokens"]
        dropped[span["by"]] += span["dropped_tokens"]
    if not all(number.values()):
        raise ConfigError(f"--spans {run}: there are no spans of both authors in {run}/data: give a run of synthesize")

    def mean(total: Mapping[str, int]) -> tuple[float, float]:
        return total["student"] / number["student"], total["teacher"] / number["teacher"]

    return SpanLengths(mean(kept), mean(dropped), f"mean of {sum(number.values())} spans in {run}")


def _thinking(run: Path) -> Iterable[dict[str, Any]]:
    for path in sorted((local_runs(run) / "data").glob("part-*.jsonl")):
        for _, row in read_objects(path):
            yield from (span for span in (row or {}).get("spans", ()) if span.get("phase") == "think")


def pair_rate(
    policy: Policy,
    shapes: Sequence[PassShape],
    seconds: Sequence[float],
    spans: SpanLengths,
    rows: int,
    teacher_alone: float,
    rounds: int = ROUNDS,
) -> PairRate:
    """Runs `policy` over `rows` simulated rows.

    Args:
        shapes: of the passes of each model. seconds: of each pass, by role, then by shape.
        teacher_alone: see `PairRate`.
    """
    rng = np.random.default_rng(0)
    endless = [_geometric(rng, spans) for _ in range(rows + 1)]  # one more waits for a slot, as in a long run
    count = simulate(policy, shapes, endless, rows, rounds)
    time = sum(number * each for number, each in zip(count.passes, seconds, strict=True))
    return PairRate(spans, count.kept / time, sum(count.passes) / max(1, count.kept), teacher_alone)


def _geometric(rng: np.random.Generator, spans: SpanLengths) -> Iterator[SpanTokens]:
    """A row without an end: spans of both roles in turn, tokens kept drawn geometrically."""
    first = int(rng.integers(2))
    for role in itertools.cycle((first, 1 - first)):
        dropped = int(spans.dropped[role] + rng.random())
        yield SpanTokens(role, int(rng.geometric(1 / max(1.0, spans.kept[role]))), dropped)
