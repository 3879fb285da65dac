"""The schedule `stream`: which pass is next, how wide passes are and when the host is asked change no record."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, Int, UInt32

from tessy_jax.config.sections import MeshConfig
from tessy_jax.cooperate.loop import Loop
from tessy_jax.cooperate.stream import FullestPass, PassShape, StreamSchedule
from tessy_jax.cooperate.turn import RollbackSchedule
from tessy_jax.data.records import Record
from tessy_jax.devices.mesh import make_mesh
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


OTHERS = {
    "narrow, drawn at random": Otherwise((PassShape(8, 1), PassShape(2, 2)), AnyPass(1), 3, 2),
    "wide, the emptiest first": Otherwise((PassShape(8, 1), PassShape(8, 32)), LeastServed(), 8, 128),
}


def stream_of(engine: Engine) -> StreamSchedule:
    assert isinstance(engine.loop.schedule, StreamSchedule)
    return engine.loop.schedule


@pytest.mark.parametrize(
    ("kind", "probes"), [("different_vocabularies", True), ("one_vocabulary", False)], ids=["probes", "classifiers"]
)
def test_no_record_depends_on_the_passes(tmp_path: Path, kind: str, probes: bool) -> None:
    """Nor does what is dropped: no row goes on while a complete word of it is not judged. In turns of k more is."""
    pair: Pair = getattr(pairs, kind)(tmp_path)
    pair = dataclasses.replace(pair, cooperation=pair.cooperation.model_copy(update={"max_think_tokens": 150}))
    oracle = pair.probe_oracle() if probes else pair.oracle()
    engine = pair.engine(batch=8, probes=probes)
    schedule = stream_of(engine)
    own = run(engine, PROBLEMS, samples=2)
    for (id_, sample), record in own.items():
        same(record, oracle.trace(problem(id_).messages, id_, sample), pair)

    for name, other in OTHERS.items():
        engine.loop = Loop(dataclasses.replace(schedule, **other._asdict()))
        assert run(engine, PROBLEMS, samples=2) == own, name

    engine.loop = Loop(RollbackSchedule(schedule.turns))
    turns = run(engine, PROBLEMS, samples=2)
    for key, record in turns.items():
        assert (record.content, _authors(record)) == (own[key].content, _authors(own[key]))
    dropped = [sum(record.n_tokens.rolled_back for record in records.values()) for records in (own, turns)]
    assert dropped[0] < dropped[1], "the schedule `stream` writes no word's end that will be dropped"


def _authors(record: Record) -> list[tuple[str, int, int]]:
    return [(span.by, span.start, span.end) for span in record.spans]


def test_parts_of_the_batch_take_their_share_of_a_pass(tmp_path: Path) -> None:
    pair = pairs.different_vocabularies(tmp_path)
    engine = pair.engine(batch=16, mesh=make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), batch=16), probes=True)
    assert stream_of(engine).shapes == (PassShape(16, 1), PassShape(8, 8))
    oracle = pair.probe_oracle()
    dispatches = list(engine.run(Job(p, sample) for p in PROBLEMS for sample in range(3)))
    for record in (record for dispatch in dispatches for record in dispatch.finished):
        id_, sample = record.problem.id, record.sample_index
        same(record, oracle.trace(problem(id_).messages, id_, sample), pair)
    decodes, chunks, rows, places = (
        sum(sum(getattr(d.work, name)) for d in dispatches) for name in ("decodes", "chunks", "rows", "places")
    )
    assert (rows, places) == (16 * decodes + 8 * chunks, 16 * decodes + 8 * 8 * chunks)
    wrote = sum(sum(d.work.sampled) for d in dispatches)
    assert wrote + sum(sum(d.work.reading) for d in dispatches) < rows


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
