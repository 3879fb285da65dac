"""The command from end to end: what it writes, what it shows, what it leaves alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml

from tessy_jax import models
from tessy_jax.config.schema import load_as
from tessy_jax.config.sft import SftConfig
from tessy_jax.config.synthesize import load_config
from tessy_jax.engine.pair import Pair
from tessy_jax.text.chat import Chat
from tests.kit import ROOT, templates
from tests.kit import run_synthesize as run_command
from tests.kit.run_sft import call, metrics, order, student, weights, whole


def files(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()}


def test_run_directory_and_second_run(capsys):
    run = whole()
    before = files(run)
    names = {name.split("/")[0] for name in before}
    assert {"config.yaml", "manifest.json", "corpus", "checkpoints", "metrics.jsonl", "run.log", "curves.png"} < names
    assert yaml.safe_load(before["config.yaml"])["batch"] == {"rows": 8, "accumulate": 2}
    assert json.loads(before["manifest.json"])["identity"]["optimizer"]["lr"] == 1e-3
    assert before["curves.png"].startswith(b"\x89PNG")
    assert b"14 steps of 8 rows of 96 tokens" in before["run.log"]
    assert sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.is_dir()) == [12, 14]
    capsys.readouterr()
    assert call("--output", run) == 0
    shown = capsys.readouterr().err
    assert f"nothing left to do: all 14 steps are done, the trained student is in {run}/export" in shown
    after = files(run)
    assert after.pop("run.log").startswith(before.pop("run.log"))
    assert after == before


def test_numbers():
    rows = metrics(whole())
    trained = [row for row in rows if "loss" in row]
    held_out = {row["step"]: row["held_out"] for row in rows if "held_out" in row}
    assert [row["step"] for row in trained] == list(range(1, 15))
    assert [row["epoch"] for row in trained] == [1] * 5 + [2] * 5 + [3] * 4
    assert len({row["data"] for row in trained}) == 14
    assert list(held_out) == [0, 3, 6, 9, 12, 14]
    assert held_out[14]["loss"] < held_out[0]["loss"] - 0.5
    assert [row["learning_rate"] for row in trained[:4]] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])
    for row in trained:
        parts = row["parts"]
        assert row["tokens"] == sum(part["tokens"] for part in parts.values()) < row["tokens_all"]
        mean = sum(part["loss"] * part["tokens"] for part in parts.values()) / row["tokens"]
        assert mean == pytest.approx(row["loss"], rel=1e-6)


def test_export_is_a_checkpoint_for_all():
    """transformers and our own loader read the folder alike, and it is the student in all but its weights."""
    source, folder = student().parent / "student", whole() / "export"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = np.arange(40).reshape(2, 20)
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids)).logits.numpy()
    ours = models.load(folder)
    positions = np.broadcast_to(np.arange(20), (2, 20))
    hidden, _ = ours(ids, positions, models.Packed(np.ones((2, 20), np.int32), ours.config.masks))
    np.testing.assert_allclose(ours.logits(hidden), wanted, atol=1e-4)
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    assert Chat.load(folder).prompt_ids(messages) == Chat.load(source).prompt_ids(messages)
    pair = Pair.open(load_config(run_command.pair(), [f"student.model={folder}"]))
    assert pair.chats[0].prompt_ids(messages) == Chat.load(source).prompt_ids(messages)
    before = models.named_parameters(models.load(source))
    assert all((np.asarray(before[name]) != value).any() for name, value in weights(whole()).items())


def test_export_only(tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole(), run)
    shutil.rmtree(run / "export")
    assert call("--output", run, "--export-only", "12") == 0
    assert f"the student after step 12 is in {run}/export" in capsys.readouterr().err
    assert any((value != weights(whole())[name]).any() for name, value in weights(run).items())
    assert call("--output", run, "--export-only") == 0
    for name, value in weights(run).items():
        np.testing.assert_array_equal(value, weights(whole())[name])
    assert call("--output", run, "--export-only", "7") == 1
    assert "there is no checkpoint '7' to export; steps with one: 12, 14" in capsys.readouterr().err


def test_lora_trains_few_weights_and_merges(tmp_path):
    run = tmp_path / "run"
    lora = "lora={rank: 2, alpha: 8, targets: [q_proj, down_proj]}"
    template = "prompt.template='{% for m in messages %}{{ m.content }}{% endfor %}'"
    assert call("--output", run, lora, template, "max_steps=3", "optimizer.lr=0.05", "data.held_out=0") == 0
    before = models.named_parameters(models.load(student().parent / "student"))
    for name, value in weights(run).items():
        trained = "q_proj" in name or "down_proj" in name
        assert (np.asarray(before[name]) != value).any() == trained, name
    assert not any("held_out" in row for row in metrics(run))
    assert transformers.AutoTokenizer.from_pretrained(run / "export").chat_template.startswith("{% for m")


def test_dry_run_writes_nothing(tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": 3}\n')
    run = tmp_path / "run"
    source = student().parent / "traces"
    assert call("--dry-run", "--output", run, f"data.train=[{source}, {bad}]") == 3
    shown = capsys.readouterr().out
    assert "plan: 39 examples to train on and 1 held out; 14 steps of 8 rows of 96 tokens" in shown
    assert "reject: bad.jsonl:1: field 'messages'" in shown
    sizes = dict(line.rsplit(maxsplit=1) for line in shown.split("GiB", 1)[1].splitlines()[1:])
    step = ["weights", "moments", "batch", "temporaries of a step"]
    assert list(sizes) == [*step, "this process", "checkpoint being written", "sum"]
    assert float(sizes["sum"]) == pytest.approx(sum(float(sizes[name]) for name in sizes if name != "sum"), abs=0.04)
    assert list(tmp_path.iterdir()) == [bad]


def test_inspect(tmp_path, capsys):
    assert call("--inspect", "2", "--output", tmp_path / "run") == 0
    shown = capsys.readouterr().out
    assert shown.count("this batch") == 2
    assert "⟦C <|im_start|>user\nWhat is " in shown
    assert not list(tmp_path.iterdir())


def test_rejects_give_their_exit_code(tmp_path, capsys):
    bad, run = tmp_path / "bad.jsonl", tmp_path / "run"
    bad.write_text('{"messages": 3}\n')
    source = student().parent / "traces"
    assert call("--output", run, f"data.train=[{source}, {bad}]", "max_steps=1") == 3
    assert f"1 rows could not be used; see {run}/corpus/rejects.jsonl" in capsys.readouterr().err
    assert order(run) == order(whole())[:1]


def test_rows_that_the_template_refuses_are_rejected_with_their_place(tmp_path, capsys):
    """The others are trained on, and a second run says the same."""
    rows, run = tmp_path / "rows.jsonl", tmp_path / "run"
    questions = ("What is 2 + 3?", "REFUSED", "Is 91 prime?", "REFUSED too")
    lines = ({"id": f"r{i}", "prompt": question, "response": "Yes."} for i, question in enumerate(questions, start=1))
    rows.write_text("".join(json.dumps(row) + "\n" for row in lines))
    template = f"prompt.template={json.dumps(templates.REFUSING)}"
    for _ in range(2):
        assert call("--output", run, template, f"data.train=[{rows}]", "data.held_out=0", "max_steps=1") == 3
        assert f"2 rows could not be used; see {run}/corpus/rejects.jsonl" in capsys.readouterr().err
        rejects = [json.loads(line) for line in (run / "corpus/rejects.jsonl").read_text().splitlines()]
        assert [(one["file"], one["line"], one["id"]) for one in rejects] == [
            ("rows.jsonl", 2, "r2"),
            ("rows.jsonl", 4, "r4"),
        ]
        assert all(one["reason"].endswith("/student refuses the messages: No such thing here") for one in rejects)
    assert [row["step"] for row in metrics(run)] == [1]


def test_presets_are_complete():
    """The paper's preset says what the defaults say, so that neither drifts from the other."""
    folder = ROOT / "configs"
    paper, demo = (load_as(SftConfig, folder / name) for name in ("sft.yaml", "sft_demo.yaml"))
    assert (paper.batch.rows, paper.optimizer.lr, paper.epochs) == (128, 5e-5, 9)
    assert paper.optimizer == SftConfig.model_fields["optimizer"].default
    assert demo.data.length == 336
