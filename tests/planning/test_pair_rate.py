"""Kept tokens per second of a pair, where they can be told by hand, and span lengths of a run."""

import dataclasses
import json
from pathlib import Path

import pytest

from tessy_jax.cooperate.stream import FullestPass, PassShape
from tessy_jax.engine.build import fullest_pass
from tessy_jax.errors import ConfigError
from tessy_jax.planning.pair_rate import PairRate, SpanLengths, pair_rate, spans_of
from tessy_jax.planning.simulation import SpanTokens, simulate
from tessy_jax.storage.outputs import upload_pages
from tessy_jax.storage.paths import as_path


def rate(rows: int, spans: SpanLengths, seconds: tuple[float, float], width: int = 4) -> PairRate:
    shapes = [PassShape(rows, 1), PassShape(rows, width)]
    policy = FullestPass(costs=seconds * 2, groups=(0, 1, 2, 3))
    return pair_rate(policy, shapes, seconds * 2, spans, rows, teacher_alone=1.0, rounds=600)


def spans(kept: float, dropped: float) -> SpanLengths:
    return SpanLengths((kept, kept), (dropped, dropped), "given")


def test_a_row_alone_takes_a_pass_for_each_token_that_is_kept_or_dropped() -> None:
    assert rate(1, spans(1, 0), (1.0, 1.0)).passes_per_kept == 1.0
    assert rate(1, spans(1, 1), (1.0, 1.0)).passes_per_kept == 2.0
    assert rate(1, spans(1, 1), (2.0, 9.0)).kept_per_second == pytest.approx(1 / 4)


def test_more_rows_fill_passes_and_narrow_ones_read_more_often() -> None:
    few, many = (rate(rows, spans(5, 1), (1.0, 1.0), width=8) for rows in (1, 32))
    assert 1.1 < few.passes_per_kept < 1.3, "6 tokens for 5"
    assert 1 / 32 < many.passes_per_kept < few.passes_per_kept / 8
    narrow = rate(1, spans(9, 0), (1.0, 1.0), width=2)  # 9 tokens are read in 9 passes, one token beside the last
    assert narrow.passes_per_kept > rate(1, spans(9, 0), (1.0, 1.0), width=16).passes_per_kept


def test_rows_that_are_known_are_written_to_their_end() -> None:
    """Two rows, the second in the first one's slot; then both at once, where each waits for what the other needs."""
    shapes = [PassShape(1, 1), PassShape(1, 4)]
    policy = FullestPass(costs=(1.0, 1.0) * 2, groups=(0, 1, 2, 3))
    one = [SpanTokens(0, 2, 1), SpanTokens(1, 3, 0), SpanTokens(0, 4, 0)]  # it reads 3 tokens, and writes in that pass
    other = [SpanTokens(1, 9, 0), SpanTokens(0, 1, 0)]  # it reads 9 tokens: 2 passes of 4, the third writes
    passes = simulate(policy, shapes, [one, other], slots=1)
    assert passes == ((3 + 3 + 1, 1 + 2, 2 + 9, 1), 18 + 4 * 4, 20, 19)
    both = simulate(policy, [PassShape(2, 1), PassShape(2, 4)], [one, other], slots=2)
    assert sum(both.passes) < sum(passes.passes)
    assert (both.kept, both.generated) == (19, 20)


def test_the_dear_model_waits_for_more_rows() -> None:
    """A teacher's pass costs ten of the student's: then few rows are enough for the student, and time is saved."""
    shapes = [PassShape(12, 1), PassShape(6, 8)]
    seconds = (0.1, 0.15, 1.0, 1.5)
    spans = SpanLengths((5.0, 17.0), (1.0, 1.0), "given")
    same, dear = (
        pair_rate(fullest_pass(shapes, costs), shapes, seconds, spans, 12, teacher_alone=1.0, rounds=1500)
        for costs in ((1, 1), (1, 10))
    )
    assert dear.kept_per_second > 1.1 * same.kept_per_second


def test_lengths_of_a_run(tmp_path: Path) -> None:
    def span(by: str, kept: int, dropped: int, phase: str = "think") -> dict:
        return {"by": by, "phase": phase, "n_tokens": kept, "dropped_tokens": dropped}

    with pytest.raises(ConfigError, match="no spans of both authors"):
        spans_of(tmp_path)
    rows = [[span("student", 4, 1), span("teacher", 9, 2), span("student", 99, 9, "answer")], [span("student", 2, 0)]]
    (tmp_path / "data").mkdir()
    lines = "".join(json.dumps({"spans": row}) + "\n" for row in rows)
    (tmp_path / "data" / "part-00000-of-00001.jsonl").write_text(lines)
    found = spans_of(tmp_path)
    assert (found.kept, found.dropped) == ((3.0, 9.0), (0.5, 2.0))
    run = as_path(f"memory://runs/{tmp_path.name}")
    upload_pages(tmp_path, run)
    assert spans_of(run) == dataclasses.replace(found, source=f"mean of 3 spans in {run}")
