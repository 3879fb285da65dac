"""One model alone: `sample` from end to end, and the same engine as an annotator."""

import json
import shutil
from functools import cache
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tessy_jax import annotate, models, sample
from tessy_jax.annotation.annotator import Refused
from tessy_jax.annotation.llm import Llm
from tessy_jax.annotation.prompt import task
from tessy_jax.config.annotate import LlmConfig
from tessy_jax.config.sample import SampleConfig
from tessy_jax.config.schema import load_as
from tessy_jax.config.sections import ThinkingConfig
from tessy_jax.cooperate.sampling import Sampling
from tessy_jax.cooperate.state import Role
from tessy_jax.data.run_rows import RunDir
from tessy_jax.data.segments import Segment
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.solo import Solo
from tessy_jax.text.chat import Chat
from tessy_jax.text.repetition import Repetition
from tests.kit import templates
from tests.kit.oracle import Author, Oracle
from tests.kit.run_synthesize import QUESTIONS, pair, records, rejects

SIZES = {"batch": 3, "context": 192, "prompt_buckets": [32], "chunk": 8, "turns_per_dispatch": 2, "dtype": "float32"}
SIZES |= {"cache_tokens": 192, "page": 16}  # the three rows share the pages of one of full length


@cache
def config() -> Path:
    """The configuration of the tiny student alone."""
    root = pair().parent
    values = {
        "model": str(root / "student"),
        "sampling": {"temperature": 0.8, "top_k": 20},
        "budgets": {"k": 7, "max_think_tokens": 50, "max_answer_tokens": 3},
        "engine": SIZES,
        "input": str(root / "problems.jsonl"),
        "output": str(root / "alone"),
        "seed": 5,
    }
    file = root / "alone.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@cache
def engine() -> Engine:
    return Solo.open(load_as(SampleConfig, config())).load(None)


def call(*arguments: object) -> int:
    """The command in this process, always with the same engine, so that it compiles once."""
    shared = engine()
    shared.slots, shared.host = [None] * shared.local, shared.rows.empty(shared.local)
    shared.carry = shared.carry.replace(state=shared._put(shared.host))
    with mock.patch.object(Solo, "load", return_value=shared):
        return sample.main([str(config()), *map(str, arguments)])


@cache
def whole() -> list[dict]:
    """The records of an undisturbed run."""
    run = config().parent / "alone-whole"
    assert call("--output", run, "samples=2") == 0
    return records(run)


def oracle(sampling: Sampling, think: int, answer: int) -> Oracle:
    """The oracle of the cooperation, with the tiny student for both and a predictor that keeps every word."""
    folder = config().parent / "student"
    chat = Chat.load(folder)
    author = Author(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), chat, sampling)
    encode = chat.tokenizer.encode
    return Oracle(
        authors=(author, author),
        encode_for_judge=(encode, encode),
        style=(lambda ids: np.ones(len(ids)),) * 2,
        thresholds=(0.5, 0.5),
        max_think_tokens=think,
        max_answer_tokens=answer,
        loops=Repetition().loops,
        seed=5,
    )


def test_records_are_what_the_model_writes_alone():
    """Against plain Python and torch."""
    alone = oracle(Sampling(temperature=0.8, top_k=20), think=50, answer=3)
    for record in whole()[::3]:
        trace = alone.trace(record["messages"][:1], record["id"], record["sample_index"])
        assert record["messages"][1]["content"] == "<think>\n" + trace.text.decode(errors="ignore")
        assert record["finish"] == {"think": trace.finish[0], "answer": trace.finish[1]}


def test_records():
    rows = whole()
    assert [(row["id"], row["sample_index"]) for row in rows] == [
        (f"p{i}", s) for i in range(len(QUESTIONS)) for s in (0, 1)
    ]
    for row in rows:
        assert row["switches"] == row["n_tokens"]["teacher"] == 0
        assert {span["by"] for span in row["spans"]} == {"student"}
        assert sum(span["phase"] == "think" for span in row["spans"]) <= 1  # none: it ended its thinking at once
        assert row["n_tokens"]["student"] <= 50
        assert row["n_tokens"]["answer"] <= 3
    assert sum(row["n_tokens"]["student"] > 20 for row in rows) > len(rows) / 2
    texts = [row["messages"][1]["content"] for row in rows]
    assert all(a != b for a, b in zip(texts[::2], texts[1::2], strict=True))


def test_weights_are_there_once_and_the_silent_cache_is_small():
    shared = engine()
    assert shared.params.models[0] is shared.params.models[1]
    caches = [shared.carry.caches[role].model for role in Role]
    assert caches[0].slots(caches[0].layers[0]) == 192
    assert caches[0].pool == models.Pool(pages=12, page=16)
    assert type(caches[1].layers[0].mask) is models.Blocks
    assert [turn.role for turn in shared.loop.schedule.turns] == [Role.STUDENT]  # nothing of a teacher is compiled


def test_interrupted_and_resumed(tmp_path, monkeypatch, capsys, interrupt):
    run, write, journals = tmp_path / "run", RunDir.write_journal, []

    def interrupted(self, rows):
        journals.append(rows)
        if len(journals) == 2:
            interrupt()
        write(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "write_journal", interrupted)
        assert call("--output", run, "samples=2") == 130
    assert "stopped; the same command goes on from here" in capsys.readouterr().err
    assert len(records(run)) < len(whole())
    journal = (run / "journal/rows-00000-of-00001.jsonl").read_text()
    assert any(json.loads(line)["text"] for line in journal.splitlines())
    assert call("--output", run, "samples=2") == 0
    assert records(run) == whole()


