"""Trainings whose run directory is on a store: the weights and numbers of the same run on a disk."""

import json
import os
import random
import signal
import uuid

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file

from tessy_jax.storage.commits import newest_commits
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import as_path
from tessy_jax.storage.store import Store
from tessy_jax.train import stored_arrays
from tessy_jax.train.stored_arrays import Listed, StoredArrays
from tests.kit import process, slurm
from tests.kit.run_sft import call, difference, metrics, student, whole
from tests.kit.stores import BUCKET, kills


@pytest.fixture
def s3(server):
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "s3"])
def place(request, server):
    bucket = BUCKET if request.param == "s3" else "memory"
    return f"{request.param}://{bucket}/{uuid.uuid4().hex}"


def compared(place):
    """The run's files as a folder of this machine: with the export, which a copy of a run leaves where it is."""
    run, export = local(place), local(f"{place}/export")
    for file in export.iterdir():
        (run / "export" / file.name).write_bytes(file.read_bytes())
    return run


def unnamed(place):
    """Objects of a run that its last commit does not name."""
    store = Store.open(as_path(place))
    (commit,) = newest_commits(store).values()
    assert commit.pieces() <= store.list().keys()
    return {n for n in store.list() if "journal/" not in n} - commit.pieces() - {"manifest.json", "config.yaml"}


def test_sft(place, capsys):
    """Its export and numbers; a second start finds nothing to do; another checkpoint replaces the export."""
    run = f"{place}/run"
    assert call("--output", run) == 0
    said = capsys.readouterr().err
    assert f"the student after step 14 is in {run}/export" in said
    ours = compared(run)
    assert difference(ours, whole()) == 0
    assert metrics(ours) == metrics(whole())
    assert {file.name for file in (ours / "export").iterdir()} == {file.name for file in (whole() / "export").iterdir()}
    assert sorted(file.name for file in (ours / "checkpoints").iterdir()) == ["12", "14"]
    assert (ours / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not unnamed(run)

    assert call("--output", run) == 0
    assert f"all 14 steps are done, the trained student is in {run}/export" in capsys.readouterr().err
    assert call("--output", run, "seed=6") == 1
    assert f"{run} holds a different run" in " ".join(capsys.readouterr().err.split())

    assert call("--output", run, "--export-only", "12") == 0
    earlier = load_file(local(f"{run}/export") / "model.safetensors")
    theirs = load_file(whole() / "export/model.safetensors")
    assert max(np.abs(earlier[name] - theirs[name]).max() for name in theirs) > 0
    assert not unnamed(run)


def test_killed_at_any_request(server, s3):
    """Processes are killed as a request comes in, or when it is done and they have not heard of it; then one ends."""
    rng, killed, run = random.Random(1), 0, s3
    while killed < kills(4):
        training = process.start("-m", "tessy_jax.sft", student(), "--output", run)
        fuse = server.requests + rng.randrange(5, 70)
        with server.killing(training.pid, at=lambda number, _, fuse=fuse: number == fuse, late=killed % 2 == 0):
            _, messages = training.communicate(timeout=200)
        assert training.returncode in (0, -signal.SIGKILL), messages
        if training.returncode == 0:  # it has come to its end: once more, elsewhere
            same_training(run)
            run = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        killed += training.returncode != 0
    assert call("--output", run) == 0
    same_training(run)


def same_training(place):
    run = compared(place)
    assert metrics(run) == metrics(whole())
    assert difference(run, whole()) == 0
    assert not unnamed(place)


def test_two_processes_then_one(server, s3):
    """Each writes its half of a checkpoint; both are killed in the third, and one goes on."""
    settings = ("mesh.data=2", "mesh.fsdp=2", "compute.compilation_cache=null")
    command = ["-m", "tessy_jax.sft", student(), "--pod", "--output", s3, *settings]
    pod = slurm.start([command] * 2, 2, os.getpid() % 2000 + 7000)
    third = "/checkpoints/00000009-"
    with server.killing(*(process.pid for process in pod), at=lambda _, path: third in path, late=True):
        ends = slurm.wait(pod)
    assert [end.code for end in ends] == [-signal.SIGKILL] * 2, ends
    (commit,) = newest_commits(Store.open(as_path(s3))).values()
    parts = sorted(name for name in commit.far if not name.startswith("checkpoints/3/"))
    assert parts == [f"checkpoints/6/0000{p}-of-00002.{what}" for p in range(2) for what in ("0000.bin", "json")]
    assert call("--output", s3) == 0
    run = compared(s3)
    losses, wanted = ([row["loss"] for row in metrics(each) if "loss" in row] for each in (run, whole()))
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    assert difference(run, whole()) < 2e-6
    assert not unnamed(s3)


def test_arrays_on_other_meshes(place, monkeypatch):
    """Any mesh reads what another has written, bit for bit; a part that is not there is said."""
    monkeypatch.setattr(stored_arrays, "OBJECT", 40)  # bytes: parts lie across the ends of objects
    values = {
        "a": jnp.arange(96, dtype=jnp.float32).reshape(8, 12),
        "b": jnp.arange(8, dtype=jnp.bfloat16),
        "c": jnp.int32(7),
    }
    store = Store(as_path(f"{place}/arrays"))

    def placed(mesh, *specs):
        shardings = [NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs]
        return {name: jax.device_put(value, one) for (name, value), one in zip(values.items(), shardings, strict=True)}

    eight = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    two = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    written = placed(eight, ("x", "y"), ("y",), ())
    stored_arrays.write(store, "00000-of-00001", stored_arrays.kinds_of(written), stored_arrays.own_parts(written))
    listed = Listed.from_json("00000-of-00001", store.read("00000-of-00001.json"))
    assert all(size == 40 for size in listed.sizes[:-1])
    assert sum(listed.sizes) == 96 * 4 + 8 * 2 + 4  # each number once
    for wanted in (placed(two, (None, "x"), ("x",), ()), placed(two, ("x",), (), ()), values):
        shapes = {n: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding) for n, v in wanted.items()}
        found = StoredArrays(store, [listed]).read(shapes)
        for name, value in wanted.items():
            assert found[name].sharding == value.sharding
            np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value))
    with pytest.raises(ValueError, match=r"it is of another model: d is None, not Kind"):
        StoredArrays(store, [listed]).read(shapes | {"d": shapes["a"]})
    text = json.loads(store.read("00000-of-00001.json"))
    text["parts"] = text["parts"][1:]
    with pytest.raises(ValueError, match="of a, 84 of 96 numbers are there"):
        StoredArrays(store, [Listed.from_json("00000-of-00001", json.dumps(text).encode())]).read(shapes)


def test_a_store_that_refuses_is_said_before_models_are_loaded(s3, capsys, monkeypatch):
    monkeypatch.setattr("tessy_jax.train.student.models.load", lambda *_, **__: pytest.fail("loaded"))
    absent = s3.replace(BUCKET, "absent")
    assert call("--output", f"{absent}/run") == 1
    assert f"cannot list {absent}/run: there is no bucket 'absent'" in " ".join(capsys.readouterr().err.split())
