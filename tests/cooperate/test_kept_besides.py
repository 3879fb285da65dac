"""What runs keep besides the traces, `keep_dropped` and `keep_scores`: the text that was rolled back at each cut, and
what the predictors said of each word, are the oracle's; nothing else of a record changes.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessy_jax.cooperate.state import DroppedBytes, WordScores
from tessy_jax.data.records import Record, RowState
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.rows import NAMES, Job, Keeps
from tests.kit import pairs
from tests.kit.oracle import Trace
from tests.kit.pairs import PROBLEMS, Pair, problem, run, same

Key = tuple[str, int]

PAGES = {"schedule": "stream", "batch": 8, "cache_tokens": 384, "page": 16}
"""For one row of full length: others are evicted."""


ROOM, WORDS = 20, 1
"""Bytes and words; much less than there is, so that many a dispatch ends before its time."""


@pytest.mark.parametrize(
    "how", [{"schedule": "rollback"}, PAGES, PAGES | {"probes": True}], ids=["rollback", "stream", "probes"]
)
def test_what_is_kept_is_the_oracles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]) -> None:
    monkeypatch.setattr(DroppedBytes, "full", lambda dropped, logged: dropped.size(logged) > ROOM)
    monkeypatch.setattr(WordScores, "full", lambda scores: scores.n > WORDS)
    pair = pairs.different_vocabularies(tmp_path)
    oracle = pair.probe_oracle() if "probes" in how else pair.oracle()
    oracle = dataclasses.replace(oracle, k=pair.cooperation.k if how["schedule"] == "rollback" else 1)
    engine = pair.engine(keeps=Keeps(dropped=True, scores=True), **how)

    # Without an interruption; some rows end a dispatch because there is no more room, or go back into the queue.
    found, evicted, full = {}, 0, np.zeros(2, int)
    for dispatch in engine.run(Job(p, sample) for p in PROBLEMS for sample in range(2)):
        found |= {(record.problem.id, record.sample_index): record for record in dispatch.finished}
        evicted += dispatch.evicted
        full += np.array(_fullest(engine)) > (ROOM, WORDS)
    assert len(found) == 2 * len(PROBLEMS)
    assert full.all() or "probes" in how
    assert evicted or how["schedule"] == "rollback"
    kept = rejected = 0
    for (id_, sample), record in found.items():
        trace = oracle.trace(problem(id_).messages, id_, sample)
        same(record, trace, pair)
        if "probes" not in how:  # the oracle writes the words to their ends, of which a probe knows before
            assert _dropped(record) == _expected(trace, pair)
        assert sum(tokens for _, _, tokens, _ in _dropped(record)) == record.n_tokens.rolled_back
        decisions = _same_scores(record, trace, pair)
        kept, rejected = kept + sum(decisions), rejected + len(decisions) - sum(decisions)
    assert sum(record.n_tokens.rolled_back for record in found.values()) > len(found)
    assert min(kept, rejected) > 3

    # Interrupted after every third dispatch, and taken up from what the journal says. Other passes round otherwise.
    again = _interrupted(engine)
    for key, record in found.items():
        np.testing.assert_allclose(_column(again[key], 2), _column(record, 2), atol=2e-4)
        assert dataclasses.replace(again[key], word_scores=record.word_scores) == record

    # Without the keys nothing else is different.
    plain = run(pair.engine(batch=8, schedule=how["schedule"], probes="probes" in how), PROBLEMS, samples=2)
    nothing = {"dropped_text": None, "word_scores": None}
    assert plain == {key: dataclasses.replace(record, **nothing) for key, record in found.items()}


def _fullest(engine: Engine) -> tuple[int, int]:
    """Bytes that one row has dropped in the last dispatch, and words judged of one, at most."""
    rows = engine.host
    assert rows.dropped is not None
    assert rows.scores is not None
    dropped = max(int(rows.dropped.ends[b, n - 1]) if n else 0 for b, n in enumerate(rows.logged.tolist()))
    return dropped, int(rows.scores.n.max())


def _same_scores(record: Record, trace: Trace, pair: Pair) -> list[bool]:
    """Compares the words' places and probabilities, and that the cuts follow from these; says which words were kept."""
    opening, text = len(pair.chats[0].thinking.open), trace.text
    places = [[opening + len(text[: min(at, trace.think_end)].decode()) for at in word[1:3]] for word in trace.scores]
    assert [[_column(record, n)[i] for n in (0, 1)] for i in range(len(places))] == places
    assert len(record.word_scores or ()) == len(places)
    np.testing.assert_allclose(_column(record, 2), [p for *_, p in trace.scores], atol=2e-4)
    kept = [start < end for _, start, end, _ in trace.scores]  # in bytes: white space behind the thinking is left out
    for (author, *_), good, (*_, p) in zip(trace.scores, kept, record.word_scores or (), strict=True):
        threshold = pair.thresholds[author]
        if abs(p - threshold) > 1e-4:
            assert ((p >= threshold) == (author == 0)) == good
    return kept


def _column(record: Record, which: int) -> list[float]:
    assert record.word_scores is not None
    return [word[which] for word in record.word_scores]


def _dropped(record: Record) -> list[tuple[str, int, int, str]]:
    assert record.dropped_text is not None
    return [(each.by, each.at, each.n_tokens, each.text) for each in record.dropped_text]


def _expected(trace: Trace, pair: Pair) -> list[tuple[str, int, int, str]]:
    opening = len(pair.chats[0].thinking.open)
    return [
        (
            NAMES[by],
            opening + len(trace.text[: min(at, trace.think_end)].decode()),
            tokens,
            text.decode(errors="replace"),
        )
        for by, at, tokens, text in trace.dropped
    ]


def _interrupted(engine: Engine) -> dict[Key, Record]:
    jobs: list[Job] = [Job(p, sample) for p in PROBLEMS for sample in range(2)]
    found: dict[Key, Record] = {}
    begun: dict[Key, RowState] = {}
    while left := [job for job in jobs if (job.problem.id, job.sample_index) not in found]:
        engine.slots, engine.host = [None] * engine.local, engine.rows.empty(engine.local)
        engine.carry = engine.carry.replace(state=engine._put(engine.host))
        states = (begun.get((job.problem.id, job.sample_index)) for job in left)
        again = engine.run(dataclasses.replace(job, state=state) for job, state in zip(left, states, strict=True))
        for dispatch in itertools.islice(again, 3):
            found |= {(record.problem.id, record.sample_index): record for record in dispatch.finished}
            active = (RowState.from_json(state.to_json()) for state in dispatch.active)
            begun |= {(state.id, state.sample_index): state for state in active}
        again.close()
    return found