def test_k_is_no_part_of_a_run_and_the_seed_is(tmp_path, capsys):
    run = tmp_path / "run"
    assert call("--output", run, "--limit", 1) == 0
    assert call("--output", run, "--limit", 1, "budgets.k=9") == 0
    assert call("--output", run, "--limit", 1, "seed=6") == 1
    assert "holds a different run:\n  seed: 5 there, 6 now" in capsys.readouterr().err


def test_dry_run_and_bad_rows(tmp_path, capsys):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"id": "p0", "question": "What is 2 + 3?", "level": 0}\n{"id": "b"}\n')
    assert call("--dry-run", "--input", file, "--output", tmp_path / "run") == 3
    shown = capsys.readouterr().out
    assert "reject: bad.jsonl:2: no prompt" in shown
    assert "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n<think>\n" in shown
    assert "1 problems x 1 samples, 3 slots; max_think_tokens=50 max_answer_tokens=3" in shown
    assert "\nstudent weights" in shown
    assert "teacher" not in shown
    assert not (tmp_path / "run").exists()
    assert call("--input", file, "--output", tmp_path / "run", "--show") == 3
    assert records(tmp_path / "run") == whole()[:1]
    assert len(rejects(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=/no/model", "model: there is no folder '/no/model', and it is no hub id (owner/name) either"),
        ("budgets.max_thinking=3", "unknown key 'budgets.max_thinking' in override 'budgets.max_thinking=3'"),
        ("mesh.data=2", "mesh: engine.batch 3 does not divide over data 2 x fsdp 1; make it a multiple of 2"),
        ("budgets.max_think_tokens=190", "engine.context 192 holds no prompt: the token budgets need"),
    ],
)
def test_wrong_values(tmp_path, capsys, override, message):
    assert sample.main([str(config()), override, "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_its_text_can_be_annotated(tmp_path):
    """The run directory of `sample` is an input of `annotate`; the spans say where the thinking is."""
    run = tmp_path / "run"
    assert whole()
    shutil.copytree(config().parent / "alone-whole", run)
    values = {
        "annotator": {"kind": "lexicon", "phrases": "configs/style_phrases.json"},
        "input": str(run),
        "output": str(tmp_path / "out"),
    }
    file = tmp_path / "annotate.yaml"
    file.write_text(yaml.safe_dump(values))
    assert annotate.main([str(file), "segments.words=1000"]) in (0, 3)
    found = {(row["id"], row["sample_index"]): row["text"] for row in records(tmp_path / "out")}
    assert len(found) > len(whole()) / 2
    for row in whole():
        trace = row["messages"][1]["content"].removeprefix("<think>\n").partition("\n</think>\n\n")[0]
        if (row["id"], row["sample_index"]) in found:
            assert found[row["id"], row["sample_index"]] == trace.strip()


# -- the same engine as an annotator -----------------------------------------------------------------------------------

SEGMENTS = [
    Segment("r", 0, i, 0, text)
    for i, text in enumerate(["Okay, so five.", "REFUSED", "Hmm.", "漢字 and 👍", "x " * 300])
]


@cache
def annotator(thinking: bool) -> Llm:
    sizes = SIZES | {"context": 1200, "cache_tokens": 1200, "prompt_buckets": [512]}
    return Llm.open(
        LlmConfig.model_validate(
            {"kind": "llm", "model": str(pair().parent / "student"), "max_answer_tokens": 12, "engine": sizes}
            | {"prompt": {"template": templates.REFUSING}}
            | ({"thinking": {}} if thinking else {})
        )
    )


@pytest.mark.parametrize("thinking", [False, True])
def test_an_annotator_answers_as_torch_generates(thinking):
    """Greedy: the plain prompt, or the prompt with an empty thinking; what it says is no list, and so is refused.

    A segment that the template refuses, or that is too long, is refused alone.
    """
    outcomes = [outcome for group in annotator(thinking).annotate(iter(SEGMENTS)) for outcome in group]
    assert sorted(outcome.segment.index for outcome in outcomes) == [0, 1, 2, 3, 4]
    assert all(isinstance(outcome, Refused) for outcome in outcomes)
    by_index = {outcome.segment.index: outcome for outcome in outcomes}
    assert by_index[1].reason.startswith("the chat template of ")
    assert by_index[1].reason.endswith("/student refuses the messages: No such thing here")
    assert by_index[4].reason.startswith("the prompt has ")
    alone = oracle(Sampling(temperature=0.0), think=1, answer=12)
    reference = alone.authors[0].chat.reference
    for segment in (SEGMENTS[0], *SEGMENTS[2:4]):
        prompt = reference.apply_chat_template(task(segment.text), tokenize=False, add_generation_prompt=True)
        prompt += "<think>\n\n</think>\n\n" if thinking else ""
        text, _ = alone._answer(reference(prompt, add_special_tokens=False)["input_ids"], b"", jax.random.key(0))
        assert by_index[segment.index].reply == text.decode(errors="ignore")


def test_thinking_needs_to_know_how():
    with pytest.raises(ValueError, match="needs thinking where max_think_tokens is given"):
        LlmConfig(kind="llm", model="x", max_think_tokens=3)
    assert LlmConfig(kind="llm", model="x", max_think_tokens=3, thinking=ThinkingConfig()).thinking is not None
