"""`sft` with benchmarks: the numbers are those of `evaluate`, and the training is that of a run without."""

import atexit
import json
import re
import shutil
import tempfile
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml

from tessy_jax import evaluate, sft
from tessy_jax.data.hashing import hash_folder
from tessy_jax.errors import UserError
from tessy_jax.evals import generation
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import as_path
from tessy_jax.storage.store import Store
from tessy_jax.train import evaluations
from tests.commands.test_sft import files
from tests.kit.run_sft import difference, metrics, student

ANSWER = "<think>\nso\n</think>\n\n\\boxed{7}"
ENGINE = {"batch": 4, "context": 256, "prompt_buckets": [128], "chunk": 8, "turns_per_dispatch": 4, "dtype": "float32"}


@cache
def config() -> Path:
    """A student that learns to answer everything with 7, and problems of which half have that answer."""
    root = Path(tempfile.mkdtemp(prefix="sft-evaluations-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    data = []
    for n in range(24):
        messages = [{"role": "user", "content": f"What is {n} + 0?"}, {"role": "assistant", "content": ANSWER}]
        data.append({"id": f"p{n}", "messages": messages})
    problems = [{"id": f"b{n}", "prompt": f"What is {n} + 0?", "answer": str(7 if n % 2 else n)} for n in range(6)]
    for name, rows in (("data", data), ("problems", problems)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    budgets = {"max_think_tokens": 12, "max_answer_tokens": 12}
    values = yaml.safe_load(student().read_text()) | {
        "data": {"train": str(root / "data.jsonl"), "held_out": 0.1, "length": 64},
        "batch": {"rows": 4},
        "epochs": 2,
        "max_steps": None,
        "optimizer": {"lr": 0.03, "warmup": 0.1},
        "checkpoint": {"every": 4, "keep": 2},
        "evaluate": {
            "model": {"budgets": budgets, "engine": ENGINE},
            "benchmarks": [{"name": "jsonl", "path": str(root / "problems.jsonl"), "runs": 2}],
            "judge": {"workers": 1},
        },
        "output": str(root / "whole"),
    }
    file = root / "sft.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def call(*arguments: object) -> int:
    return sft.main([str(config()), *map(str, arguments)])


@cache
def whole() -> Path:
    """The run directory of an undisturbed run, which keeps the students."""
    assert call("evaluate.keep_exports=true") == 0
    return config().parent / "whole"


def results(run: Path) -> dict[int, dict[str, Any]]:
    return {row["step"]: row["benchmarks"]["problems"] for row in metrics(run) if "benchmarks" in row}


def responses(evaluation: Path) -> list[dict[str, Any]]:
    lines = (evaluation / "problems/responses/data/part-00000-of-00001.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda row: (row["problem_id"], row["sample_index"]))


def test_accuracy_by_epoch():
    found = results(whole())
    assert list(found) == [0, 6, 12]
    assert [row["epochs"] for row in metrics(whole()) if "benchmarks" in row] == [0, 1, 2]
    assert found[0]["accuracy"] == 0
    assert found[12]["accuracy"] > 0
    assert found[12]["standard_error"] > 0
    assert (found[12]["problems"], found[12]["runs"]) == (6, 2)
    assert (whole() / "curves.png").read_bytes().startswith(b"\x89PNG")
    log = (whole() / "run.log").read_text()
    last = re.escape(f"{found[12]['accuracy']:.2f} ± {found[12]['standard_error']:.2f}")
    assert re.search(rf"     2    12 +{last}\n", log)


def test_the_numbers_are_those_of_evaluate(tmp_path):
    """The same responses and scores of the exported student; and each was evaluated as it is exported at the end."""
    during = whole() / "evaluations/step-000012"
    changes = [f"model.model={whole() / 'export'}", f"output={tmp_path}"]
    assert evaluate.main([str(during / "config.yaml"), *changes]) == 0
    assert responses(tmp_path) == responses(during)
    ours, theirs = (json.loads((folder / "report.json").read_text())["results"][0] for folder in (tmp_path, during))
    assert ours["scores"] == theirs["scores"]
    assert ours["scores"]["score"]["value"] == results(whole())[12]["accuracy"]
    assert files(whole() / "exports/step-000012") == files(whole() / "export")
    manifests = [
        json.loads((whole() / f"evaluations/step-{step:06d}/problems/responses/manifest.json").read_text())
        for step in (0, 6, 12)
    ]
    models = [manifest["identity"]["source"]["model"] for manifest in manifests]
    places = (student().parent / "student", whole() / "exports/step-000006", whole() / "export")
    assert models == [hash_folder(place) for place in places]


def test_training_is_that_of_a_run_without(tmp_path):
    assert call("evaluate=null", "--output", tmp_path / "run") == 0
    assert difference(tmp_path / "run", whole()) == 0
    assert metrics(tmp_path / "run") == [row for row in metrics(whole()) if "benchmarks" not in row]
    assert "\nevaluate:" not in (tmp_path / "run/config.yaml").read_text()


def test_failed_then_interrupted(tmp_path, monkeypatch, capsys, interrupt):
    """An evaluation fails and the training goes on; in the next the user stops the run; the same command does both."""
    run, stages, view, there = tmp_path / "run", evaluations.run_stages, generation.View, whole()
    failing, signals = ["step-000006"], []

    def run_stages(config, console):
        name = config.output.name
        if name in failing:
            raise UserError("the sandbox has gone")
        if name != "step-000012":  # a test that is shorter: these responses are there already
            shutil.copytree(there / "evaluations" / name / "problems", config.output / "problems")
        return stages(config, console)

    class Stopping(view):
        def update(self):
            super().update()
            if not signals:
                signals.append(interrupt())

    monkeypatch.setattr(evaluations, "run_stages", run_stages)
    monkeypatch.setattr(generation, "View", Stopping)
    assert call("--output", run) == 130
    shown = capsys.readouterr().err
    assert "error: the sandbox has gone" in shown
    assert "stopped after step 12 of 12" in shown
    assert list(results(run)) == [0]
    assert not (run / "export").exists()

    failing.clear()
    assert call("--output", run) == 0
    shown = capsys.readouterr().err
    assert "evaluating the student after step 0" not in shown
    assert results(run) == results(whole())
    assert [responses(run / f"evaluations/step-{step:06d}") for step in (0, 6, 12)] == [
        responses(whole() / f"evaluations/step-{step:06d}") for step in (0, 6, 12)
    ]
    assert difference(run, whole()) == 0
    assert not (run / "exports").exists()

    before = files(run)
    lines = before["metrics.jsonl"].splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:-1]))  # killed before this line was written
    shutil.rmtree(run / "export")
    capsys.readouterr()
    assert call("--output", run) == 0
    assert "generate:" not in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]

    monkeypatch.undo()
    assert call("--output", run, "evaluate.model.budgets.max_think_tokens=11") == 1
    shown = capsys.readouterr().err
    assert f"to evaluate anew, remove {run}/evaluations/step-000000: --overwrite would begin the training anew" in shown


