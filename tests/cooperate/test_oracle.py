"""The invariants of the cooperative loop, on pairs of tiny random models with real weights files and
tokenizers.
"""

import dataclasses
from pathlib import Path

import pytest
from jax.sharding import Mesh

from tessy_jax.config.sections import MeshConfig
from tessy_jax.config.synthesize import PaperCooperation, ReleasedCodeCooperation
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.data.records import Problem, Record, RowState
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.rows import Job
from tessy_jax.text.chat import Chat
from tests.kit import pairs
from tests.kit.oracle_released import GenerationError
from tests.kit.pairs import PROBLEMS, Pair, one_text, problem, run, same

RELEASED = ReleasedCodeCooperation(
    preset="released_code", max_think_tokens=90, max_answer_tokens=10, window=24, k_student=5, k_teacher=10
)
GREEDY = (Sampling(0.0), Sampling(0.0))


@pytest.fixture(scope="module", params=["different_vocabularies", "one_vocabulary"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return getattr(pairs, request.param)(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engine(pair: Pair) -> Engine:
    """Compiling is what takes time here, so engines are shared where nothing speaks against it."""
    return pair.engine(batch=8)


@pytest.fixture
def stepwise(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine, coming back to the host after every turn."""
    monkeypatch.setattr(engine, "config", engine.config.model_copy(update={"turns_per_dispatch": 1}))
    return engine


@pytest.fixture(scope="module")
def sampled(engine: Engine) -> dict[tuple[str, int], Record]:
    """Two samples of every problem, from one engine with fewer slots than rows: slots are used again."""
    return run(engine, PROBLEMS, samples=2)


def test_sampled_rows_are_the_oracles(pair: Pair, sampled: dict[tuple[str, int], Record]) -> None:
    oracle = pair.oracle()
    rejected = 0
    for (id_, sample), record in sampled.items():
        trace = oracle.trace(problem(id_).messages, id_, sample)
        same(record, trace, pair)
        rejected += trace.rejected_words
    assert rejected > len(sampled), "the pair should disagree often, or this proves little"
    assert len({r.finish.think for r in sampled.values()}) > 1


def test_greedy_rows_are_the_oracles_on_eight_devices(pair: Pair) -> None:
    greedy = dataclasses.replace(pair, samplings=GREEDY)
    oracle = greedy.oracle()
    mesh = make_mesh(MeshConfig(data=8), batch=8)
    for (id_, sample), record in run(greedy.engine(batch=8, mesh=mesh), PROBLEMS[:3]).items():
        same(record, oracle.trace(problem(id_).messages, id_, sample), pair)


def test_released_rows_are_the_oracles(pair: Pair) -> None:
    assert released(pair, None) > 8, "prompt and text should often share a token, or this proves little"


def test_released_greedy_rows_are_the_oracles_on_a_mesh(tmp_path: Path) -> None:
    pair = dataclasses.replace(pairs.different_vocabularies(tmp_path), samplings=GREEDY)
    released(pair, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), batch=8))


def released(pair: Pair, mesh: Mesh | None) -> int:
    """Prompts end with a space, which becomes part of the next word; one ends just before the budget, one behind it.

    Returns in how many requests prompt and text shared a token: sampled text often begins a word, greedy need not.
    """
    pair = dataclasses.replace(pair, chats=tuple(open_ended(chat) for chat in pair.chats))
    room = RELEASED.max_think_tokens + RELEASED.max_answer_tokens
    long = [asked_at_length(pair, "before", RELEASED.max_think_tokens - 8), asked_at_length(pair, "behind", room - 3)]
    jobs = [Job(p, 0) for p in (*PROBLEMS[:5], *long, asked_at_length(pair, "too long", room + 3))]
    oracle, records, rejected = pair.released_oracle(RELEASED), {}, {}
    for dispatch in pair.engine(batch=8, cooperation=RELEASED, mesh=mesh).run(iter(jobs)):
        records |= {record.problem.id: record for record in dispatch.finished}
        rejected |= {job.problem.id: reason for job, reason in dispatch.rejected}
    assert "which count the prompt in this preset, leave room for 98" in rejected.pop("too long")
    for job in jobs[:-1]:
        try:
            trace = oracle.trace(job.problem.messages, job.problem.id, 0)
        except GenerationError:
            assert "white space only" in rejected.pop(job.problem.id)
        else:
            same(records.pop(job.problem.id), trace, pair)
    assert not records
    assert not rejected
    return oracle.merged


def open_ended(chat: Chat) -> Chat:
    thinking = dataclasses.replace(chat.thinking, open=chat.thinking.open + "So ")
    return Chat(chat.folder, chat.tokenizer, chat.reference, chat.template, thinking, chat.options)


def asked_at_length(pair: Pair, id_: str, size: int) -> Problem:
    """A problem whose prompt has about so many tokens for the student."""
    question = "Hi"
    while len(pair.chats[0].prompt_ids([{"role": "user", "content": question}])) < size:
        question += " 1"
    return Problem(id=id_, messages=[{"role": "user", "content": question}])


def test_a_row_depends_on_no_neighbour(pair: Pair, sampled: dict[tuple[str, int], Record]) -> None:
    """Batch 1 and another order of admission give the same records, dropped tokens included."""
    alone = run(pair.engine(batch=1), PROBLEMS[3:1:-1])
    for key, record in alone.items():
        assert record == sampled[key]


@pytest.mark.parametrize(("k", "depth"), [(1, 128), (20, 2)])
def test_k_changes_no_text(pair: Pair, sampled: dict[tuple[str, int], Record], k: int, depth: int) -> None:
    """Nor do turns of k tokens instead of full passes, the chunk and the rings' slack: with a slack of 2, deeper
    rollbacks read their rows again.
    """
    cooperation = pair.cooperation.model_copy(update={"k": k})
    engine = pair.engine(batch=4, cooperation=cooperation, schedule="rollback", chunk=5, depth=depth)
    for key, record in run(engine, PROBLEMS[:3]).items():
        assert record.content == sampled[key].content
        assert [(s.by, s.start, s.end) for s in record.spans] == [(s.by, s.start, s.end) for s in sampled[key].spans]


def test_mesh_writes_the_same_rows(pair: Pair, sampled: dict[tuple[str, int], Record]) -> None:
    """With its caches in pages, of which each part of the batch has enough for one of its two rows of full length."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), batch=8)
    engine = pair.engine(batch=8, mesh=mesh, cache_tokens=4 * 384, page=16)
    for key, record in run(engine, PROBLEMS).items():
        assert record == sampled[key]


def test_each_program_is_compiled_once(engine: Engine, sampled: dict[tuple[str, int], Record]) -> None:
    assert engine.loop.dispatch._cache_size() == 1
    assert engine.loop.admit._cache_size() == 1
    assert engine.loop.prefill._cache_size() == 4, "per model: all slots at once, and a few"


def test_canonical_tokens_spell_the_decided_text(stepwise: Engine) -> None:
    """After every dispatch each writer's canonical tokens are the encoding of the decided text, and spell it."""
    assert sum(one_text(stepwise) for _ in stepwise.run(iter([Job(p, 0) for p in PROBLEMS[:4]]))) > 8


def test_rollback_leaves_no_trace(stepwise: Engine, sampled: dict[tuple[str, int], Record]) -> None:
    """Rows taken up from a snapshot, in slots that held other rows, go on like rows whose caches have seen every
    rollback.
    """
    dispatches = list(stepwise.run(iter([Job(p, 0) for p in PROBLEMS[:4]])))
    early = dispatches[:3]
    assert sum(sum(d.work.judged) for d in early) > 0, "the classifiers read the text in passes of their own"
    states = [RowState.from_json(s.to_json()) for s in early[-1].active]
    assert any(s.span_tokens for s in states)
    assert any(s.spans for s in states)
    whole = [record for dispatch in dispatches for record in dispatch.finished]
    jobs = iter([Job(problem(s.id), 0, s) for s in states[1:] + states[:1]])
    again = [record for dispatch in stepwise.run(jobs) for record in dispatch.finished]
    assert (len(whole), len(again)) == (4, len(states))
    for record in whole + again:
        assert record == sampled[record.problem.id, 0]


def test_a_spent_budget_can_reject_the_row(tmp_path: Path) -> None:
    pair = pairs.different_vocabularies(tmp_path)
    cooperation = PaperCooperation(preset="paper", k=7, max_think_tokens=3, max_answer_tokens=4, on_budget="reject")
    dispatches = pair.engine(batch=4, cooperation=cooperation).run(iter([Job(PROBLEMS[0], 0)]))
    reasons = [reason for d in dispatches for _, reason in d.rejected]
    assert reasons == ["thinking ended by 'length' and on_budget is 'reject'"]
