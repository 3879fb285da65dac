"""Caches in pages: the rows are the oracle's, however few pages there are."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from tessy_jax.config.sections import EngineConfig, MeshConfig
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.data.records import RowState
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine import engine as engines
from tessy_jax.engine.engine import Dispatch, Engine
from tessy_jax.engine.pages import Pages
from tessy_jax.engine.rows import Job
from tessy_jax.engine.sizes import PromptRoom, pool_of
from tessy_jax.errors import ConfigError
from tessy_jax.predictors.unigram import Unigram
from tests.cooperate.test_oracle import asked_at_length
from tests.kit import pairs
from tests.kit.oracle import Oracle
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


def shared_pages(pages: Pages | None) -> int:
    """Pages that more than one row has, counted as often as they are saved."""
    assert pages is not None
    dealt = pages.table[pages.table < pages.pool.pages]
    return len(dealt) - len(np.unique(dealt))


def test_rows_that_wait_and_rows_that_give_their_pages_back(
    pair: Pair, engine: Engine, trace: Callable[[str, int], Any]
) -> None:
    dispatches, together, waited, shared = [], 0, 0, 0
    for dispatch in engine.run(iter(JOBS)):
        dispatches.append(dispatch)
        shared += sum(map(shared_pages, engine.pages.caches))
        together = max(together, sum(slot is not None for slot in engine.slots))
        waited += int(engine.host.waiting.sum())
    check(dispatches, trace, pair, len(JOBS))
    assert sum(dispatch.evicted for dispatch in dispatches) > 1
    assert waited > 1
    assert shared > len(JOBS), "the two samples of a problem have the pages of its prompt together"
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


class Few(NamedTuple):
    """A run with pages for a quarter of what all rows may take, in every part of the batch: three."""

    page: int
    predictors: str
    greedy: bool
    mesh: bool
    pair: str

    @property
    def sizes(self) -> dict[str, int]:
        """Of the engine: two rows find room at first, and not when both have grown."""
        context = 3 * self.page if self.page < 256 else 2 * self.page
        batch = 12 * self.page // context * (4 if self.mesh else 1)
        return {"batch": batch, "context": context, "page": self.page, "cache_tokens": batch * context // 4}


RUNS = [
    Few(64, "probe", False, False, "different_vocabularies"),
    Few(64, "unigram", True, True, "one_vocabulary"),
    Few(256, "unigram", False, False, "different_vocabularies"),
    Few(256, "probe", True, True, "one_vocabulary"),
]


@pytest.mark.parametrize("few", RUNS, ids=lambda few: f"{few.page}-{few.predictors}")
def test_a_quarter_of_the_pages(few: Few, tmp_path: Path) -> None:
    """With the runs above: each size of a page on one device and on eight, each predictor on both, greedy and not."""
    pair = getattr(pairs, few.pair)(tmp_path)
    if few.greedy:
        pair = dataclasses.replace(pair, samplings=(Sampling(0.0), Sampling(0.0)))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), few.sizes["batch"]) if few.mesh else None
    oracle, more = judged_by(pair, few.predictors)
    jobs = JOBS[:8]
    if few.page == 256:
        jobs = [Job(asked_at_length(pair, f"long {size}", size), 0) for size in range(224, 248, 4)]
    messages = {job.problem.id: job.problem.messages for job in jobs}
    dispatches = list(pair.engine(mesh=mesh, **few.sizes, **more).run(iter(jobs)))
    check(dispatches, functools.cache(lambda id_, n: oracle.trace(messages[id_], id_, n)), pair, len(jobs))
    assert sum(dispatch.evicted for dispatch in dispatches) > 0


def judged_by(pair: Pair, predictors: str) -> tuple[Oracle, dict[str, Any]]:
    """The oracle with such predictors, and what the engine is to be told."""
    if predictors == "probe":
        return pair.probe_oracle(), {"probes": True}
    if predictors == "text":
        return pair.oracle(), {}
    tables = [np.random.default_rng(7).random(t.vocab_size).astype(np.float32) for t in pair.judge_chats]
    found = [
        Unigram(tokenizer, jnp.asarray(table), threshold)
        for tokenizer, table, threshold in zip(pair.judge_chats, tables, pair.thresholds, strict=True)
    ]
    style = tuple(lambda ids, table=table: table[ids] for table in tables)
    return dataclasses.replace(pair.oracle(), style=style), {"predictors": found}


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
