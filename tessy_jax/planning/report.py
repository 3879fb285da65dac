"""What a plan says, as numbers. Bytes are of one chip."""

import dataclasses
from typing import Any

from tessy_jax.planning.compile import Program, Refusal
from tessy_jax.planning.pair_rate import PairRate
from tessy_jax.planning.topology import Topology

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Step:
    """One decode step of a role, all rows in flight writing.

    Attributes:
        program: the role's loop over decode steps; what its compiler says of a step.
        tokens: rows in flight, hence tokens per step, over all chips.
        main: bytes to and from main memory, by part of the model; see `planning.hlo_traffic`.
        repetition: how many times longer it takes than `program.seconds`, which counts loops inside it once.
        weights, cache: bytes that a step must read at least: the writing model's weights (without an embedding table
            of which it looks up a few rows) and the slots of its cache that these rows have in use, once.
    """

    role: str
    program: Program
    tokens: int
    main: dict[str, int]
    repetition: float
    weights: int
    cache: int

    @property
    def least(self) -> int:
        return self.weights + self.cache

    @property
    def moved(self) -> int:
        return sum(self.main.values())


@dataclasses.dataclass(frozen=True)
class RowsInFlight:
    """How many rows are in flight at the same time, over all chips.

    Attributes:
        tokens: of a row, in the tokens of either model.
        asked: `engine.batch`.
        held: as many as the caches have pages for; None: each row has its own slots.
    """

    tokens: int
    asked: int
    held: int | None

    @property
    def number(self) -> int:
        return self.asked if self.held is None else min(self.asked, self.held)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a configuration needs of each chip of a topology.

    Attributes:
        resident: bytes that stay in memory all the time, by kind.
        programs: those that compiled.
        too_large: those that did not, because a chip has too little memory.
        steps: decode steps of a synthesis; none for training.
        rows: those of a synthesis; None for training.
        rate: of the pair; None where a pass's seconds are not known, or passes are turns.
        limits: estimates of what fits, by key of the configuration: the value, or None where nothing does.
        savings: what a setting would save of a chip's memory, by `key=value`; only where something does not fit.
        notes: what else is worth knowing, one line each.
    """

    config: str
    topology: Topology
    chips: int
    mesh: str
    resident: dict[str, int]
    programs: tuple[Program, ...]
    too_large: tuple[Refusal, ...]
    steps: tuple[Step, ...] = ()
    rows: "RowsInFlight | None" = None
    rate: PairRate | None = None
    limits: dict[str, int | None] = dataclasses.field(default_factory=dict)
    savings: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def temporaries(self) -> int:
        """Of the program that needs most; programs do not run at the same time."""
        needed = [program.temporaries for program in self.programs]
        return max(needed + [refusal.temporaries for refusal in self.too_large], default=0)

    @property
    def code(self) -> int:
        """Of all programs: they stay loaded."""
        return sum(program.code for program in self.programs)

    @property
    def kinds(self) -> dict[str, int]:
        """All memory of a chip, by kind."""
        return self.resident | {"temporaries": self.temporaries, "programs": self.code}

    @property
    def total(self) -> int:
        return sum(self.kinds.values())

    @property
    def capacity(self) -> int | None:
        """Of a chip; None where nobody knows."""
        chip = self.topology.chip
        return None if chip is None else int(chip.memory * GIB)

    @property
    def fits(self) -> bool:
        return not self.too_large and (self.capacity is None or self.total <= self.capacity)

    def seconds(self, step: Step) -> float | None:
        """Of a decode step: the compiler's estimate, but no less than the chip's limits allow; None if unknown."""
        chip = self.topology.chip
        if chip is None:
            return None
        least = max(step.moved / (chip.bandwidth * 1e9), step.program.operations / (chip.peak * 1e12))
        return max(least, step.repetition * (step.program.seconds or 0.0))

    def pass_seconds(self, step: Step, share: float, width: int) -> float | None:
        """Of a forward pass of the step's model over a share of the rows, `width` tokens each; None if unknown."""
        whole, chip = self.seconds(step), self.topology.chip
        if whole is None or chip is None:
            return None
        read = (step.weights + step.cache * share) / step.least
        return max(whole * read, step.program.operations * share * width / (chip.peak * 1e12))

    def to_json(self) -> dict[str, Any]:
        """All of it, in bytes and seconds."""
        values = dataclasses.asdict(self)
        for step, written in zip(self.steps, values["steps"], strict=True):
            seconds = self.seconds(step)
            written |= {"moved": step.moved, "least": step.least, "estimated_seconds": seconds}
        derived = {name: getattr(self, name) for name in ("kinds", "total", "capacity", "fits")}
        return values | derived
