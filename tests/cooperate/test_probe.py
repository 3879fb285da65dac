"""Probes on the writing models: the invariants of the loop hold with them too."""

import itertools

import pytest

from tessy_jax.config.sections import MeshConfig
from tessy_jax.data.records import Record, RowState
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.rows import Job
from tessy_jax.errors import ConfigError
from tests.cooperate.test_oracle import RELEASED, problem, same
from tests.kit import pairs
from tests.kit.pairs import PROBLEMS, Pair, run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pairs.different_vocabularies(tmp_path_factory.mktemp("probes"))


@pytest.fixture(scope="module")
def stepwise(pair: Pair) -> Engine:
    """An engine that comes back to the host after every turn."""
    return pair.engine(batch=4, turns_per_dispatch=1, probes=True)


@pytest.fixture(scope="module")
def sampled(stepwise: Engine) -> dict[tuple[str, int], Record]:
    return run(stepwise, PROBLEMS)


def test_rows_are_the_oracles(pair: Pair, sampled: dict[tuple[str, int], Record]) -> None:
    oracle = pair.probe_oracle()
    rejected = 0
    for (id_, sample), record in sampled.items():
        trace = oracle.trace(problem(id_).messages, id_, sample)
        same(record, trace, pair)
        rejected += trace.rejected_words
    assert rejected > len(sampled), "the probes should cut often, or this proves little"


def test_rows_do_not_depend_on_k_batch_or_mesh(pair: Pair, sampled: dict[tuple[str, int], Record]) -> None:
    cooperation = pair.cooperation.model_copy(update={"k": 20})
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), batch=8)
    engine = pair.engine(batch=8, cooperation=cooperation, mesh=mesh, probes=True, schedule="rollback")
    for key, record in run(engine, PROBLEMS).items():
        assert record.content == sampled[key].content
        assert [(s.by, s.start, s.end) for s in record.spans] == [(s.by, s.start, s.end) for s in sampled[key].spans]


def test_a_row_taken_up_again_knows_what_was_predicted(
    stepwise: Engine, sampled: dict[tuple[str, int], Record]
) -> None:
    """Undecided tokens are judged later by what their pass said, which the journal keeps."""
    dispatches = stepwise.run(iter([Job(p, 0) for p in PROBLEMS[:4]]))
    states: dict[str, RowState] = {}
    for dispatch in itertools.islice(dispatches, 4):
        assert sum(dispatch.work.decodes) > 0
        assert dispatch.work.judged == (0, 0), "the passes that sample are all there are"
        states |= {s.id: s for s in dispatch.active if s.span_style}
    dispatches.close()
    assert states, "no row was left in the middle of a span"
    assert all(len(s.span_style) == len(s.span_tokens) for s in states.values())
    stepwise.slots = [None] * stepwise.local
    stepwise.carry = stepwise.carry.replace(state=stepwise._put(stepwise.rows.empty(stepwise.local)))
    jobs = iter([Job(problem(id_), 0, RowState.from_json(s.to_json())) for id_, s in states.items()])
    for record in (r for d in stepwise.run(jobs) for r in d.finished):
        assert record == sampled[record.problem.id, 0]


def test_the_released_rule_cannot_use_a_probe(pair: Pair) -> None:
    with pytest.raises(ConfigError, match="a probe predicts what its model writes itself"):
        pair.engine(cooperation=RELEASED, probes=True)
