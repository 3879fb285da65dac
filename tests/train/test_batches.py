"""Batches: golden arrays and masks, the same rows for any number of processes, and a stream that resumes exactly."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from tessy_jax.text.chat import Chat
from tessy_jax.train.data.batches import Batch, BatchError, Batches, Weights
from tessy_jax.train.data.corpus import Corpus, Options
from tessy_jax.train.data.examples import ANSWER, ASSISTANT, CAPABILITY, CONTEXT, STYLE
from tessy_jax.train.data.inspect import inspect
from tessy_jax.train.data.packing import BatchPlan, one_each
from tests.kit import vocab

FIELDS = ("tokens", "targets", "segments", "positions", "parts", "weights")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"  # one token of prompt below
    return Chat.load(vocab.small_chatml(tmp_path_factory.mktemp("small")), template=template)


def trace(number, student, teacher):
    """A record of ours: the student's thinking, the teacher's, and one letter of answer."""
    content = f"<think>\n{student}{teacher}\n</think>\n\nX"
    begin, middle, end = 8, 8 + len(student), 8 + len(student) + len(teacher)
    spans = [
        {"by": by, "phase": "think", "start": a, "end": b, "n_tokens": 1, "dropped_tokens": 0}
        for by, a, b in (("student", begin, middle), ("teacher", middle, end))
    ]
    return {
        "id": f"p{number}",
        "sample_index": 0,
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": content}],
        "spans": spans,
        "n_tokens": {},
        "switches": 1,
        "finish": {"think": "end", "answer": "stop"},
        "seed": 0,
    }


def corpus_of(tmp_path, chat, values, length=64):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(value) + "\n" for value in values))
    return Corpus.open(tmp_path / "corpus", [source], chat, Options(length))


@pytest.fixture
def many(tmp_path, chat):
    """25 examples of different lengths."""
    words = [" ".join(["so"] * (n % 7 + 1)) for n in range(25)]
    return corpus_of(
        tmp_path, chat, [{"id": f"m{n}", "prompt": f"{n}?", "response": text} for n, text in enumerate(words)]
    )


def test_golden_batch(tmp_path, chat):
    foreign = {"id": "f", "prompt": "Q", "response": "XY"}
    corpus = corpus_of(tmp_path, chat, [trace(0, "A", "B"), foreign])
    plan = BatchPlan(corpus.lengths, 20, 2, epochs=1, seed=0)
    batch = Batches(corpus, plan, Weights(style=2.0, capability=0.5)).batch(0)
    q, a, b, x, y, newline = (chat.tokenizer.encode(text.encode())[0][0] for text in ("Q", "A", "B", "X", "Y", "\n"))
    think, close, end = (chat.tokenizer.control[name] for name in ("<think>", "</think>", "<|im_end|>"))
    blank = chat.tokenizer.encode(b"\n\n")[0]
    ours = [q, think, newline, a, b, newline, close, *blank, x, end]
    theirs = [q, x, y, end]
    orders = {0: (ours, theirs), 1: (theirs, ours)}
    first, second = orders[int(plan[0][0][0])]
    used = len(ours) + len(theirs)
    assert used <= 20
    pad = 20 - used

    def parts_of(ids):
        if ids is theirs:
            return [ASSISTANT] * 3 + [CONTEXT]
        return [CONTEXT, CONTEXT, STYLE, CAPABILITY] + [ANSWER] * (len(ours) - 5) + [CONTEXT]

    def row(values, filler):
        return [*values(first), *values(second), *[filler] * pad]

    assert batch.tokens.shape == (1, 2, 20)
    assert batch.tokens[0, 0].tolist() == row(lambda ids: ids, 0)
    assert batch.targets[0, 0].tolist() == row(lambda ids: [*ids[1:], 0], 0)
    assert batch.segments[0, 0].tolist() == [1] * len(first) + [2] * len(second) + [0] * pad
    assert batch.positions[0, 0].tolist() == row(lambda ids: range(len(ids)), -1)
    assert batch.parts[0, 0].tolist() == row(parts_of, 0)
    weight = {CONTEXT: 0.0, STYLE: 2.0, CAPABILITY: 0.5, ANSWER: 1.0, ASSISTANT: 1.0}
    assert batch.weights[0, 0].tolist() == [weight[part] for part in batch.parts[0, 0].tolist()]
    for name, filler in zip(FIELDS, (0, 0, 0, -1, 0, 0), strict=True):  # the step is short: its last row is empty
        assert (getattr(batch, name)[0, 1] == filler).all()
    assert [str(getattr(batch, name).dtype) for name in FIELDS] == ["int32"] * 4 + ["int8", "float32"]


def test_all_examples_are_there_once_an_epoch(many):
    batches = Batches(many, BatchPlan(many.lengths, 32, 4, epochs=2, seed=3))
    seen = []
    for batch in batches:
        for tokens, segments in zip(batch.tokens[0], batch.segments[0], strict=True):
            seen += [tuple(tokens[segments == segment]) for segment in range(1, segments.max() + 1)]
    assert sorted(seen) == sorted(2 * [tuple(many.tokens(i)) for i in range(len(many))])


def test_rows_do_not_depend_on_processes_or_pieces(many):
    plan = BatchPlan(many.lengths, 32, 8, epochs=1, seed=3)
    whole = Batches(many, plan)
    pieces = Batches(many, plan, accumulate=2)
    parts = [Batches(many, plan, accumulate=2, process=(index, 4)) for index in range(4)]
    for step in range(plan.steps):
        for name in FIELDS:
            rows = getattr(whole.batch(step), name)
            assert rows.shape == (1, 8, 32)
            np.testing.assert_array_equal(getattr(pieces.batch(step), name).reshape(rows.shape), rows)
            blocks = [getattr(part.batch(step), name) for part in parts]
            assert blocks[0].shape == (2, 1, 32)
            np.testing.assert_array_equal(np.concatenate(blocks, axis=1).reshape(rows.shape), rows)
    with pytest.raises(ValueError, match=r"8 rows are not 3 micro-batches for 1 processes each"):
        Batches(many, plan, accumulate=3)


@pytest.mark.parametrize("stop", [1, 4])
def test_a_stream_goes_on_where_it_was(many, stop):
    batches = Batches(many, BatchPlan(many.lengths, 32, 3, epochs=3, seed=3))
    whole = list(batches)
    assert len(whole) == len(batches) > stop
    first = iter(batches)
    before = [next(first) for _ in range(stop)]
    state = json.loads(json.dumps(first.get_state()))
    again = iter(Batches(many, BatchPlan(many.lengths, 32, 3, epochs=3, seed=3)))
    again.set_state(state)
    after = list(again)
    assert len(before) + len(after) == len(whole)
    for ours, theirs in zip([*before, *after], whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_batch_is_a_pytree(many):
    batch = Batches(many, BatchPlan(many.lengths, 32, 3, epochs=1, seed=0)).batch(0)
    assert isinstance(jax.tree.map(lambda leaf: leaf, batch), Batch)
    assert [path[0].name for path, _ in jax.tree_util.tree_flatten_with_path(batch)[0]] == list(FIELDS)


def test_a_step_without_anything_to_learn(many, tmp_path):
    plan = BatchPlan(many.lengths, 32, 8, epochs=1, seed=3, arrange=one_each)
    batches = Batches(many, plan, Weights(assistant=0.0))
    names = batches.names(1)
    assert len(names) == 8
    stream = iter(batches)
    with pytest.raises(BatchError) as caught:
        next(stream)
    assert str(caught.value) == (
        f"nothing to train on in step 1: all tokens of its examples ({', '.join(batches.names(0)[:5])} and 3 more) have"
        " weight 0; the weights are Weights(style=1.0, capability=1.0, answer=1.0, assistant=0.0): raise one, take out"
        " these examples, or more rows a step"
    )


def shown(batch, chat, **options):
    out = io.StringIO()
    inspect(batch, chat, Console(file=out, width=100, **options))
    return out.getvalue()


def test_inspect(tmp_path, chat):
    corpus = corpus_of(tmp_path, chat, [trace(0, "A", "B"), {"id": "f", "prompt": "Q", "response": "XY[b]"}])
    batch = Batches(corpus, BatchPlan(corpus.lengths, 20, 2, epochs=1, seed=0), Weights(style=0.0)).batch(0)
    text = shown(batch, chat)
    assert "⟦C Q<think>\n⟧⟦S! A⟧⟦T B⟧⟦A \n</think>\n\nX<|im_end|>⟧" in text
    assert "⟦C Q⟧⟦X XY[b]<|im_end|>⟧" in text
    assert text.count("document 2: ") == 1
    assert "row 1: 0 of 20 tokens, 0 documents" in text
    used = int(corpus.lengths.sum())
    assert f"{40 - used} ({(40 - used) / 40:.1%})" in text
    style = next(line for line in text.splitlines() if "style" in line and "│" in line)
    assert [cell.strip() for cell in style.strip("│").split("│")] == ["style", "1", "0", "0"]
    colours = shown(batch, chat, force_terminal=True, color_system="standard")
    assert "\x1b[33mB\x1b[0m" in colours
    assert "\x1b[9;36mA\x1b[0m" in colours
