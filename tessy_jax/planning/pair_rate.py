"""Kept tokens per second of a pair: the schedule's own policy, run over simulated rows.

What a pass costs is the plan's estimate of a decode step; how long spans are is told, or read from a run. Rows are
always thinking, their number stays the same, and the host takes no time: a bound from above, for comparing sizes and
pairs.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tessy_jax.cooperate.stream import PassShape, Places, Policy, lag_weights
from tessy_jax.data.jsonl import read_objects
from tessy_jax.errors import ConfigError

ROUNDS = 4000
"""Passes simulated: the rate is then known to about one percent with 12 rows, and better with more."""


BYTES = 4
"""Of a token, about."""


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
    for path in sorted((run / "data").glob("part-*.jsonl")):
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
    rng, roles = np.random.default_rng(0), range(2)

    @jax.jit
    def next_pass(role: Array, behind: Array, written: Array, memory: Any, count: Array) -> Any:
        weights = lag_weights(written, jnp.ones(rows, bool))
        late = behind > 0
        places = [Places((role == r) & late, (role == r) & ~late).of(shape) for r in roles for shape in shapes]
        both = list(zip(places, itertools.cycle(shapes), strict=False))
        index, memory = policy.choose(jnp.stack([p.served(shape, weights, 1) for p, shape in both]), memory)
        return index, memory, [p.slots(shape, count, 1) for p, shape in both]

    role, memory = rng.integers(2, size=rows), policy.start()
    behind = np.zeros(rows, int)  # tokens to read before the next one can be written, but for the last
    left, waste = _draw(rng, spans, role)
    written = np.zeros(rows, int)
    time, kept, passes = 0.0, 0, 0
    for count in range(rounds):
        index, memory, slots = next_pass(role, behind, BYTES * written, memory, count)
        shape = shapes[int(index) % len(shapes)]
        fed = np.asarray(slots[int(index)])
        fed = fed[fed < rows]
        wrote = fed[behind[fed] < shape.width]
        behind[fed] -= shape.width
        behind[wrote] = 0
        time, passes = time + seconds[int(index)], passes + 1

        # A token is kept while the span lasts; then some are dropped, and the other model reads what was kept.
        keeps = wrote[left[wrote] > 0]
        left[keeps] -= 1
        written[keeps] += 1
        kept += len(keeps)
        drops = np.setdiff1d(wrote, keeps)
        waste[drops] -= 1
        over = wrote[(left[wrote] <= 0) & (waste[wrote] <= 0)]
        length = np.array([spans.kept[each] for each in role[over]])
        role[over] = 1 - role[over]
        behind[over] = np.maximum(0, np.round(length).astype(int) - 1)
        left[over], waste[over] = _draw(rng, spans, role[over])
    return PairRate(spans, kept / time, passes / max(1, kept), teacher_alone)


def _draw(rng: np.random.Generator, spans: SpanLengths, role: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of new spans of these roles: tokens kept, and tokens dropped behind them."""
    kept, dropped = (np.array(each)[role] for each in (spans.kept, spans.dropped))
    extra = np.floor(dropped) + (rng.random(len(role)) < dropped - np.floor(dropped))
    return rng.geometric(1 / np.maximum(1.0, kept)), extra.astype(int)
