"""Labels of tokens: by their first visible byte, at the right place, and never on both sides of a split."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessy_jax.data.annotated import read_annotated
from tessy_jax.data.inputs import InputError, Reject
from tessy_jax.data.segments import Annotated, Segment, StyleSpan
from tessy_jax.data.split import held_out
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.train.data.batches import Batches, Weights
from tessy_jax.train.data.examples import CAPABILITY, CONTEXT, PARTS, STYLE
from tessy_jax.train.data.labels import Labelled, Segments, class_weights
from tessy_jax.train.data.packing import BatchPlan, Groups
from tests.kit import vocab


@pytest.fixture(scope="module", params=["small_chatml", "sentencepiece"])
def tokenizer(request, tmp_path_factory):
    return ContentTokenizer.load(getattr(vocab, request.param)(tmp_path_factory.mktemp(request.param)))


def annotated(text, spans=(), *, name="p", index=0, start=0, truncated=False):
    return Annotated(Segment(name, 0, index, start, text), [StyleSpan(*span) for span in spans], truncated)


def spans_of(text):
    """Where the words of style are: capitals, for the sake of the test."""
    return [(i, i + 1) for i, c in enumerate(text) if c.isupper()]


@given(st.text(alphabet="aAbé漢👍 \n", min_size=1, max_size=30))
def test_token_goes_by_its_first_visible_byte(tokenizer, text):
    item = Labelled.of(annotated(text, spans_of(text)), tokenizer)
    ids, ends = tokenizer.encode(text.encode())
    assert item.tokens.tolist() == ids
    start = 0
    for i, end in enumerate(ends):
        begin = ends[i - 1] if i and ends[i - 1] < end else start
        start = begin
        piece = text.encode()[begin:end]
        char = piece.decode().strip(" \n")[:1] or piece.decode()[0]
        assert item.classes[i] == (STYLE if char.isupper() else CAPABILITY)
        assert text[item.starts[i] : item.ends[i]].encode() == piece
        before = text[: item.starts[i]] + piece.decode()[: len(piece.decode()) - len(piece.decode().lstrip())]
        assert item.words[i] == (-1 if not piece.strip() else len((before + "x").split()) - 1)


@given(st.lists(st.sampled_from(["Aa", "bé", "B", "so", "漢字", "it's"]), min_size=3, max_size=12), st.data())
def test_segment_of_a_longer_text_has_the_labels_of_its_characters(tokenizer, words, draw):
    text = " ".join(words)
    a = draw.draw(st.integers(0, len(words) - 1))
    b = draw.draw(st.integers(a + 1, len(words)))
    begin = len("".join(w + " " for w in words[:a]))
    part = " ".join(words[a:b])
    ids, ends = tokenizer.encode(text.encode())
    source = annotated(part, spans_of(part), start=begin)
    item = Labelled.within(source, text.encode(), len(text[:begin].encode()), ids, ends)
    whole = Labelled.of(annotated(text, spans_of(text)), tokenizer)
    there = slice(item.first, item.first + len(item.tokens))
    assert whole.classes[there].tolist() == item.classes.tolist()
    assert whole.tokens[there].tolist() == item.tokens.tolist()
    covered = set(whole.words[there].tolist()) - {-1}
    assert covered == set(range(a, b))
    assert item.words.max() == b - a - 1


def test_behind_a_truncated_reply_nothing_is_known(tokenizer):
    text = "So we add. Wait, 2 and 3"
    item = Labelled.of(annotated(text, [(0, 2), (11, 16)], truncated=True), tokenizer)
    known = item.ends <= 16
    assert (item.classes[~known] == CONTEXT).all()
    assert (item.classes[known] != CONTEXT).all()
    assert known.any()
    assert not known.all()


@pytest.mark.parametrize("shift", [0, 1])
def test_targets_stand_where_the_shift_says(tokenizer, shift):
    texts = ["So the sum is 16. Wait, A", "the answer", "So"]
    items = [Labelled.of(annotated(t, [(0, 2)] * t.startswith("So"), name=t), tokenizer) for t in texts]
    segments = Segments(items, shift, [])
    plan = BatchPlan(segments.lengths, 40, 2, epochs=1, seed=0, arrange=Groups(3, 2))
    batch = Batches(segments, plan, Weights(style=3.0)).batch(0)
    seen = 0
    for r, row in enumerate(plan[0]):
        start = 0
        for example in row:
            item = items[example]
            for t in range(len(item.tokens)):
                place = 0, r, start + t
                there = t + shift < len(item.tokens)
                label = item.classes[t + shift] if there else CONTEXT
                assert batch.tokens[place] == item.tokens[t]
                assert batch.parts[place] == label
                assert batch.targets[place] == (label == STYLE)
                assert batch.weights[place] == {CONTEXT: 0, STYLE: 3, CAPABILITY: 1}[int(label)]
                assert batch.positions[place] == t
            start += len(item.tokens)
            seen += len(item.tokens) - shift
    assert (batch.parts > 0).sum() == seen == segments.counts.sum()


def test_no_prompt_is_on_both_sides(tokenizer):
    """Segments of one response, and responses to one prompt, share a side; a split by segment would not."""
    items = [
        Labelled.of(Annotated(Segment(f"p{p}", sample, index, None, f"So it is {index}"), [StyleSpan(0, 2)]), tokenizer)
        for p in range(40)
        for sample in range(2)
        for index in range(3)
    ]
    train, held = Segments(items, 1, []).split(0.25)
    sides = [{item.source.segment.id for item in side.items} for side in (train, held)]
    assert not sides[0] & sides[1]
    assert len(train) + len(held) == 240
    assert 4 <= len(sides[1]) <= 18
    assert held_out([f"p{p}" for p in range(40)], 0.25) == held_out([f"p{p}" for p in range(40)] * 2, 0.25)[:40]
    assert len(Segments(items, 1, []).split(1e-9)[1]) == 6
    with pytest.raises(InputError, match="one prompt only"):
        Segments(items[:6], 1, []).split(0.5)


def test_weights_of_classes():
    counts = np.zeros((2, len(PARTS)), np.int32)
    counts[:, CAPABILITY], counts[:, STYLE] = [60, 30], [10, 20]
    assert class_weights(None, counts) == Weights()
    assert class_weights("balanced", counts) == Weights(capability=120 / 180, style=2.0)
    assert class_weights([0.5, 2], counts) == Weights(capability=0.5, style=2)


def test_rows_of_both_formats_and_bad_ones(tmp_path: Path, tokenizer):
    good = {"id": "a", "sample_index": 1, "segment": 4, "offset": 9, "text": "So, 2", "spans": [{"start": 0, "end": 3}]}
    released = {
        "id_ddm": "b",
        "think_text": "the solution, so",
        "pred_result": [{"span": "so", "start": 14, "end": 16}],
    }
    inside = {"id_ddm": "b", "think_text": "the solution", "pred_result": [{"span": "so", "start": 4, "end": 6}]}
    bad = [{"id": "c"}, good | {"text": 3}, good | {"spans": [{"start": 0, "end": 9}]}, good | {"spans": [5]}, inside]
    folder = tmp_path / "run"
    (folder / "data").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    rows = [good, released, released, *bad]
    (folder / "data/part-00000-of-00001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_annotated([folder]))
    assert found[0] == Annotated(Segment("a", 1, 4, 9, "So, 2"), [StyleSpan(0, 3)])
    assert [f.segment.key for f in found[1:3]] == [("b", 0, 0), ("b", 0, 1)]
    reasons = [f.reason for f in found[3:] if isinstance(f, Reject)]
    assert len(reasons) == 5
    for reason, part in zip(
        reasons,
        ["no field 'sample_index'", "'text' is a number", "0..9 leaves", "spans[0]", "longer word"],
        strict=True,
    ):
        assert part in reason
    segments = Segments.read([folder], tokenizer, 3, 1)
    assert (len(segments), len(segments.rejects)) == (3, 5)
    assert segments.lengths.max() <= 3
    (folder / "data/part-00000-of-00001.jsonl").write_text(json.dumps(good | {"spans": []}) + "\n")
    with pytest.raises(InputError, match="no token of the 1 segments is style"):
        Segments.read([folder], tokenizer, 8, 1)


def test_a_segment_that_a_tokenizer_refuses_is_rejected_with_its_place(tmp_path, tokenizer, monkeypatch):
    texts = ("A b", "C d", "E f")
    lines = [annotated(text, spans_of(text), name=f"p{i}").to_row("test") for i, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    encode = tokenizer.encode
    for bad, refused in enumerate(texts):

        def refuse(data, refused=refused):
            return encode(data) if data != refused.encode() else 1 // 0

        with monkeypatch.context() as patch:
            patch.setattr(tokenizer, "encode", refuse)
            segments = Segments.read([tmp_path / "in.jsonl"], tokenizer, 8, 0)
        (reject,) = segments.rejects
        assert (reject.id, reject.file, reject.line) == (f"p{bad}", "in.jsonl", bad + 1)
        assert reject.reason == "ZeroDivisionError: integer division or modulo by zero"
        assert [item.source.segment.id for item in segments.items] == [f"p{i}" for i in range(3) if i != bad]


def test_groups_share_rows_within_a_step():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 30, 103).astype(np.int32)
    rows = Groups.rows_needed(lengths, 64, 16, seed=3, epochs=2, unit=2)
    plan = BatchPlan(lengths, 64, rows, epochs=2, seed=3, arrange=Groups(16, rows))
    assert rows % 2 == 0
    assert plan.steps == 2 * 7
    for epoch in range(2):
        steps = [np.concatenate(plan[s]).tolist() for s in range(epoch * 7, epoch * 7 + 7)]
        assert [len(s) for s in steps] == [16] * 6 + [7]
        assert sorted(example for step in steps for example in step) == list(range(103))
    assert all(lengths[row].sum() <= 64 for s in range(plan.steps) for row in plan[s])
