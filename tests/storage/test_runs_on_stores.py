"""A run directory on a store: the guarantees of one on a disk, on S3's protocol and in memory."""

import errno
import json
import multiprocessing
import os
import random
import signal
import uuid
from pathlib import Path

import pytest

from tessy_jax.data.run_folder import DifferentRunError, RunDirError
from tessy_jax.storage import spool, store
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import StorageError, as_path
from tests.data.test_run_rows import launch, record, state
from tests.kit.stores import BUCKET, forget

RECORDS = 30


@pytest.fixture(params=["memory", "s3"])
def place(request, server):
    """A folder of a store of its own."""
    bucket = BUCKET if request.param == "s3" else "memory"
    return as_path(f"{request.param}://{bucket}/{uuid.uuid4().hex}")


@pytest.fixture
def s3(server):
    return as_path(f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(spool, "PIECE", 400)


def ids(path):
    """Of the records that any program would find in the objects, and of those that our copy has."""
    objects = store.Store.open(path)
    names = [name for name in objects.list() if name.startswith("data/")]
    stored = [json.loads(line)["id"] for data in objects.read_all(names) for line in data.splitlines()]
    copied = [json.loads(line)["id"] for file in local(path).glob("data/*") for line in file.read_bytes().splitlines()]
    assert sorted(stored) == sorted(copied)
    return sorted(copied)


def write(path):
    """Writes what is left of `RECORDS` records, three at a time, and a journal after each three."""
    spool.PIECE = 800  # in another process, too
    with launch(as_path(path)) as run:
        left = [i for i in range(RECORDS) if (f"r{i}", 0) not in run.done]
        assert {row.id for row in run.read_journal()} <= {f"r{i}" for i in left}
        for start in range(0, len(left), 3):
            for i in left[start : start + 3]:
                run.append(record(i))
                run.metrics({"done": i})
            run.write_journal([state(i) for i in left[start + 3 : start + 6]])


def test_layout_and_resume(place):
    with launch(place) as run:
        assert run.name == str(place)
        run.append(record(0))
        run.append(record(1))
        run.reject({"id": "r2", "sample_index": 1, "reason": "loop"})
        run.metrics({"step": 1})
        run.write_journal([state(3)])
    with launch(place) as run:
        assert run.done == {("r0", 0), ("r1", 0), ("r2", 1)}
        assert run.read_journal() == [state(3)]
        run.append(record(1))
        run.append(record(3))
    assert ids(place) == ["r0", "r1", "r3"]
    copy = local(place)
    assert (copy / "config.yaml").read_text() == "seed: 0\n"
    assert [json.loads(line)["id"] for line in (copy / "rejects.jsonl").read_text().splitlines()] == ["r2"]
    with pytest.raises(DifferentRunError, match=f"{place} holds a different run"):
        launch(place, identity={"seed": 1})
    with launch(place, identity={"seed": 1}, overwrite=True) as run:
        assert run.done == set()
    assert ids(place) == []
    with pytest.raises(RunDirError, match="is not empty and holds no run"):
        launch(place.parent)


def test_killed_at_any_request(server, s3):
    """Twenty processes are killed as a request comes in, or when it is done and they have not heard of it yet."""
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["s3fs", "tests.storage.test_runs_on_stores"])
    rng, kills = random.Random(0), 0
    while kills < 20:
        process = start.Process(target=write, args=(str(s3),))
        fuse = server.requests + rng.randrange(1, 40)
        process.start()
        with server.killing(process.pid, at=lambda number, _, fuse=fuse: number == fuse, late=kills % 2 == 0):
            process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:  # all were written: once more, elsewhere
            assert ids(s3) == sorted(f"r{i}" for i in range(RECORDS))
            s3 = s3.with_name(uuid.uuid4().hex)
        kills += process.exitcode != 0
    write(str(s3))
    assert ids(s3) == sorted(f"r{i}" for i in range(RECORDS))


def test_failures_that_pass(server, s3):
    """The libraries try again; an object whose writing was not heard of is not taken for another process's."""
    with launch(s3) as run:
        server.failures = ["503 Slow Down", "lost answer"]
        run.append(record(0))
        run.write_journal([])
        server.failures = ["slow", "500 Internal Server Error"]
        run.append(record(1))
    assert not server.failures
    assert ids(s3) == ["r0", "r1"]


def test_failures_that_stay(server, s3, monkeypatch):
    """The command ends with a message; the next one goes on from the last commit."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget()
    with pytest.raises(StorageError, match=r"cannot write s3://traces/.*Service Unavailable"), launch(s3) as run:  # noqa: PT012
        run.append(record(0))
        run.write_journal([state(1)])
        run.append(record(1))
        server.failures = ["503 Service Unavailable"] * 50
        run.write_journal([])
    server.failures = []
    with launch(s3) as run:
        assert run.done == {("r0", 0)}
        assert run.read_journal() == [state(1)]
        run.append(record(1))
    assert ids(s3) == ["r0", "r1"]


def test_two_processes(place, monkeypatch, tmp_path):
    """Who came first on another machine ends at its next commit, and what both have written counts once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    taken = "was taken over by another process"
    with pytest.raises(StorageError, match=taken), launch(place) as first:  # noqa: PT012
        first.append(record(0))
        with pytest.raises(StorageError, match=f"{place} is in use by process {os.getpid()} on"):
            launch(place)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
        with launch(place) as second:
            assert second.done == set()
            second.append(record(0))
            with pytest.raises(StorageError, match=taken):
                first.write_journal([])
        first.write_journal([])
    assert ids(place) == ["r0"]


