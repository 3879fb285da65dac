"""Which examples share a row, and which rows make a step. NumPy only; no tokens are read.

Best fit keeps nearly all rows full: an example goes to the row with the least room that still holds it (Ding et al.,
"Fewer Truncations Improve Language Modeling", 2024, arXiv 2404.10830). It runs over the epoch's shuffled order, not by
descending length, so that which examples meet differs from epoch to epoch.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Protocol

import numpy as np
from jaxtyping import Int, Int32

Rows = list[list[int]]
"""Indices of the examples in each row, in order."""


class Arrange(Protocol):
    """A way to put the examples of an epoch into rows; a pure function of its arguments."""

    def __call__(self, lengths: Int[np.ndarray, " N"], length: int, seed: int, epoch: int) -> Rows: ...


def pack(lengths: Int[np.ndarray, " N"], length: int, seed: int, epoch: int) -> Rows:
    """Rows of at most `length` tokens, best fit over a shuffled order, themselves shuffled; every example once.

    O(n log n) but for one integer of `length` bits, in which the next larger room is found by a shift.

    Raises:
        ValueError: an example is longer than a row.
    """
    _check(lengths, length)
    rng = np.random.default_rng([seed, epoch])
    rows: Rows = []
    with_room: dict[int, list[int]] = {}  # rows by the tokens that they still hold
    rooms = 0  # bit r: there is a row with room for exactly r tokens
    for example in rng.permutation(len(lengths)).tolist():
        size = int(lengths[example])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(example)
        left = room - size
        if left:
            with_room.setdefault(left, []).append(row)
            rooms |= 1 << left
    return [rows[i] for i in rng.permutation(len(rows))]


def one_each(lengths: Int[np.ndarray, " N"], length: int, seed: int, epoch: int) -> Rows:
    """One example a row, shuffled: training without packing. Raises as `pack` does."""
    _check(lengths, length)
    return [[i] for i in np.random.default_rng([seed, epoch]).permutation(len(lengths)).tolist()]


@dataclass(frozen=True)
class Groups:
    """Steps of a given number of examples, those of a step packed into a given number of rows. For short examples: the
    batch keeps its size, whatever a row holds.

    Attributes:
        examples: of a step; the last step of an epoch may have fewer.
        rows: of a step, see `rows_needed`; some may stay empty.
    """

    examples: int
    rows: int

    def __call__(self, lengths: Int[np.ndarray, " N"], length: int, seed: int, epoch: int) -> Rows:
        """Rows of all steps one after another. Raises ValueError where a step does not fit into its rows."""
        rows: Rows = []
        for group in self._groups(lengths, length, seed, epoch, self.examples):
            if len(group) > self.rows:
                raise ValueError(f"{self.examples} examples need {len(group)} rows of {length} tokens, not {self.rows}")
            rows += [*group, *([] for _ in range(self.rows - len(group)))]
        return rows

    @classmethod
    def rows_needed(
        cls, lengths: Int[np.ndarray, " N"], length: int, examples: int, *, seed: int, epochs: int, unit: int = 1
    ) -> int:
        """The most rows that any step of a run needs, as a multiple of `unit`."""
        sizes = [len(g) for epoch in range(epochs) for g in cls._groups(lengths, length, seed, epoch, examples)]
        return -(-max(sizes) // unit) * unit

    @staticmethod
    def _groups(lengths: Int[np.ndarray, " N"], length: int, seed: int, epoch: int, examples: int) -> Iterator[Rows]:
        order = np.random.default_rng([seed, epoch]).permutation(len(lengths))
        for start in range(0, len(order), examples):
            group = order[start : start + examples]
            packed = pack(lengths[group], length, seed, epoch)
            yield [group[row].tolist() for row in packed]


def _check(lengths: Int[np.ndarray, " N"], length: int) -> None:
    if len(lengths) and lengths.max() > length:
        raise ValueError(f"an example of {lengths.max()} tokens does not fit into a row of {length}")


class BatchPlan:
    """The rows of every step of a run: a pure function of the lengths, the sizes and the seed.

    A step is `rows` rows of one epoch; the last step of an epoch may have empty rows at its end.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, " N"],
        length: int,
        rows: int,
        *,
        epochs: int,
        seed: int,
        max_steps: int | None = None,
        arrange: Arrange = pack,
    ):
        """Packs all epochs (100,000 examples: 0.2 s each), or as many as `max_steps` needs.

        Args:
            lengths: tokens of each example.
            length: tokens of a row.
            rows: rows of a step, over all devices.
            epochs: passes over the examples.
            seed: of the order.
            max_steps: end after this many steps.
            arrange: `pack` or `one_each`.

        Raises:
            ValueError: there are no examples, or one is longer than a row.
        """
        if not len(lengths):
            raise ValueError("no examples to plan steps for")
        self.length, self.rows = length, rows
        self._ends: list[int] = []  # steps up to the end of each epoch
        self._epochs: list[tuple[Int32[np.ndarray, " N"], Int32[np.ndarray, " R"]]] = []
        self.steps = 0
        while len(self._ends) < epochs and (max_steps is None or self.steps < max_steps):
            packed = arrange(lengths, length, seed, len(self._ends))
            examples = np.fromiter(chain.from_iterable(packed), np.int32, len(lengths))
            sizes = [0, *map(len, packed), *[0] * rows]  # the empty rows of a short last step included
            self._epochs.append((examples, np.cumsum(sizes, dtype=np.int32)))
            self.steps += -(-len(packed) // rows)
            self._ends.append(self.steps)
        if max_steps is not None:
            self.steps = min(self.steps, max_steps)

    def epoch(self, step: int) -> int:
        """The epoch of a step, from 0."""
        return bisect_right(self._ends, step)

    @property
    def epoch_ends(self) -> list[int]:
        """The steps after which an epoch is done: [5, 10] of a run of 12 steps, 5 an epoch."""
        return [end for end in self._ends if end <= self.steps]

    def passes(self, steps: int) -> float:
        """Passes over the examples in so many steps: 2.4 in 12 steps, 5 an epoch."""
        done = self.epoch(steps)
        first, last = ([0, *self._ends, steps + 1][done + i] for i in (0, 1))
        return done + (steps - first) / (last - first)

    def __getitem__(self, step: int) -> list[Int32[np.ndarray, " N"]]:
        """The examples of each row of a step; raises IndexError past the last."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        epoch = self.epoch(step)
        examples, bounds = self._epochs[epoch]
        first = (step - (self._ends[epoch - 1] if epoch else 0)) * self.rows
        return [examples[a:b] for a, b in pairwise(bounds[first : first + self.rows + 1])]
