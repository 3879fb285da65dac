"""Caches in pages: the rows are the oracle's, whatever the pool holds."""

import dataclasses

import pytest

from tessy_jax.config.sections import MeshConfig
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.data.records import RowState
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.rows import Job
from tests.kit import pairs
from tests.kit.pairs import PROBLEMS, Pair, problem, same

SMALL = {"context": 384, "cache_tokens": 416, "page": 16}


@pytest.fixture(scope="module", params=["different_vocabularies", "one_vocabulary"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return getattr(pairs, request.param)(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engine(pair: Pair) -> Engine:
    return pair.engine(batch=8, **SMALL)


def test_rows_are_the_oracles(pair: Pair, engine: Engine) -> None:
    """With pages for one row of full length, of eight rows some wait and some give their pages back."""
    oracle, evicted, most = pair.oracle(), 0, 0
    jobs = [Job(p, sample) for p in PROBLEMS for sample in range(2)]
    found = 0
    for dispatch in engine.run(iter(jobs)):
        evicted += dispatch.evicted
        most = max(most, sum(slot is not None for slot in engine.slots))
        for record in dispatch.finished:
            id_, sample = record.problem.id, record.sample_index
            same(record, oracle.trace(problem(id_).messages, id_, sample), pair)
            found += 1
    assert found == len(jobs)
    assert evicted > 0
    assert most > 1
    held = [pages.held(row) for pages in engine.pages.caches for row in range(8)]
    print("evicted", evicted, "most", most, held)
