"""A run directory on Google's protocol: written, resumed, taken over, read; objects by ranges."""

import uuid

import pytest

pytest.importorskip("gcsfs", reason="gcsfs is not installed")
pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")

from tessy_jax.storage import spool
from tessy_jax.storage.copies import local
from tessy_jax.storage.paths import StorageError, as_path
from tessy_jax.storage.store import Store
from tests.data.test_run_rows import launch, record, state
from tests.kit.google_store import BUCKET, served
from tests.storage.test_runs_on_stores import ids


@pytest.fixture(scope="module", autouse=True)
def server():
    with served():
        yield


@pytest.fixture
def place():
    return as_path(f"gs://{BUCKET}/{uuid.uuid4().hex}")


def test_objects(place):
    store = Store.open(place)
    assert store.create("a/b.bin", b"\x00\xff\r\n--==0" * 9)
    assert store.create("a/b.bin", b"\x00\xff\r\n--==0" * 9)  # an answer that was lost
    assert not store.create("a/b.bin", b"other")
    assert store.read_range("a/b.bin", 1, 3) == b"\xff\r\n"
    assert store.read_range("a/b.bin", 80, 30) == b"0"
    assert store.read("a/c") is None
    store.write("a/c", b"new")
    store.write("a/c", b"newer")
    assert list(store.read_all(["a/c", "a/b.bin"]))[1].startswith(b"\x00")
    assert {name: entry.size for name, entry in store.list("a").items()} == {"a/b.bin": 81, "a/c": 5}
    assert store.top() == {"a"}
    store.delete(["a/c", "absent"])
    assert set(store.list()) == {"a/b.bin"}


def test_resume_and_take_over(place, monkeypatch, tmp_path):
    monkeypatch.setattr(spool, "PIECE", 400)
    with launch(place) as run:
        for i in range(4):
            run.append(record(i))
        run.write_journal([state(5)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a"))
    with pytest.raises(StorageError, match="was taken over by another process"), launch(place) as first:  # noqa: PT012
        assert first.done == {(f"r{i}", 0) for i in range(4)}
        assert first.read_journal() == [state(5)]
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
        with launch(place) as second:
            second.append(record(5))
            with pytest.raises(StorageError, match="was taken over"):
                first.write_journal([])
        first.write_journal([])
    assert ids(place) == ["r0", "r1", "r2", "r3", "r5"]
    assert (local(place) / "config.yaml").read_text() == "seed: 0\n"


def test_no_bucket():
    """Which is said when the run begins: a listing does not tell it from a folder that is empty."""
    with pytest.raises(StorageError, match="there is no bucket 'absent'"):
        launch(as_path("gs://absent/run"))
