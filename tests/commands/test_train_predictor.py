"""`python -m tessy_jax.train_predictor` from end to end on a tiny model."""

import atexit
import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.numpy import load_file

from tessy_jax import models
from tessy_jax.config.schema import load_as
from tessy_jax.config.sections import MeshConfig
from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.predictors.checkpoint import Checkpoint
from tessy_jax.train import trainer
from tessy_jax.train.classifier import Classifier
from tessy_jax.train.data.predictor_data import PredictorData
from tessy_jax.train.patience import Patience
from tessy_jax.train_predictor import main
from tests.kit import ROOT
from tests.kit.run_predictor import write_predictor
from tests.kit.run_sft import difference, kill_often
from tests.kit.run_sft import metrics as numbers


@cache
def config() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="predictor-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_predictor(folder)


@cache
def whole() -> Path:
    """The run directory of an undisturbed run."""
    run = config().parent / "whole"
    assert main([str(config()), "--output", str(run)]) == 0
    return run


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_keeps_the_best(capsys: Any) -> None:
    run = whole()
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "export", "report.html", "report.json", "run.log"} < names
    f1 = {row["step"]: row["held_out"]["style"]["f1"] for row in metrics(run) if "held_out" in row}
    assert list(f1) == [0, 10, 20, 30, 40]
    report = json.loads((run / "report.json").read_text())
    best = max((f1[step], -step) for step in f1 if step)
    assert report["about"]["step"] == -best[1]
    assert report["scores"]["style"]["f1"]["value"] == pytest.approx(best[0], abs=1e-3)
    assert best[0] > 0.8
    assert report["baseline"]["f1_gain"]["low"] > 0
    assert report["responses"] == 2 * 5
    capsys.readouterr()
    assert main([str(config()), "--output", str(run)]) == 0
    assert "nothing left to do" in capsys.readouterr().err


