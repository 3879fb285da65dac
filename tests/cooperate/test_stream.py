"""The schedule `stream`: which pass is next, how wide passes are and when the host is asked change no record."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, Int, UInt32

from tessy_jax.cooperate.loop import Loop
from tessy_jax.cooperate.stream import FullestPass, PassShape, StreamSchedule
from tessy_jax.cooperate.turn import RollbackSchedule
from tessy_jax.data.records import Record
from tessy_jax.engine.build import pass_shapes
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.rows import Job
from tests.kit import pairs
from tests.kit.pairs import PROBLEMS, Pair, problem, run, same


class AnyPass(NamedTuple):
    """A policy that draws the next pass from those that serve a row."""

    seed: int

    def start(self) -> UInt32[Array, " 2"]:
        return jax.random.PRNGKey(self.seed)

    def choose(
        self, served: Float[Array, " P"], memory: UInt32[Array, " 2"]
    ) -> tuple[Int[Array, ""], UInt32[Array, " 2"]]:
        key, memory = jax.random.split(memory)
        return jax.random.categorical(key, jnp.where(served > 0, 0.0, -jnp.inf)), memory


class LeastServed(NamedTuple):
    """A policy that always takes the emptiest pass."""

    def start(self) -> tuple[()]:
        return ()

    def choose(self, served: Float[Array, " P"], memory: Any) -> tuple[Int[Array, ""], Any]:
        return jnp.argmin(jnp.where(served > 0, served, jnp.inf)), memory


class Otherwise(NamedTuple):
    """How a schedule differs from the engine's own."""

    shapes: tuple[PassShape, ...]
    policy: Any
    visit: int
    tokens_per_turn: int


NARROW = Otherwise((PassShape(8, 1), PassShape(2, 2)), AnyPass(1), 3, 2)
WIDE = Otherwise((PassShape(8, 1), PassShape(8, 32)), LeastServed(), 8, 128)


def stream_of(engine: Engine) -> StreamSchedule:
    assert isinstance(engine.loop.schedule, StreamSchedule)
    return engine.loop.schedule


@pytest.mark.parametrize(
    ("kind", "probes", "other"),
    [("different_vocabularies", True, NARROW), ("different_vocabularies", False, WIDE)],
    ids=["probes, narrow passes at random", "classifiers, wide passes, the emptiest first"],
)
def test_no_record_depends_on_the_passes(tmp_path: Path, kind: str, probes: bool, other: Otherwise) -> None:
    """Nor does what is dropped: no row goes on while a complete word of it is not judged. In turns of k more is."""
    pair: Pair = getattr(pairs, kind)(tmp_path)
    pair = dataclasses.replace(pair, cooperation=pair.cooperation.model_copy(update={"max_think_tokens": 150}))
    oracle = pair.probe_oracle() if probes else pair.oracle()
    engine = pair.engine(batch=8, probes=probes)
    schedule = stream_of(engine)
    dispatches = list(engine.run(Job(p, sample) for p in PROBLEMS for sample in range(2)))
    own = {(r.problem.id, r.sample_index): r for dispatch in dispatches for r in dispatch.finished}
    assert len(own) == 2 * len(PROBLEMS)
    for (id_, sample), record in own.items():
        same(record, oracle.trace(problem(id_).messages, id_, sample), pair)

    names = ("decodes", "chunks", "rows", "places", "sampled", "reading")
    work = {name: sum(sum(getattr(d.work, name)) for d in dispatches) for name in names}
    assert work["rows"] == 8 * work["decodes"] + 4 * work["chunks"]
    assert work["places"] == 8 * work["decodes"] + 4 * 8 * work["chunks"]
    assert work["sampled"] + work["reading"] < work["rows"]
    assert work["sampled"] == sum(sum(d.kept) + sum(d.dropped) for d in dispatches)

    engine.loop = Loop(dataclasses.replace(schedule, **other._asdict()))
    assert run(engine, PROBLEMS, samples=2) == own

    if probes:
        engine.loop = Loop(RollbackSchedule(schedule.turns))
        turns = run(engine, PROBLEMS, samples=2)
        for key, record in turns.items():
            assert (record.content, _authors(record)) == (own[key].content, _authors(own[key]))
        dropped = [sum(record.n_tokens.rolled_back for record in records.values()) for records in (own, turns)]
        assert dropped[0] < dropped[1], "the schedule `stream` writes no word's end that will be dropped"


def _authors(record: Record) -> list[tuple[str, int, int]]:
    return [(span.by, span.start, span.end) for span in record.spans]


def test_passes_of_one_row() -> None:
    assert pass_shapes(1, 8, 1) == (PassShape(1, 1), PassShape(1, 8))


def test_the_fullest_pass_is_next_but_none_waits_for_ever() -> None:
    policy = FullestPass(costs=(1.0, 3.0, 3.5), groups=(0, 1, 2), patience=3)
    memory, chosen = policy.start(), []
    for _ in range(9):
        index, memory = policy.choose(jnp.array([4.0, 2.0, 0.0]), memory)
        chosen.append(int(index))
    assert chosen == [0, 0, 0, 1, 0, 0, 0, 1, 0], "2 rows for 3 are worth less than 4 for 1, and wait 3 rounds"
    assert int(policy.choose(jnp.array([1.0, 4.0, 0.0]), policy.start())[0]) == 1
