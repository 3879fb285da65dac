"""A GPT-OSS teacher and a Qwen3 student, with their real vocabularies: the invariants of the loop where
thinking ends by leaving a channel.
"""

import unicodedata

import pytest

from tessy_jax.config.sections import RepetitionConfig
from tessy_jax.config.synthesize import PaperCooperation
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.data.records import Record, RowState
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.rows import Job
from tests.cooperate.test_oracle import same
from tests.kit import pairs
from tests.kit.pairs import PROBLEMS, Pair

JOBS = [(problem, 0) for problem in PROBLEMS[:5]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    cooperation = PaperCooperation(
        preset="paper", k=5, max_think_tokens=14, max_answer_tokens=3, loop=RepetitionConfig(repeats=8, min_bytes=64)
    )
    # Few candidates: random models give 200,000 tokens much the same weight, and adding up so many in another order
    # or precision chooses another one.
    samplings = Sampling(0.8, 20, 0.95, 0.01), Sampling(1.0, 20, 0.9, 0.0)
    return pairs.real_vocabularies(tmp_path_factory.mktemp("real"), cooperation=cooperation, samplings=samplings)


@pytest.fixture(scope="module")
def engine(pair: Pair) -> Engine:
    """It comes back to the host after every turn."""
    return pair.engine(batch=4, prompt_buckets=(128,), turns_per_dispatch=1)


@pytest.fixture(scope="module")
def states() -> list[RowState]:
    """Rows that were under way after the third turn."""
    return []


@pytest.fixture(scope="module")
def records(engine: Engine, states: list[RowState]) -> dict[tuple[str, int], Record]:
    """All rows. On the way, after every turn: each writer's tokens are the encoding of the decided text."""
    out: dict[tuple[str, int], Record] = {}
    seen = 0
    for turn, dispatch in enumerate(engine.run(iter([Job(*job) for job in JOBS]))):
        assert not dispatch.rejected, dispatch.rejected
        out |= {(r.problem.id, r.sample_index): r for r in dispatch.finished}
        if turn == 2:
            states += [RowState.from_json(s.to_json()) for s in dispatch.active]
        for b, slot in enumerate(engine.slots):
            if slot is not None and engine.host.think_end[b] < 0:
                seen += text_is_one(engine, b, slot)
    assert seen > 8
    return out


def text_is_one(engine: Engine, b: int, slot: object) -> int:
    """How many of the models hold text, all of it in canonical tokens."""
    count = 0
    for model, stream in zip(engine.models, engine.host.streams, strict=True):
        text = engine.host.text[b, : int(stream.covered[b])].tobytes()
        prompt = len(model.prompt_ids(slot.job.problem.messages))
        tokens = stream.tokens[b, prompt : int(stream.base[b])].tolist()
        assert tokens == model.chat.tokenizer.encode(text)[0]
        table = model.vocab
        spelled = b"".join(bytes(table.token_bytes[t, : int(table.token_len[t])].tolist()) for t in tokens)
        assert spelled in (text, unicodedata.normalize("NFC", text.decode()).encode())
        count += len(text) > 0
    return count


def test_rows_are_the_oracles(pair: Pair, records: dict[tuple[str, int], Record]) -> None:
    oracle, rejected = pair.oracle(), 0
    for problem, sample in JOBS:
        trace = oracle.trace(problem.messages, problem.id, sample)
        same(records[problem.id, sample], trace, pair)
        rejected += trace.rejected_words
    ends = {record.finish.think for record in records.values()}
    print(f"{rejected} words rejected; thinking ended by {sorted(ends)}")
    assert rejected > 4
    assert "end" in ends


def test_the_answer_follows_the_students_marker(records: dict[tuple[str, int], Record]) -> None:
    """Nothing of the teacher's channels is in the text, whoever ended the thinking."""
    assert any(r.finish.think == "end" and think_spans(r)[-1].by == "teacher" for r in records.values())
    for record in records.values():
        assert record.content[think_spans(record)[-1].end :].startswith("\n</think>\n\n")
        assert "<|" not in record.content


def think_spans(record: Record) -> list:
    return [span for span in record.spans if span.phase == "think"]


def test_rollback_leaves_no_trace(
    engine: Engine, records: dict[tuple[str, int], Record], states: list[RowState]
) -> None:
    """Rows taken up with fresh caches go on like rows whose caches have seen every rollback."""
    assert states
    problems = {problem.id: problem for problem, _ in JOBS}
    jobs = iter([Job(problems[s.id], s.sample_index, s) for s in states])
    again = {(r.problem.id, r.sample_index): r for d in engine.run(jobs) for r in d.finished}
    assert again == {key: records[key] for key in again}
    assert len(again) == len(states)
