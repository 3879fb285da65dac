"""A probe, a predictor and a word table that lie on a store: trained there, and used by synthesize."""

import json
import uuid

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from tessy_jax import synthesize, train_predictor, train_probe
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import as_path
from tessy_jax.storage.store import Store
from tests.kit.run_predictor import write_annotated, write_model, write_predictor
from tests.kit.stores import BUCKET, served

SYNTHESIS = {
    "cooperation": {"preset": "paper", "k": 4, "max_think_tokens": 24, "max_answer_tokens": 8},
    "engine": {
        "batch": 2,
        "context": 256,
        "prompt_buckets": [32],
        "chunk": 8,
        "turns_per_dispatch": 4,
        "dtype": "float32",
    },
    "seed": 5,
}


@pytest.fixture(scope="module")
def place():
    with served():
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"


def arrays(folder):
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys() != set()
    for file, values in theirs.items():
        for name, value in values.items():
            np.testing.assert_array_equal(ours[file][name], value)


def test_trained_and_used(place, tmp_path, capsys):
    """On the store they are what they are on a disk, and synthesize writes the same records with them."""
    config = write_predictor(tmp_path)
    Store.open(as_path(place)).write("words.json", (tmp_path / "words.json").read_bytes())
    words = f"baseline={place}/words.json"
    assert train_predictor.main([str(config), "max_steps=10", "--output", str(tmp_path / "predictor")]) == 0
    assert train_predictor.main([str(config), "max_steps=10", words, "--output", f"{place}/predictor"]) == 0
    assert_equal(arrays(local(f"{place}/predictor/export")), arrays(tmp_path / "predictor/export"))
    assert train_predictor.main([str(config), "max_steps=10", words, "--output", f"{place}/predictor"]) == 0
    assert f"nothing left to do: the predictor is in {place}/predictor/export" in capsys.readouterr().err
    theirs = json.loads((tmp_path / "predictor/report.json").read_text())
    assert json.loads((local(f"{place}/predictor") / "report.json").read_text())["scores"] == theirs["scores"]

    writer = write_model(tmp_path / "writer", "llama", num_hidden_layers=2)
    responses, annotated = write_annotated(tmp_path / "more", prompts=12)
    probe = {
        "writer": {"model": str(writer)},
        "data": {"annotated": str(annotated), "responses": str(responses), "length": 256},
        "baseline": str(tmp_path / "words.json"),
        "dtype": "float32",
        "output": str(tmp_path / "probe"),
    }
    (tmp_path / "probe.yaml").write_text(yaml.safe_dump(probe), "utf-8")
    assert train_probe.main([str(tmp_path / "probe.yaml")]) == 0
    assert train_probe.main([str(tmp_path / "probe.yaml"), words, "--output", f"{place}/probe"]) == 0
    assert f"the probe is in {place}/probe" in capsys.readouterr().err
    assert_equal(arrays(local(f"{place}/probe")), arrays(tmp_path / "probe"))

    rows = [{"id": f"p{n}", "question": question} for n, question in enumerate(("What is 2 + 3?", "Hi"))]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = []
    for folder in (str(tmp_path), place):
        values = SYNTHESIS | {
            "student": {"model": str(writer)},
            "teacher": {"model": str(writer)},
            "predictors": {
                "student": {"kind": "probe", "model": f"{folder}/probe"},
                "teacher": {"kind": "checkpoint", "model": f"{folder}/predictor/export", "block": 16},
            },
            "input": str(tmp_path / "problems.jsonl"),
            "output": f"{folder}/run-of-both",
        }
        (tmp_path / "pair.yaml").write_text(yaml.safe_dump(values), "utf-8")
        assert synthesize.main([str(tmp_path / "pair.yaml")]) == 0
        data = local(f"{folder}/run-of-both") / "data/part-00000-of-00001.jsonl"
        written.append(sorted(data.read_text().splitlines()))
    assert written[0] == written[1]
    assert len(written[0]) == len(rows)
