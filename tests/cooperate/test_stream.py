"""The schedule `stream`: which pass is next, how wide passes are and when the host is asked change no record."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Bool, Float, Int, UInt32

from tessy_jax.cooperate.loop import Loop
from tessy_jax.cooperate.params import Params
from tessy_jax.cooperate.stream import PATIENCE, FullestPass, PassShape, StreamSchedule
from tessy_jax.cooperate.turn import Carry, RollbackSchedule, WorkCount
from tessy_jax.cooperate.words_host import HostWords
from tessy_jax.data.records import Record
from tessy_jax.engine.build import fullest_pass, pass_shapes
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
SHAPES = pass_shapes(8, 8, 1)
DEAR = Otherwise(SHAPES, fullest_pass(SHAPES, (1, 20)), 1, 16)
"""The teacher's pass costs 20 times the student's."""


def stream_of(engine: Engine) -> StreamSchedule:
    assert isinstance(engine.loop.schedule, StreamSchedule)
    return engine.loop.schedule


@pytest.mark.parametrize(
    ("kind", "probes", "others"),
    [("different_vocabularies", True, [NARROW, DEAR]), ("different_vocabularies", False, [WIDE])],
    ids=["probes, narrow passes at random, a dear teacher", "classifiers, wide passes, the emptiest first"],
)
def test_no_record_depends_on_the_passes(
    tmp_path: Path, kind: str, probes: bool, others: list[Otherwise], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what is dropped: no row goes on while a complete word of it is not judged. In turns of k more is."""
    pair: Pair = getattr(pairs, kind)(tmp_path)
    pair = dataclasses.replace(pair, cooperation=pair.cooperation.model_copy(update={"max_think_tokens": 150}))
    oracle = pair.probe_oracle() if probes else pair.oracle()
    read = counted(monkeypatch, HostWords, "read")
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
    assert sum(d.visits["words"].rows for d in dispatches) == len(read)
    assert probes or read, "with probes the device may find all words"

    for other in others:
        engine.loop = Loop(dataclasses.replace(schedule, **other._asdict()))
        assert run(engine, PROBLEMS, samples=2) == own

    if probes:
        engine.loop = Loop(RollbackSchedule(schedule.turns))
        turns = run(engine, PROBLEMS, samples=2)
        for key, record in turns.items():
            assert (record.content, _authors(record)) == (own[key].content, _authors(own[key]))
        dropped = [sum(record.n_tokens.rolled_back for record in records.values()) for records in (own, turns)]
        assert dropped[0] < dropped[1], "the schedule `stream` writes no word's end that will be dropped"


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[None]:
    """A list that grows by one with every call of a method."""
    calls: list[None] = []
    method = getattr(owner, name)

    def call(*args: Any) -> Any:
        calls.append(None)
        return method(*args)

    monkeypatch.setattr(owner, name, call)
    return calls


def _authors(record: Record) -> list[tuple[str, int, int]]:
    return [(span.by, span.start, span.end) for span in record.spans]


@dataclass(frozen=True, eq=False)
class Watched(StreamSchedule):
    """Counts, in place of turns, for how many rounds in a row some row has waited at most: for words, and for text."""

    def start(self, replaced: Bool[Array, ""]) -> Any:
        return super().start(replaced), jnp.zeros((2, 8), jnp.int32)

    def round(self, params: Params, carry: Carry, work: WorkCount, memory: Any) -> tuple[Carry, WorkCount, Any]:
        known, waited = memory
        carry, more, known = super().round(params, carry, work, known)
        kinds = self._unjudged, self._without_text
        waits = jnp.stack([kind(self.turns[0], carry.state) | kind(self.turns[1], carry.state) for kind in kinds])
        waited = jnp.where(waits, waited + 1, 0)
        return carry, more.replace(turns=jnp.maximum(work.turns, jnp.max(waited, axis=1))), (known, waited)


def test_no_row_waits_for_the_host_while_others_write_on(tmp_path: Path) -> None:
    """The host is to be asked when 8 rows have something for it, and there are 6: it is asked in every 16th round, and
    before, where all wait for it.
    """
    pair = pairs.different_vocabularies(tmp_path)
    engine = pair.engine(batch=8, probes=True, turns_per_dispatch=64)
    parts = {field.name: getattr(stream_of(engine), field.name) for field in dataclasses.fields(StreamSchedule)}
    engine.loop = Loop(Watched(**parts | {"visit": 8}))
    dispatches = list(engine.run(Job(p, 0) for p in PROBLEMS))
    assert sum(len(dispatch.finished) for dispatch in dispatches) == len(PROBLEMS)
    longest = max(max(dispatch.work.turns) for dispatch in dispatches)
    assert 2 < longest <= PATIENCE


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
