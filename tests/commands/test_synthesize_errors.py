"""What the command says, and its exit code, where it cannot run."""

import shutil
from pathlib import Path

import pytest

from tessy_jax.synthesize import main
from tests.kit import vocab
from tests.kit.run_synthesize import call, pair, records
from tests.kit.tiny import llama, qwen3_classifier

ERROR, USAGE = 1, 2


@pytest.fixture
def fail(tmp_path, capsys):
    """Runs the command with arguments with which it must fail; gives its exit code and message."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(pair()), "--output", str(tmp_path / "run"), *map(str, arguments)])
        out, messages = capsys.readouterr()
        assert out == ""
        return code, messages.partition("error: ")[2].removesuffix("\n")

    return run


@pytest.fixture
def student(tmp_path) -> Path:
    """A copy of the student, to be damaged."""
    return shutil.copytree(pair().parent / "student", tmp_path / "model")


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("engine.bach=3", USAGE, "unknown key 'engine.bach' in override 'engine.bach=3'; did you mean 'engine.batch'?"),
        ("engine.batch=x", USAGE, "'engine.batch' in override 'engine.batch=x' should be a valid integer, got 'x'"),
        (
            "student.model=/nowhere/model",
            USAGE,
            "student.model: there is no folder '/nowhere/model', and it is no hub id (owner/name) either",
        ),
        (
            "predictors.teacher.model=/nowhere/model",
            USAGE,
            "predictors.teacher.model: there is no folder '/nowhere/model', and it is no hub id (owner/name) either",
        ),
        ("predictors.student.table=/no/t", USAGE, "predictors.student.table: there is no file '/no/t'"),
        ("input=/nowhere/x.jsonl", ERROR, "no such file or folder: /nowhere/x.jsonl"),
        (
            "mesh.data=2",
            USAGE,
            "mesh: engine.batch 3 does not divide over data 2 x fsdp 1; make it a multiple of 2",
        ),
        ("mesh.tensor=16", USAGE, "mesh: tensor 16 needs 16 devices, there are 8; lower an axis of `mesh`"),
    ],
)
def test_wrong_values(fail, tmp_path, override, code, message):
    assert fail(override) == (code, message)
    assert not (tmp_path / "run").exists()


def test_no_configuration_file(tmp_path, capsys):
    assert main([str(tmp_path / "no.yaml")]) == USAGE
    assert capsys.readouterr().err == f"error: no configuration file {tmp_path}/no.yaml\n"


def test_damaged_checkpoints_are_found_before_anything_is_written(fail, student, tmp_path):
    weights = student / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.truncate(size - 100)
    wanted = f"{weights}: is truncated: it should have {size} bytes, it has {size - 100}. Download it again."
    assert fail(f"student.model={student}") == (ERROR, wanted)
    assert fail(f"student.model={student}", "--dry-run") == (ERROR, wanted)
    weights.unlink()
    wanted = (
        f"{student}: has neither model.safetensors nor model.safetensors.index.json. "
        "Download the safetensors files; convert GGUF first (python -m tessy_jax.convert)."
    )
    assert fail(f"student.model={student}") == (ERROR, wanted)
    (student / "tokenizer.json").unlink()
    wanted = f"{student}/tokenizer.json is missing: give a checkpoint folder with a fast tokenizer (tokenizer.json)."
    assert fail(f"student.model={student}") == (ERROR, wanted)
    assert not (tmp_path / "run").exists()


def test_no_chat_template(fail, tmp_path):
    folder = pair().parent / "predictor"
    wanted = (
        f"{folder} has no chat template, neither as chat_template.jinja nor in tokenizer_config.json: "
        "give a Jinja template as prompt.template in the config (base models have none)."
    )
    assert fail(f"student.model={folder}") == (ERROR, wanted)
    assert not (tmp_path / "run").exists()


def test_predictors_have_two_labels(fail, tmp_path):
    folder = vocab.small_plain(tmp_path / "three")
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    qwen3_classifier(folder, num_hidden_layers=1, vocab_size=500, **labels)
    wanted = "a boundary predictor has 2 labels (capability, style), this checkpoint has "
    assert fail(f"predictors.teacher.model={folder}") == (ERROR, f"{folder}: {wanted}3")
    folder = pair().parent / "student"
    code, message = fail(f"predictors.teacher.model={folder}", "--overwrite")
    assert (code, message) == (ERROR, f"{folder}: {wanted}no token-classification head")


def test_heads_that_do_not_divide(fail, student):
    llama(student, num_hidden_layers=1, vocab_size=464, intermediate_size=48)
    code, message = fail(f"student.model={student}", "mesh.tensor=8")
    assert code == ERROR
    place = f"{student}: model.layers.0.self_attn.o_proj.weight: dimension 1 (4 heads)"
    assert message.startswith(f"{place} does not divide over mesh axis 'tensor' of size 8. Use a size of 1, 2 or 4")


def test_output_below_a_file(fail):
    file = pair()
    assert fail("--output", file) == (ERROR, f"{file} is a file, not a folder: use another --output")
    wanted = "Not a directory; repair this and run the same command again, or use another --output"
    assert fail("--output", file / "run") == (ERROR, f"cannot write {file}/run: {wanted}")


def test_another_run_is_in_the_way(fail, tmp_path):
    run = tmp_path / "run"
    assert call("--output", run, "--limit", 1) == 0
    before = records(run)
    wanted = (
        f"{run} holds a different run:\n  seed: 5 there, 6 now\n  student.sampling.temperature: 0.8 there, 0.5 now\n"
        "use --overwrite or another --output"
    )
    assert fail("seed=6", "student.sampling.temperature=0.5") == (ERROR, wanted)
    assert records(run) == before


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "default: configs/demo.yaml" in text
    assert "cooperation.max_think_tokens (preset: paper)" in text
