"""What an earlier version left on the disk is taken up where it was. `tests/fixtures/README.md` says what it wrote."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tessy_jax import annotate, models, sample, sft, synthesize, train_predictor
from tessy_jax.config.annotate import AnnotateConfig
from tessy_jax.config.sample import SampleConfig
from tessy_jax.config.schema import load_as, to_yaml
from tessy_jax.config.sft import SftConfig
from tessy_jax.config.synthesize import SynthesisConfig
from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.predictors.probe import Probe
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.train.classifier import Classifier
from tessy_jax.train.student import Student
from tests.kit import ROOT
from tests.kit.run_sft import TIMES

EARLIER = ROOT / "tests/fixtures/e426b1e"
ROUNDING = 2e-6
"""Largest difference of a trained weight. On one machine, with one build of XLA, the weights are the same bits; another
processor adds in another order. Two runs on different meshes are held to the same (see `test_sft_resume`), and a step
that is left out or done twice changes a weight by some 1e-4.
"""
OTHER_PROCESSOR = 1e-5
"""Largest relative difference of a loss or a gradient's norm, for the same reason: the fixture is of one processor, and
on another of the same maker two of 640 numbers, norms of the last steps, were 4e-6 away (weights 2e-7). From a step to
the next they change by a tenth and more.
"""


@pytest.fixture
def unpack(tmp_path, monkeypatch):
    """unpack("sft") is the folder of that command, which is now the current one; the models lie beside it."""

    def at(name: str) -> Path:
        for one in ("models", "probe", name):
            with zipfile.ZipFile(EARLIER / f"{one}.zip") as archive:
                archive.extractall(tmp_path)
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return at


@pytest.mark.parametrize(
    ("schema", "file", "run", "overrides"),
    [
        (SynthesisConfig, "synthesize/pair.yaml", "run", []),
        (SynthesisConfig, "synthesize/released.yaml", "released", []),
        (SampleConfig, "synthesize/sample.yaml", "sampled", []),
        (AnnotateConfig, "annotate/annotate.yaml", "run", ["limit=3"]),
        (SftConfig, "sft/sft.yaml", "run", []),
        (TrainPredictorConfig, "train_predictor/predictor.yaml", "run", []),
    ],
)
def test_resolved_configurations_have_the_same_bytes(unpack, schema, file, run, overrides):
    folder = unpack(Path(file).parent.name)
    resolved = to_yaml(load_as(schema, Path(file).name, overrides))
    assert resolved == (folder / run / "config.yaml").read_text("utf-8")


def lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True)


def goes_on(folder: Path, command, config: str, code: int, *overrides: str) -> None:
    """The command finishes its run, and the records are those of an undisturbed run of the earlier version."""
    data = folder / "run/data/part-00000-of-00001.jsonl"
    before, config_yaml, manifest = (
        file.read_bytes() for file in (data, folder / "run/config.yaml", folder / "run/manifest.json")
    )
    assert before
    assert command.main([config, *overrides]) == code
    after, expected = data.read_bytes(), lines(folder / "expected.jsonl")
    assert after.startswith(before)
    assert len(after) > len(before)
    assert sorted(lines(data)) == expected
    assert (folder / "run/config.yaml").read_bytes() == config_yaml
    assert (folder / "run/manifest.json").read_bytes() == manifest


def test_rows_in_flight_of_synthesize(unpack, capsys):
    """A probe judges the student, a checkpoint the teacher; three rows were in the middle of their thinking. Turns of k
    drop as many tokens as they did.
    """
    folder = unpack("synthesize")
    flying = [json.loads(line) for line in lines(folder / "run/journal/rows-00000-of-00001.jsonl")]
    assert len(flying) == 3
    assert any(row["spans"] for row in flying)
    rejects = (folder / "run/rejects.jsonl").read_bytes()
    goes_on(folder, synthesize, "pair.yaml", 3, "schedule=rollback")  # a row of the input has no prompt
    assert "7 rows done, 1 rejected, 0 left" in capsys.readouterr().err
    assert (folder / "run/rejects.jsonl").read_bytes() == rejects


@pytest.mark.parametrize(("command", "config"), [(synthesize, "released.yaml"), (sample, "sample.yaml")])
def test_finished_runs_of_synthesize_and_sample(unpack, capsys, command, config):
    """Of the preset `released_code` with a table of words, and of one model alone: their identities are the same."""
    unpack("synthesize")
    assert command.main([config]) == 0
    assert "nothing left to do" in capsys.readouterr().err


def test_a_released_run_that_is_not_finished(unpack, capsys):
    """The preset has other rules now, and records of both would be mixed. Nothing of the run is changed."""
    folder = unpack("synthesize") / "released"
    data = folder / "data/part-00000-of-00001.jsonl"
    data.write_bytes(lines(data)[0])
    before = {file: file.read_bytes() for file in folder.rglob("*.json*")}
    assert synthesize.main(["released.yaml"]) == 1
    message = capsys.readouterr().err
    assert (
        "released holds the beginning of a run by an earlier version, in which this preset had other rules" in message
    )
    assert "use --overwrite or another --output" in message
    assert {file: file.read_bytes() for file in folder.rglob("*.json*")} == before


def test_the_first_responses_of_annotate(unpack):
    goes_on(unpack("annotate"), annotate, "annotate.yaml", 0)


def test_predictions_of_a_probe(unpack):
    folder = unpack("probe")
    student = folder.parent / "models/student"
    probe = Probe.load(folder, ContentTokenizer.load(student), models.read_config(student))
    expected = load_file(folder / "expected.safetensors")
    style = probe.style(probe.params, jnp.asarray(expected["hidden"]), jnp.asarray(expected["tokens"]))
    np.testing.assert_allclose(style, expected["style"], rtol=1e-6)
    assert (probe.layer, probe.threshold) == (0, 0.55)


@pytest.mark.parametrize(
    ("name", "command", "config"),
    [
        ("sft", sft, "sft.yaml"),
        ("train_predictor", train_predictor, "predictor.yaml"),
    ],
)
def test_checkpoints_of_trainings(unpack, capsys, name, command, config):
    """They go on after step 21 of 40, and end with the weights of an undisturbed run of the earlier version, whose
    rules they keep: a run of today has others in its identity.
    """
    folder = unpack(name)
    learner = {"sft": (Student, SftConfig), "train_predictor": (Classifier, TrainPredictorConfig)}[name]
    today = learner[0].open(load_as(learner[1], config, []))
    earlier = replace(today, rules=1)
    assert (today.identity()["rules"], today.optimizer(40).warmup_from) == (2, 1)
    assert ("rules" in earlier.identity(), earlier.optimizer(40).warmup_from) == (False, 0)
    before = lines(folder / "run/metrics.jsonl")
    assert command.main([config]) == 0
    assert "going on after step 21 of 40" in capsys.readouterr().err
    after, expected = lines(folder / "run/metrics.jsonl"), lines(folder / "expected_metrics.jsonl")
    assert after[: len(before)] == before
    found, wanted = numbers(after), numbers(expected)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        near = pytest.approx(value, rel=OTHER_PROCESSOR) if isinstance(value, float) else value
        assert found[key] == near, key
    trained, weights = load_file(folder / "run/export/model.safetensors"), load_file(folder / "expected.safetensors")
    assert trained.keys() == weights.keys()
    for weight, value in weights.items():
        np.testing.assert_allclose(trained[weight], value, rtol=0, atol=ROUNDING, err_msg=weight)


def numbers(rows: list[bytes]) -> dict[str, object]:
    """All numbers and names of a file of metrics but times: {"3.held_out.loss": 6.5, "3.data": "1f…", …}."""
    found: dict[str, object] = {}

    def add(value: object, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key not in TIMES:
                    add(inner, f"{name}.{key}")
        else:
            found[name] = value

    for index, row in enumerate(rows):
        add(json.loads(row), str(index))
    return found
