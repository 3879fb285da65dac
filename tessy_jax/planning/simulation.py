"""The schedule `stream` over simulated rows: its own policy, weights and places, without models.

Of a row only its spans are known: who writes how many tokens, and how many of them are dropped. The demo, whose records
say it, takes 431 passes, and 430 are simulated of them (docs/benchmarks.md: The least number of passes).
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tessy_jax.cooperate.state import Role
from tessy_jax.cooperate.stream import PassShape, Places, Policy, lag_weights


class SpanTokens(NamedTuple):
    """A span: tokens that its author writes and that are kept, and tokens behind them that are dropped."""

    role: int
    kept: int
    dropped: int


class PassCount(NamedTuple):
    """What a schedule did.

    Attributes:
        passes: by role, then by shape.
        places: tokens that all passes together had places for.
        generated, kept: tokens written, and those that were kept.
    """

    passes: tuple[int, ...]
    places: int
    generated: int
    kept: int


def simulate(
    policy: Policy,
    shapes: Sequence[PassShape],
    rows: Iterable[Iterable[SpanTokens]],
    slots: int,
    rounds: int | None = None,
) -> PassCount:
    """Writes `rows` in `slots`, in their order, until all are done or so many `rounds` are over.

    Args:
        shapes: of the passes of each model.
    """
    choose, memory = _chooser(policy, shapes, slots), policy.start()
    batch, passes = _Batch(rows, slots), np.zeros(len(Role) * len(shapes), int)
    for count in itertools.count() if rounds is None else range(rounds):
        if not batch.going_on.any():
            break
        rows_now = batch.role, batch.behind, batch.tokens, batch.going_on
        index, memory, fed = choose(*rows_now, bool(batch.waiting), memory, count)
        shape = shapes[int(index) % len(shapes)]
        batch.run(np.asarray(fed[int(index)]), shape)
        passes[int(index)] += 1
    places = sum(n * s.rows * s.width for n, s in zip(passes, itertools.cycle(shapes), strict=False))
    return PassCount(tuple(passes.tolist()), int(places), batch.generated, batch.kept)


def _chooser(policy: Policy, shapes: Sequence[PassShape], slots: int) -> Any:
    """What `StreamSchedule.round` does before a pass: the index of the next, and the rows that each would feed."""

    @jax.jit
    def choose(
        role: Array, behind: Array, tokens: Array, going_on: Array, replaced: Array, memory: Any, count: Array
    ) -> tuple[Array, Any, list[Array]]:
        weights = jnp.where(replaced, 1.0, lag_weights(tokens, going_on))
        late, served, fed = behind > 0, [], []
        for each, shape in itertools.product(Role, shapes):
            mine = going_on & (role == each)
            places = Places(mine & late, mine & ~late).of(shape)
            served.append(places.served(shape, weights, 1))
            fed.append(places.slots(shape, count, 1))
        index, memory = policy.choose(jnp.stack(served), memory)
        return index, memory, fed

    return choose


class _Batch:
    """The rows in their slots.

    Attributes:
        waiting: rows that have no slot yet.
        role: whose turn it is. left, waste: tokens of the span that will be kept, and dropped behind them.
        tokens: of the row so far. read: how many of those that are kept each model has read or written.
        behind: tokens to read before the next one can be written, but for the last.
    """

    def __init__(self, rows: Iterable[Iterable[SpanTokens]], slots: int):
        self.waiting = list(rows)
        self.role, self.behind, self.left, self.waste, self.tokens, self.text = (np.zeros(slots, int) for _ in range(6))
        self.read = np.zeros((len(Role), slots), int)
        self.going_on = np.zeros(slots, bool)
        self.spans: list[Iterator[SpanTokens]] = [iter(())] * slots
        self.kept = self.generated = 0
        for slot in range(slots):
            self._next_span(slot)

    def run(self, fed: np.ndarray, shape: PassShape) -> None:
        """A pass over the rows in the slots `fed`, and what it has brought."""
        fed = fed[fed < len(self.role)]
        wrote = fed[self.behind[fed] < shape.width]
        self.behind[fed] -= shape.width
        self.behind[wrote] = 0
        self.tokens[wrote] += 1

        # A token is kept while the span lasts; then some are dropped, and the other model reads what was kept.
        keeps = wrote[self.left[wrote] > 0]
        drops = np.setdiff1d(wrote, keeps)
        self.left[keeps] -= 1
        self.text[keeps] += 1
        self.waste[drops] -= 1
        self.kept += len(keeps)
        self.generated += len(wrote)
        for slot in wrote[(self.left[wrote] <= 0) & (self.waste[wrote] <= 0)]:
            self.tokens[slot] = self.text[slot]
            self.read[self.role[slot], slot] = self.text[slot]
            self._next_span(slot)

    def _next_span(self, slot: int) -> None:
        """The next span of the row; of the next row, where this one is done."""
        span = next((span for span in self.spans[slot] if span.kept + span.dropped), None)
        while span is None and self.waiting:
            self.spans[slot] = iter(self.waiting.pop(0))
            self.tokens[slot] = self.text[slot] = self.read[:, slot] = 0
            span = next((span for span in self.spans[slot] if span.kept + span.dropped), None)
        self.going_on[slot] = span is not None
        if span is not None:
            self.role[slot], self.left[slot], self.waste[slot] = span
            self.behind[slot] = max(0, self.text[slot] - self.read[span.role, slot] - 1)
