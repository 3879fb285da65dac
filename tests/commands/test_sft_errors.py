"""What the command says, and its exit code, where it cannot run."""

import json
import shutil
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tessy_jax.sft import main
from tessy_jax.train import trainer
from tests.kit.run_sft import call, metrics, order, student, whole
from tests.kit.tiny import gpt_oss_mxfp4, qwen3_classifier

ERROR, USAGE = 1, 2


@pytest.fixture
def fail(tmp_path, capsys):
    """Runs the command with arguments with which it must fail; gives its exit code and message."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(student()), "--output", str(tmp_path / "run"), *map(str, arguments)])
        out, messages = capsys.readouterr()
        assert out == ""
        return code, messages.partition("error: ")[2].removesuffix("\n")

    return run


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch.row=3", "unknown key 'batch.row' in override 'batch.row=3'; did you mean 'batch.rows'?"),
        ("batch.rows=3", "'batch' in override 'batch.rows=3' has 3 rows, which are not 2 equal pieces (accumulate)"),
        ("model=/nowhere/model", "model: there is no folder '/nowhere/model', and it is no hub id (owner/name) either"),
        (
            "mesh.data=8",
            "mesh: batch.rows / batch.accumulate 4 does not divide over data 8 x fsdp 1; make it a multiple of 8",
        ),
        ("mesh.tensor=16", "mesh: tensor 16 needs 16 devices, there are 8; lower an axis of `mesh`"),
        (
            "data.held_out=1.5",
            "'data.held_out' in override 'data.held_out=1.5' should be a share (0 or more, less than 1) or a path, "
            "got 1.5",
        ),
    ],
)
def test_wrong_values(fail, tmp_path, override, message):
    assert fail(override) == (USAGE, message)
    assert not (tmp_path / "run").exists()


def test_lora_targets(fail):
    code, message = fail("lora={rank: 2, alpha: 4, targets: [q_prj]}")
    assert code == USAGE
    assert message.startswith("lora.targets: ")
    assert "q_proj" in message


def test_wrong_students(fail, tmp_path):
    source = student().parent / "student"
    limit = f"data.length: {source} reads 4096 tokens at most, not 5000"
    assert fail("data.length=5000") == (USAGE, limit)
    classifier = shutil.copytree(source, tmp_path / "classifier")
    qwen3_classifier(classifier, num_hidden_layers=1, vocab_size=600)
    wanted = f"model: {classifier} is a token classifier; give a language model"
    assert fail(f"model={classifier}") == (USAGE, wanted)
    packed = shutil.copytree(source, tmp_path / "packed")
    gpt_oss_mxfp4(packed, num_hidden_layers=1, vocab_size=600)
    wanted = (
        f"model: {packed} is quantised (model.layers.0.mlp.experts.down_proj_blocks and 3 more), and packed weights "
        "cannot be trained; give a checkpoint in bfloat16, float16 or float32"
    )
    assert fail(f"model={packed}") == (USAGE, wanted)


def test_data_that_gives_nothing(fail, tmp_path):
    wanted = "there is no file or folder '/nowhere/x.jsonl'"
    assert fail("data.train=/nowhere/x.jsonl") == (USAGE, f"data.train: {wanted}")
    assert fail("data.held_out=/nowhere/x.jsonl") == (USAGE, f"data.held_out: {wanted}")
    assert not (tmp_path / "run").exists()
    code, message = fail("data.length=4", "data.long=drop")
    assert code == ERROR
    assert message.startswith(f"no example to train on in {student().parent}/traces/data: 40 do not fit into length")
    code, message = fail("data.weights={style: 0, capability: 0, answer: 0, assistant: 0}")
    assert code == ERROR
    assert message.startswith("nothing to train on in step 1: all tokens of its examples (p")


def test_not_a_number(fail, tmp_path, capsys):
    """The run stops at the step, says what it was, and the checkpoint before it stays."""
    broken = shutil.copytree(student().parent / "student", tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = np.full_like(tensors["model.norm.weight"], np.nan)
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    code, message = fail(f"model={broken}", "data.held_out=0")
    assert code == ERROR
    assert message.startswith("the loss of step 1 is nan; its examples: p")
    run = tmp_path / "run"
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.isdecimal()]
    assert "the loss of step 1 is nan" in (run / "run.log").read_text()
    assert fail(f"model={broken}") == (
        ERROR,
        "the held-out loss after step 0 is nan; lower optimizer.lr, or look at the data (--inspect)",
    )


def test_out_of_memory(fail, monkeypatch):
    reason = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
    monkeypatch.setattr(trainer, "place", Mock(side_effect=jax.errors.JaxRuntimeError(reason)))
    code, message = fail()
    assert code == ERROR
    assert message.startswith(f"a device has too little memory ({reason}). Raise batch.accumulate or mesh.fsdp")


def test_another_run_is_in_the_way(fail, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole(), run)
    wanted = f"{run} holds a different run:\n  optimizer.lr: 0.001 there, 0.002 now\n  seed: 5 there, 6 now"
    code, message = fail("seed=6", "optimizer.lr=0.002")
    assert (code, message) == (ERROR, f"{wanted}\nuse --overwrite or another --output")
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"prompt": "Hi", "response": "Hello."}) + "\n")
    code, message = fail(f"data.train=[{student().parent}/traces, {more}]")
    assert code == ERROR
    assert f"{run}/corpus holds a different run:\n  sources.1/more.jsonl: absent there" in message
    assert order(run) == order(whole())
    (run / "mine.txt").write_text("not the run's")
    assert call("--output", run, "seed=6", "max_steps=1", "--overwrite") == 0
    assert len(order(run)) == 1
    assert order(run)[0] != order(whole())[0]
    assert (run / "mine.txt").exists()


def test_output_of_another_command(fail, tmp_path):
    shutil.copytree(student().parent / "traces", tmp_path / "run")
    code, message = fail()
    assert code == ERROR
    assert message.startswith(f"{tmp_path}/run is not empty and holds no run")
    assert fail("--output", student()) == (ERROR, f"{student()} is a file, not a folder: use another --output")


def test_damaged_checkpoint(fail, tmp_path):
    run = tmp_path / "run"
    assert call("--output", run, "max_steps=2") == 0
    newest = run / "checkpoints/2"
    (newest / "state/manifest.ocdbt").write_bytes(b"")
    shutil.rmtree(run / "export")
    code, message = fail("max_steps=2")
    assert code == ERROR
    assert message.startswith(f"cannot read the checkpoint {newest}: ")
    assert message.endswith("; remove that folder to go on from an earlier one")
    shutil.rmtree(newest)
    assert call("--output", run, "max_steps=2") == 0
    assert [row["step"] for row in metrics(run) if "loss" in row] == [1, 2]


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "default: configs/sft_demo.yaml" in text
    assert "data.weights.capability" in text
    assert jax.device_count() == 8  # the mesh tests above mean what they say