def test_shards(place):
    """Every process sees what all have written; with another number of them, rows in flight start again."""
    with launch(place, shard=(0, 2)) as first, launch(place, shard=(1, 2)) as second:
        first.append(record(0))
        first.write_journal([state(2)])
        second.append(record(1))
        second.write_journal([state(3)])
        with launch(place, shard=(0, 3)) as other:
            assert other.done == {("r0", 0), ("r1", 0)}
            assert other.read_journal() == []
    assert ids(place) == ["r0", "r1"]
    with launch(place, shard=(1, 2)) as second:
        assert second.read_journal() == [state(3)]
    with launch(place, overwrite=True) as run:
        assert run.done == set()
    with launch(place, shard=(0, 2)) as first:
        assert first.done == set()


def test_disk_of_this_machine_is_full(place, monkeypatch):
    monkeypatch.setattr("tessy_jax.data.jsonl.os.fsync", _full)
    with pytest.raises(RunDirError, match="disk full while writing"), launch(place) as run:
        run.append(record(0))


def _full(file):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("404 NoSuchBucket", "there is no bucket 'traces'"),
        ("403 AccessDenied", "have no permission for this; grant it for the bucket 'traces'"),
        ("403 InvalidAccessKeyId", "the credentials are refused or have expired"),
        ("507 InsufficientStorage", "the store is out of space"),
    ],
)
def test_refusals(server, s3, answer, said):
    code = answer.partition(" ")[2]
    server.body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    server.failures = [answer] * 100
    try:
        with pytest.raises(StorageError, match=said):
            launch(s3)
    finally:
        server.failures, server.body = [], b""


def test_no_credentials(server, s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget()
    with pytest.raises(StorageError, match="there are no credentials: set AWS_ACCESS_KEY_ID"):
        launch(s3)
    forget()


def test_not_reached(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget()
    with pytest.raises(StorageError, match="the store is not reached"):
        launch(s3)
    forget()


def test_inputs(place):
    """A file, a folder and a run come as they stand on the store, again where they change."""
    objects = store.Store.open(place / "in")
    objects.write("a.jsonl", b"1\n")
    objects.write("b/c.txt", b"2")
    file = local(place / "in" / "a.jsonl")
    assert (file.name, file.read_bytes()) == ("a.jsonl", b"1\n")
    assert local(str(place / "in" / "a.jsonl")) == file
    assert (local(place / "in") / "b/c.txt").read_bytes() == b"2"
    objects.write("a.jsonl", b"1\n2\n")
    assert local(place / "in" / "a.jsonl").read_bytes() == b"1\n2\n"
    assert local("runs/x") == Path("runs/x")
    with pytest.raises(StorageError, match="there is nothing at"):
        local(place / "absent")


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", ".."])
def test_nothing_is_written_outside_of_a_copy(name, tmp_path, monkeypatch):
    """A store may hold what others have put there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    folder = as_path(f"memory://b/{uuid.uuid4().hex}")
    commit = spool.Commit("00000-of-00001", 1, whole={name: "x"})
    store.Store(folder).create(commit.name, commit.to_json())
    with pytest.raises(StorageError, match="names a file outside of the run directory"):
        local(folder)
    with pytest.raises(StorageError, match="names a file outside of the run directory"):
        spool.Spool.open(folder, "00000-of-00001")

    listed = {name: store.Object(1, "1")}
    monkeypatch.setattr(store.Store, "list", lambda *_: listed)
    with pytest.raises(StorageError, match="leads out of a folder"):
        local(folder)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and "lock" not in file.name]


def test_names(tmp_path, monkeypatch):
    """A URL is never opened as a local file."""
    monkeypatch.chdir(tmp_path)
    path = as_path("s3://bucket/a/run/")
    assert (str(path), str(path / "data"), path.name, str(path.parent)) == (
        "s3://bucket/a/run",
        "s3://bucket/a/run/data",
        "run",
        "s3://bucket/a",
    )
    for touch in (
        path.mkdir,
        path.exists,
        path.open,
        path.read_text,
        lambda: list(path.iterdir()),
        lambda: list(path.glob("*")),
    ):
        with pytest.raises(StorageError, match="s3://bucket/a/run is on a store"):
            touch()
    assert not list(tmp_path.iterdir())
    for wrong, said in (("ftp://x/y", "no storage of this kind"), ("s3://", "names no bucket")):
        with pytest.raises(StorageError, match=said):
            as_path(wrong)
