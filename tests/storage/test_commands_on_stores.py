"""Commands with input, models and output on S3's protocol: the same records and numbers as on a disk."""

import uuid
from unittest.mock import Mock

import jax
import numpy as np
import pytest
from flax import nnx

from tessy_jax import merge, models, sft, status, synthesize
from tessy_jax.data.hashing import hash_folder
from tessy_jax.models.hub import model_folder
from tessy_jax.storage import store
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import as_path
from tessy_jax.storage.store import Store
from tests.kit import run_sft
from tests.kit.run_synthesize import call, pair, records, whole
from tests.kit.stores import BUCKET, upload
from tests.kit.tiny import gpt_oss_mxfp4, qwen3


@pytest.fixture
def place(server):
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def test_synthesize_merge_status(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = pair().parent
    problems = upload(root / "student", f"{place}/student") and f"{place}/in/problems.jsonl"
    Store.open(as_path(f"{place}/in")).write("problems.jsonl", (root / "problems.jsonl").read_bytes())
    Store.open(as_path(f"{place}/in")).write("table.json", (root / "table.json").read_bytes())
    table = f"predictors.student.table={place}/in/table.json"
    named = ("--input", problems, f"student.model={place}/student", table)

    run = f"{place}/run"
    assert call("--output", run, "samples=2", *named, "limit=4") == 0
    assert call("--output", run, "samples=2", *named) == 0
    assert records(local(run)) == whole()
    said = capsys.readouterr().err
    assert f"records in {run}/data" in said
    assert call("--output", run, "samples=2", *named) == 0
    assert "nothing left to do" in capsys.readouterr().err

    assert status.main([run]) == 0
    told = capsys.readouterr().out
    assert run in told
    assert f"records      {len(whole())}" in told
    assert "not running; last written" in told

    assert merge.main([run, "--output", f"{place}/merged"]) == 0
    assert records(local(f"{place}/merged")) == whole()
    assert not list(tmp_path.iterdir())  # no folder called s3:


def test_sft_reads_model_and_data(place, capsys):
    """Its dry run shows rows, tokens and losses' parts; all of it is the same."""
    file = run_sft.student()
    for name in ("student", "traces"):
        upload(file.parent / name, f"{place}/{name}")
    shown = []
    for named in ([], [f"model={place}/student", f"data.train={place}/traces"]):
        assert sft.main([str(file), "--dry-run", *named]) == 0
        shown.append(capsys.readouterr().out.replace(place, str(file.parent)))
    assert shown[0] == shown[1] != ""


def test_a_store_that_refuses_is_said_before_models_are_loaded(place, capsys, monkeypatch):
    monkeypatch.setattr("tessy_jax.engine.pair.Pair.load", lambda *_: pytest.fail("loaded"))
    absent = place.replace(BUCKET, "absent")
    assert synthesize.main([str(pair()), "--output", f"{absent}/run"]) == 1
    assert f"cannot list {absent}/run: there is no bucket 'absent'" in _one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (sft, ["configs/sft.yaml", "output=ftp://b/run"], "there is no storage of this kind; known: s3://, gs://"),
        (synthesize, ["output=ftp://b/run"], "there is no storage of this kind; known: s3://, gs://, memory://"),
        (synthesize, ["engine.compilation_cache=gs://b/c"], "takes no URL yet"),
        (merge, ["a", "--output", "s3://"], "s3:// names no bucket"),
    ],
)
def test_urls_that_are_refused(command, arguments, said, capsys):
    assert command.main(arguments) in (1, 2)
    assert said in _one_line(capsys.readouterr().err)


def _one_line(text):
    return " ".join(text.split())


@pytest.mark.parametrize(("make", "int8"), [(qwen3, False), (qwen3, True), (gpt_oss_mxfp4, False)])
def test_weights_stay_on_the_store(make, int8, place, tmp_path, monkeypatch):
    """Each shard's rows are read from the object: the local file that stands for it is empty."""
    for module in ("tessy_jax.storage.far", "tessy_jax.data.hashing"):
        monkeypatch.setattr(f"{module}.SAMPLE", 16)
    monkeypatch.setattr("tessy_jax.models.hub._SMALL", 0)
    monkeypatch.setattr("tessy_jax.models.weights._SMALL", 0)
    make(tmp_path / "model", vocab_size=96)
    folder = model_folder(upload(tmp_path / "model", f"{place}/model"), "student.model")
    assert hash_folder(folder) == hash_folder(tmp_path / "model")
    header = int.from_bytes((tmp_path / "model/model.safetensors").read_bytes()[:8], "little")
    weights = [
        np.frombuffer((one / "model.safetensors").read_bytes()[8 + header :], np.uint8)
        for one in (folder, tmp_path / "model")
    ]
    assert np.count_nonzero(weights[0]) <= 16 * 16 < np.count_nonzero(weights[1])

    mesh = jax.make_mesh((2,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))
    read = Mock(wraps=store.Store.read_range)
    monkeypatch.setattr(store.Store, "read_range", lambda *args: read(*args))
    far = models.load(folder, mesh=mesh, int8=int8)
    taken, size = (
        sum(call.args[3] for call in read.call_args_list),
        (tmp_path / "model/model.safetensors").stat().st_size,
    )
    # Nothing twice, but for values in 8 bits and their scales, which are made of the same rows.
    assert taken <= (2.1 if int8 else 1.02) * size
    near = models.load(tmp_path / "model", mesh=mesh, int8=int8)
    for ours, theirs in zip(*(jax.tree.leaves(nnx.state(model)) for model in (far, near)), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
