"""`keep_dropped`: the text that was rolled back at each cut is the oracle's, and nothing else of a record changes."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from tessy_jax.config.synthesize import ScheduleName
from tessy_jax.cooperate.state import DroppedBytes
from tessy_jax.data.records import Record, RowState
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.rows import NAMES, Job
from tests.kit import pairs
from tests.kit.oracle import Trace
from tests.kit.pairs import PROBLEMS, Pair, problem, run, same

Key = tuple[str, int]

PAGES = {"batch": 8, "cache_tokens": 384, "page": 16}
"""For one row of full length: others are evicted."""


ROOM = 20
"""Bytes; much less than there is, so that many a dispatch ends before its time."""


@pytest.mark.parametrize(("schedule", "sizes"), [("rollback", {}), ("stream", PAGES)], ids=["rollback", "stream"])
def test_dropped_text_is_the_oracles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: ScheduleName, sizes: dict[str, Any]
) -> None:
    monkeypatch.setattr(DroppedBytes, "full", lambda dropped, logged: dropped.size(logged) > ROOM)
    pair = pairs.different_vocabularies(tmp_path)
    oracle = dataclasses.replace(pair.oracle(), k=pair.cooperation.k if schedule == "rollback" else 1)
    engine = pair.engine(schedule=schedule, keep_dropped=True, **sizes)

    # Without an interruption; some rows end a dispatch because there is no more room, or go back into the queue.
    found, evicted, full = {}, 0, 0
    for dispatch in engine.run(Job(p, sample) for p in PROBLEMS for sample in range(2)):
        found |= {(record.problem.id, record.sample_index): record for record in dispatch.finished}
        evicted += dispatch.evicted
        full += _fullest(engine) > ROOM
    assert len(found) == 2 * len(PROBLEMS)
    assert full
    assert evicted or schedule == "rollback"
    for (id_, sample), record in found.items():
        trace = oracle.trace(problem(id_).messages, id_, sample)
        same(record, trace, pair)
        assert _dropped(record) == _expected(trace, pair)
        assert sum(tokens for _, _, tokens, _ in _dropped(record)) == record.n_tokens.rolled_back
    assert sum(record.n_tokens.rolled_back for record in found.values()) > len(found)

    # Interrupted after every third dispatch, and taken up from what the journal says.
    assert _interrupted(engine) == found

    # Without the key nothing else is different.
    plain = run(pair.engine(batch=8, schedule=schedule), PROBLEMS, samples=2)
    assert plain == {key: dataclasses.replace(record, dropped_text=None) for key, record in found.items()}


def _fullest(engine: Engine) -> int:
    """Bytes that one row has dropped in the last dispatch, at most."""
    rows = engine.host
    assert rows.dropped is not None
    return max(int(rows.dropped.ends[b, n - 1]) if n else 0 for b, n in enumerate(rows.logged.tolist()))


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