def test_export_is_a_predictor_for_all() -> None:
    """transformers gives the same logits, and so does the loop's own kind `checkpoint`."""
    folder = whole() / "export"
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert theirs.config.id2label == {0: "capability", 1: "style"}
    ids = np.arange(40).reshape(2, 20)
    with torch.no_grad():
        logits = theirs(torch.tensor(ids)).logits
    ours = models.load(folder)
    positions = np.broadcast_to(np.arange(20), (2, 20))
    hidden, _ = ours(ids, positions, models.Packed(np.ones((2, 20), np.int32), ours.config.masks))
    np.testing.assert_allclose(ours.scores(hidden), logits.numpy(), atol=1e-5)
    predictor = Checkpoint.load(folder, threshold=0.5, shift=1, block=128, mesh=None)
    p = predictor.window(predictor.params, jnp.asarray(ids), jnp.asarray(positions))
    np.testing.assert_allclose(p, logits.softmax(-1)[..., 1].numpy(), atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("so the sum").input_ids == predictor.tokenizer.encode(b"so the sum")[0]


def test_stopped_runs_go_on(tmp_path: Path, monkeypatch: Any) -> None:
    """Stopped at a step by the user, and resumed: bit-equal weights and the same numbers."""
    run = tmp_path / "run"

    class Asked:
        asked = False

        def __init__(self, *_: object): ...
        def __enter__(self) -> "Asked":
            return self

        def __exit__(self, *_: object) -> None: ...

    class At17(Asked):
        seen = 0

        @property
        def asked(self) -> bool:
            At17.seen += 1
            return At17.seen >= 17

    monkeypatch.setattr("tessy_jax.train.run.Interrupt", At17)
    assert main([str(config()), "--output", str(run)]) == 130
    assert not (run / "export").exists()
    monkeypatch.setattr("tessy_jax.train.run.Interrupt", Asked)
    assert main([str(config()), "--output", str(run)]) == 0
    ours, wanted = (load_file(path / "export/model.safetensors") for path in (run, whole()))
    for name, value in wanted.items():
        np.testing.assert_array_equal(ours[name], value)
    data = [[row["data"] for row in metrics(path) if "data" in row] for path in (run, whole())]
    assert data[0] == data[1]
    reports = [json.loads((path / "report.json").read_text()) for path in (run, whole())]
    assert reports[0]["scores"] == reports[1]["scores"]


def test_killed_processes(tmp_path: Path) -> None:
    """Killed (SIGKILL) at random steps, in processes of their own: bit-equal weights, the same numbers and report."""
    run = tmp_path / "run"
    seen = kill_often(config(), run, 2, random.Random(3), name="train_predictor")
    assert len(seen) == 2
    assert numbers(run) == numbers(whole())
    assert difference(run, whole()) == 0
    reports = [json.loads((path / "report.json").read_text()) for path in (run, whole())]
    assert reports[0]["scores"] == reports[1]["scores"]


def test_patience(tmp_path: Path) -> None:
    patience = Patience(2)
    for step, f1, over in [(0, 0.9, False), (5, 0.3, False), (10, 0.5, False), (15, 0.5, False), (20, 0.4, True)]:
        patience.take(step, f1)
        assert patience.over == over
    rows = [{"step": s, "held_out": {"style": {"f1": f}}} for s, f in [(0, 0.9), (5, 0.3), (10, 0.2), (15, 0.1)]]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not Patience.resumed(2, tmp_path / "m.jsonl", 10).over
    assert Patience.resumed(2, tmp_path / "m.jsonl", 15).over
    assert not Patience.resumed(None, tmp_path / "m.jsonl", 15).over


def test_early_stopping_ends_the_run(tmp_path: Path, capsys: Any) -> None:
    """With a learning rate that changes nothing F1 never rises: three evaluations, and it is over for good."""
    arguments = [str(config()), "--output", str(tmp_path / "run"), "optimizer.lr=1e-12", "patience=2"]
    arguments += ["checkpoint.every=2"]
    assert main(arguments) == 0
    assert [row["step"] for row in metrics(tmp_path / "run") if "held_out" in row] == [0, 2, 4, 6]
    assert "F1 no longer rose" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "nothing left to do" in capsys.readouterr().err


def test_dry_run_and_wrong_input(tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    assert main([str(config()), "--dry-run", "--output", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "96 segments of 24 prompts; labels: style" in shown
    assert "76 segments to train on and 20 held out (5 prompts); 40 steps of" in shown
    table = shown.partition("memory of the host, GiB")[2].splitlines()[1:]
    step = ["weights", "moments", "batch", "temporaries of a step"]
    assert [line[:28].strip() for line in table] == [*step, "this process", "checkpoint being written", "sum"]
    assert main([str(config()), "data.train=/nowhere", "--output", str(run)]) == 2
    assert "data.train: there is no file or folder '/nowhere'" in capsys.readouterr().err
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": 3}\n')
    assert main([str(config()), f"data.train={bad}", "--output", str(run)]) == 1
    assert "no field 'id': not a line of annotate" in capsys.readouterr().err
    assert not run.exists()
    assert main([str(config()), "optimizer.lr=1e-4", "--output", str(whole())]) == 1
    assert "optimizer.lr: 0.005 there, 0.0001 now" in capsys.readouterr().err


def test_memory_holds_weights_and_moments() -> None:
    classifier = Classifier.open(load_as(TrainPredictorConfig, config()))
    plan = PredictorData.open(classifier.config, classifier.tokenizer).train.plan
    device, host = classifier.memory(None, plan)
    weights = 4 * models.parameter_count(classifier.model)
    batch = plan.rows * plan.length * (4 * 4 + 1 + 4)
    assert device["weights"] == weights
    assert 2 * weights <= device["moments"] < 2 * weights + 100  # and counts of steps
    assert batch <= device["batch"] < 1.1 * (3 * weights + batch) - 3 * weights
    activations = plan.rows // 2 * plan.length * classifier.model.hidden_size * 4
    assert device["temporaries of a step"] > activations
    assert host.items() > device.items()  # the device is this machine's processor
    assert host["checkpoint being written"] == device["weights"] + device["moments"]
    assert host["this process"] > 2**26
    sharded = classifier.memory(make_mesh(MeshConfig(fsdp=2), 2), plan)
    assert device["moments"] / 2 <= sharded.device["moments"] < device["moments"] * 0.6
    assert sharded.host["moments"] == 2 * sharded.device["moments"]


def test_preset_is_the_papers() -> None:
    folder = ROOT / "configs"
    paper = load_as(TrainPredictorConfig, folder / "predictor.yaml")
    assert (paper.batch, paper.optimizer.lr, paper.epochs, paper.shift, paper.data.length) == (32, 1e-5, 3, 1, 512)
    assert (paper.optimizer.schedule, paper.optimizer.warmup, paper.optimizer.clip) == ("constant", 0.0, None)
    assert yaml.safe_load((folder / "predictor.yaml").read_text())["model"] == "Qwen/Qwen3-0.6B-Base"


def test_out_of_memory(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    reason = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
    monkeypatch.setattr(trainer, "place", Mock(side_effect=jax.errors.JaxRuntimeError(reason)))
    assert main([str(config()), "--output", str(tmp_path / "run")]) == 1
    wanted = f"error: a device has too little memory ({reason}). Raise accumulate or mesh.fsdp"
    assert wanted in capsys.readouterr().err


def test_a_run_killed_after_its_last_step_is_finished(tmp_path: Path, capsys: Any) -> None:
    run = shutil.copytree(whole(), tmp_path / "run")
    shutil.rmtree(run / "export")
    for name in ("report.html", "curves.png"):
        (run / name).unlink()
    capsys.readouterr()
    assert main([str(config()), "--output", str(run)]) == 0
    assert "compiling for" not in capsys.readouterr().err
    assert (run / "curves.png").exists()
    assert numbers(run) == numbers(whole())
    assert difference(run, whole()) == 0
    ours, wanted = (json.loads((path / "report.json").read_text()) for path in (run, whole()))
    assert ours["scores"] == wanted["scores"]
