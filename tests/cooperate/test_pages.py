"""Caches in pages: the rows are the oracle's, however few pages there are."""

import functools
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tessy_jax.config.sections import EngineConfig, MeshConfig
from tessy_jax.data.records import RowState
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine import engine as engines
from tessy_jax.engine.engine import Dispatch, Engine
from tessy_jax.engine.rows import Job
from tessy_jax.engine.sizes import PromptRoom, pool_of
from tessy_jax.errors import ConfigError
from tests.kit import pairs
from tests.kit.pairs import PROBLEMS, Pair, problem, same

ONE_ROW = {"context": 384, "cache_tokens": 384, "page": 16}
JOBS = [Job(p, sample) for p in PROBLEMS for sample in range(2)]


@pytest.fixture(scope="module", params=["different_vocabularies", "one_vocabulary"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return getattr(pairs, request.param)(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engine(pair: Pair) -> Engine:
    """Eight rows, and pages for one of full length."""
    return pair.engine(batch=8, **ONE_ROW)


@pytest.fixture(scope="module")
def trace(pair: Pair) -> Callable[[str, int], Any]:
    oracle = pair.oracle()
    return functools.cache(lambda id_, sample: oracle.trace(problem(id_).messages, id_, sample))


def check(dispatches: Iterable[Dispatch], trace: Callable[[str, int], Any], pair: Pair, records: int) -> None:
    done = [record for dispatch in dispatches for record in dispatch.finished]
    assert len({(record.problem.id, record.sample_index) for record in done}) == len(done) == records
    for record in done:
        same(record, trace(record.problem.id, record.sample_index), pair)


def test_rows_that_wait_and_rows_that_give_their_pages_back(
    pair: Pair, engine: Engine, trace: Callable[[str, int], Any]
) -> None:
    dispatches, together, waited = [], 0, 0
    for dispatch in engine.run(iter(JOBS)):
        dispatches.append(dispatch)
        together = max(together, sum(slot is not None for slot in engine.slots))
        waited += int(engine.host.waiting.sum())
    check(dispatches, trace, pair, len(JOBS))
    assert sum(dispatch.evicted for dispatch in dispatches) > 1
    assert waited > 1
    assert 3 < together < 8, "rows that take what they need, but not all eight of them"


def test_rows_without_pages_are_journaled(pair: Pair, engine: Engine, trace: Callable[[str, int], Any]) -> None:
    """A run that ends while some wait for pages, and another that takes up what it left."""
    run, before = engine.run(iter(JOBS)), []
    for dispatch in run:
        before.append(dispatch)
        if dispatch.evicted and engine.queue.states():
            break
    run.close()
    begun = [RowState.from_json(state.to_json()) for state in dispatch.active]
    assert len(begun) > sum(slot is not None for slot in engine.slots)
    jobs = {(job.problem.id, job.sample_index): job for job in JOBS}
    engine.slots, engine.host = [None] * engine.local, engine.rows.empty(engine.local)
    for record in (record for each in before for record in each.finished):
        del jobs[record.problem.id, record.sample_index]
    for state in begun:
        jobs[state.id, state.sample_index] = Job(problem(state.id), state.sample_index, state)
    after = list(engine.run(iter(jobs.values())))
    check([*before, *after], trace, pair, len(JOBS))


@pytest.mark.parametrize("pages", [{}, {"cache_tokens": 96, "page": 16}], ids=["rings", "pages"])
def test_a_row_that_outgrows_its_buffers_waits_for_nothing(
    pages: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt leaves no room: the row is rejected, as where another vocabulary needs more tokens for a text."""
    monkeypatch.setattr(engines, "prompt_room", lambda *_: [PromptRoom(1000, "")] * 2)
    engine = pairs.different_vocabularies(tmp_path).engine(batch=4, context=96, **pages)
    ended, rejected = 0, 0
    for dispatch in itertools.islice(engine.run(iter(JOBS[:6])), 200):
        ended += len(dispatch.finished)
        rejected += sum("the row outgrew its buffers (96 tokens" in reason for _, reason in dispatch.rejected)
    assert ended + rejected == 6
    assert rejected > 0


def test_a_part_of_the_batch_that_holds_no_row_is_refused() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), batch=8)
    with pytest.raises(ConfigError, match=r"split into 4 parts, and 23 pages of 16 .* give at least 1536"):
        pool_of(EngineConfig(batch=8, context=384, cache_tokens=1472, page=16), mesh)
