"""Records and row states survive their JSON, whatever passes through them."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy_jax.data.records import (
    DroppedText,
    FinishReason,
    Problem,
    Record,
    RowState,
    Span,
    TokenCounts,
    WordScore,
    dump_line,
)

text = st.text(st.characters() | st.sampled_from('\u2028\u2029\u0085\ud800\udfff\x00\x1c\n"\\é漢😀'))
# A high surrogate right before a low one is one character to every reader of JSON.
text = text.filter(lambda value: value == json.loads(json.dumps(value)))
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
counts = st.integers(0, 10**9)
spans = st.builds(
    Span, st.sampled_from(["student", "teacher"]), st.sampled_from(["think", "answer"]), counts, counts, counts, counts
)
dropped = st.lists(st.builds(DroppedText, st.sampled_from(["student", "teacher"]), counts, counts, text), max_size=3)
scores = st.lists(st.builds(WordScore, counts, counts, st.floats(0, 1)), max_size=3)
own = st.sampled_from(["id", "messages", "seed", "spans", "input", "finish", "dropped_text", "word_scores"])
problems = st.builds(
    Problem,
    id=text,
    messages=st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": text}), min_size=1, max_size=2),
    extra=st.dictionaries(text | own, anything, max_size=4),
)
records = st.builds(
    Record,
    problem=problems,
    sample_index=counts,
    content=text,
    spans=st.lists(spans, max_size=3).map(tuple),
    n_tokens=st.builds(TokenCounts, counts, counts, counts, counts),
    switches=counts,
    finish=st.builds(FinishReason, text, text),
    seed=counts,
    dropped_text=st.none() | dropped.map(tuple),
    word_scores=st.none() | scores.map(tuple),
)
states = st.builds(
    RowState,
    id=text,
    sample_index=counts,
    text=st.binary(),
    spans=st.lists(spans, max_size=3).map(tuple),
    role=st.sampled_from(["student", "teacher"]),
    phase=st.sampled_from(["think", "answer"]),
    span_start=counts,
    kept=counts,
    span_tokens=st.lists(counts, max_size=3).map(tuple),
    span_ends=st.lists(counts, max_size=3).map(tuple),
    span_style=st.lists(st.floats(0, 1, width=32), max_size=3).map(tuple),
    event=counts,
    counters=st.dictionaries(text, counts, max_size=3),
    finish_think=st.none() | text,
    dropped_text=dropped.map(tuple),
    word_scores=scores.map(tuple),
)


@given(records)
def test_record_round_trip(record):
    line = record.to_json()
    assert len(line.splitlines()) == 1
    assert Record.from_row(json.loads(line.encode())) == record


@given(states)
def test_row_state_round_trip(state):
    line = state.to_json()
    assert len(line.splitlines()) == 1
    assert RowState.from_json(line.encode().decode()) == state


def test_layout_of_a_row():
    problem = Problem("a", [{"role": "user", "content": "q"}], {"topic": "maths", "seed": 9, "input": 1})
    span = Span("teacher", "think", 0, 3, 2, 1)
    record = Record(problem, 1, "<think>", (span,), TokenCounts(teacher=2), 0, FinishReason("end", "stop"), 5)
    assert record.to_row() == {
        "id": "a",
        "sample_index": 1,
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>"}],
        "spans": [{"by": "teacher", "phase": "think", "start": 0, "end": 3, "n_tokens": 2, "dropped_tokens": 1}],
        "n_tokens": {"student": 0, "teacher": 2, "answer": 0, "rolled_back": 0},
        "switches": 0,
        "finish": {"think": "end", "answer": "stop"},
        "seed": 5,
        "topic": "maths",
        "input": {"seed": 9, "input": 1},
    }
    kept = replace(record, dropped_text=(DroppedText("teacher", 3, 1, " so"),), word_scores=(WordScore(0, 3, 0.25),))
    more = {"dropped_text": [{"by": "teacher", "at": 3, "n_tokens": 1, "text": " so"}], "word_scores": [[0, 3, 0.25]]}
    assert kept.to_row() == record.to_row() | more


def test_a_row_state_that_keeps_no_more_is_as_it_was():
    state = RowState("a", 0, b"x", (), "student", "think", 0, 1, (), (), 0, {}, None)
    assert not {"dropped_text", "word_scores"} & set(json.loads(state.to_json()))


def test_lines_hold_what_json_cannot():
    line = dump_line({"a": [math.nan, math.inf, 1.5], "b": b"\xff", 3: {4}, "c": "é\u2028\ud800"})
    assert line == '{"a": [null, null, 1.5], "b": "/w==", "3": "{4}", "c": "é\\u2028\\ud800"}'


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", "3"])
def test_damaged_row_states(line):
    with pytest.raises(ValueError, match="not a row state"):
        RowState.from_json(line)


def test_damaged_fields_of_a_row_state():
    state = RowState("a", 0, b"x", (), "student", "think", 0, 1, (), (), 0, {}, None)
    values = json.loads(state.to_json())
    for damage in ({"text": "not base64!"}, {"text": 3}, {"spans": [{"by": "student"}]}, {"spans": 1}, {"more": 1}):
        with pytest.raises(ValueError, match="not a row state"):
            RowState.from_json(json.dumps(values | damage))
    assert RowState.from_json(json.dumps(values)) == state == replace(state)


def test_foreign_rows_are_no_records():
    with pytest.raises(ValueError, match="not a record: KeyError"):
        Record.from_row({"messages": [{"role": "user", "content": "q"}]})