def test_a_run_on_a_store(monkeypatch, capsys):
    """An evaluation fails; its student waits on the store, and the same command evaluates it."""
    run, stages, there = f"memory://runs/{uuid.uuid4().hex}", evaluations.run_stages, whole()
    failing = ["step-000006"]

    def run_stages(config, console):
        name = config.output.name
        if name in failing:
            raise UserError("the sandbox has gone")
        shutil.copytree(there / "evaluations" / name / "problems", config.output / "problems")
        return stages(config, console)

    monkeypatch.setattr(evaluations, "run_stages", run_stages)
    assert call("--output", run) == 1
    assert "error: evaluations failed, after steps 6; the same command does them again" in capsys.readouterr().err
    objects = Store.open(as_path(run))
    assert {name for name in objects.list() if name.startswith("exports/")} == {
        f"exports/step-000006/{name}" for name in files(there / "exports/step-000006")
    }
    failing.clear()
    assert call("--output", run) == 0
    assert "evaluating the student after step 6" in capsys.readouterr().err
    copy = local(run)
    assert results(copy) == results(there)
    for step in (0, 6, 12):
        assert responses(copy / f"evaluations/step-{step:06d}") == responses(there / f"evaluations/step-{step:06d}")
    assert files(local(f"{run}/export")) == files(there / "export")
    assert not [name for name in objects.list() if name.startswith("exports/")]


def test_dry_run(tmp_path, capsys):
    assert call("--dry-run", "--output", tmp_path / "run", "evaluate.every=5") == 0
    shown = capsys.readouterr().out
    assert "4 evaluations, after steps 0, 5, 10, 12, of 12 responses: 48 in all, at most 24 tokens each" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("evaluate.every=week", "'evaluate.every' in override 'evaluate.every=week' should be epoch, or a number of"),
        ("evaluate.judges.workers=1", "did you mean 'evaluate.judge.workers'?"),
        ("evaluate.model.model=x", "unknown key 'evaluate.model.model'"),
        ("evaluate.benchmarks=[{name: jsonl, path: absent.jsonl}]", "absent.jsonl"),
    ],
)
def test_what_is_wrong_is_said_before_the_training(tmp_path, capsys, change, words):
    assert call("--output", tmp_path / "run", change) in (1, 2)
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert call("--output", tmp_path / "run", "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2") == 2
    assert "evaluate: a run of several processes evaluates nothing while it trains" in capsys.readouterr().err


def test_prompts_are_those_of_the_training_unless_named(tmp_path):
    from tessy_jax.config.schema import load_as, to_yaml
    from tessy_jax.config.sft import SftConfig

    loaded = load_as(SftConfig, config(), ["prompt.system=Short.", "evaluate.model.thinking=null"])
    assert loaded.evaluate.model.prompt.system == "Short."
    assert loaded.evaluate.model.thinking is None
    (tmp_path / "again.yaml").write_text(to_yaml(loaded))
    assert load_as(SftConfig, tmp_path / "again.yaml") == loaded
