"""The run directory: nothing is lost, nothing is half there, nothing of the user's is removed."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from unittest.mock import Mock

import pytest

from tessy_jax.data import jsonl
from tessy_jax.data.hashing import hash_folder
from tessy_jax.data.records import RowState
from tessy_jax.data.run_folder import DifferentRunError, RunDirError, make_manifest
from tessy_jax.data.run_rows import RunDir
from tests.kit import ROOT

IDENTITY = {"models": {"student": "s1", "teacher": "t1"}, "seed": 0}


def launch(path, identity=IDENTITY, **options):
    return RunDir.open(path, config_yaml="seed: 0\n", manifest=make_manifest(identity, ["cpu"]), **options)


def record(index, text="漢\u2028"):
    return {"id": f"r{index}", "sample_index": 0, "messages": [{"role": "user", "content": text}]}


def state(index):
    return RowState(f"r{index}", 0, b"ab\xc3", (), "student", "think", 0, 2, (1,), (3,), 0, {"student": 1}, None)


def ids(path):
    data = path / "data/part-00000-of-00001.jsonl"
    return [json.loads(line)["id"] for line in data.read_bytes().splitlines()]


def test_layout_and_resume(tmp_path):
    path = tmp_path / "deep/run"
    with launch(path) as run:
        assert run.done == set()
        run.append(record(0))
        run.append(record(1))
        run.append(record(1))
        run.reject({"id": "r2", "sample_index": 1, "reason": "loop"})
        run.reject({"id": None, "file": "in.jsonl", "line": 4, "reason": "empty"})
        run.metrics({"step": 1})
        run.write_journal([state(3)])
        assert run.log_path == path / "run.log"
    found = {str(file.relative_to(path)) for file in path.rglob("[!.]*") if file.is_file()}
    assert found == {
        "config.yaml",
        "manifest.json",
        "data/part-00000-of-00001.jsonl",
        "rejects.jsonl",
        "journal/rows-00000-of-00001.jsonl",
        "metrics.jsonl",
    }
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["identity"], manifest["devices"]) == (IDENTITY, ["cpu"])
    assert (path / "config.yaml").read_text() == "seed: 0\n"
    with launch(path) as run:
        assert run.done == {("r0", 0), ("r1", 0), ("r2", 1)}
        assert run.n_records == 2
        assert run.read_journal() == [state(3)]
        run.append(record(1))
        run.reject({"id": "r2", "sample_index": 1, "reason": "loop"})
        run.reject({"id": None, "file": "in.jsonl", "line": 4, "reason": "empty"})
        run.append(record(3))
        assert run.read_journal() == []
    assert ids(path) == ["r0", "r1", "r3"]
    assert len((path / "rejects.jsonl").read_text().splitlines()) == 2


def test_a_line_torn_at_any_byte_is_removed(tmp_path, caplog):
    with launch(tmp_path) as run:
        run.append(record(0))
        run.append(record(1))
    data = tmp_path / "data/part-00000-of-00001.jsonl"
    whole = data.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        data.write_bytes(whole[:end])
        with launch(tmp_path) as run:
            assert run.done == {("r0", 0)}
            run.append(record(1))
        assert data.read_bytes() == whole
    assert caplog.text.count("removed an incomplete last line") == len(whole) - first - 1


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\0" * 100 + b"\n", b'{"id": "x"', b"x" * 200_000])
def test_other_torn_ends(tmp_path, tail):
    for name in ("data/part-00000-of-00001.jsonl", "rejects.jsonl", "metrics.jsonl"):
        with launch(tmp_path) as run:
            run.append(record(0))
            run.reject({"id": "r5", "sample_index": 0})
            run.metrics({"a": 1})
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole + tail)
        with launch(tmp_path) as run:
            assert run.done == {("r0", 0), ("r5", 0)}
        assert (tmp_path / name).read_bytes() == whole


def test_a_first_line_that_is_torn(tmp_path):
    with launch(tmp_path) as run:
        run.append(record(0))
    data = tmp_path / "data/part-00000-of-00001.jsonl"
    data.write_bytes(data.read_bytes()[:-5])
    with launch(tmp_path) as run:
        assert run.done == set()
    assert data.read_bytes() == b""


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    with launch(tmp_path) as run:
        run.append(record(0))
    data = tmp_path / "data/part-00000-of-00001.jsonl"
    data.write_bytes(b"garbage\n" + data.read_bytes())
    with pytest.raises(RunDirError, match=r"line 1 of .*part-00000-of-00001.jsonl is not a record: remove the line"):
        launch(tmp_path)


CHILD = """
import itertools, sys
from pathlib import Path
from tests.data.test_run_rows import launch, record, state
run = launch(Path(sys.argv[1]))
for index in itertools.count():
    run.append(record(index, "x" * 5000))
    run.write_journal([state(index + 1), state(index + 2)])
    print(index, flush=True)
"""


def test_killed_at_any_moment(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    confirmed = 0
    for delay in (0.0, 0.013, 0.031):
        command = [sys.executable, "-c", CHILD, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            child.stdout.readline()
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            printed = child.stdout.read().split()
        confirmed = max([confirmed, *map(int, printed)])
        with launch(tmp_path) as run:
            assert {(f"r{index}", 0) for index in range(confirmed + 1)} <= run.done
            assert all((row.id, 0) not in run.done for row in run.read_journal())
        found = ids(tmp_path)
        assert len(found) == len(set(found))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("point", ["write", "short", "fsync"])
def test_disk_full_leaves_no_half_record(tmp_path, monkeypatch, point):
    with launch(tmp_path) as run:
        run.append(record(0))
        before = (tmp_path / "data/part-00000-of-00001.jsonl").read_bytes()
        real = os.write
        full = OSError(errno.ENOSPC, "No space left on device")
        calls = []

        def failing(*arguments):
            calls.append(arguments)
            if point == "short" and len(calls) == 1:
                return real(arguments[0], arguments[1][:7])
            raise full

        monkeypatch.setattr(jsonl.os, "fsync" if point == "fsync" else "write", failing)
        with pytest.raises(RunDirError) as error:
            run.append(record(1))
        monkeypatch.undo()
        data = tmp_path / "data/part-00000-of-00001.jsonl"
        assert str(error.value) == (
            f"disk full while writing {data}; 1 records are safe; free space and run the same command again"
        )
        assert data.read_bytes() == before
        assert ("r1", 0) not in run.done
        run.append(record(1))
    assert ids(tmp_path) == ["r0", "r1"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_disk_full_keeps_the_old_journal(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with launch(tmp_path) as run:
        run.write_journal([state(1)])
        monkeypatch.setattr(jsonl.os, "fsync", failing)
        with pytest.raises(RunDirError, match=r"disk full while writing .*rows-.*0 records are safe; free space"):
            run.write_journal([state(2)])
        monkeypatch.undo()
        assert run.read_journal() == [state(1)]
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_interrupt_leaves_no_half_record(tmp_path, monkeypatch):
    with launch(tmp_path) as run:
        real = os.write

        def interrupted(file, data):
            real(file, data[:9])
            raise KeyboardInterrupt

        monkeypatch.setattr(jsonl.os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.append(record(0))
        monkeypatch.undo()
        run.append(record(0))
    assert ids(tmp_path) == ["r0"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"id": "a"}\n', b"\0\0"])
def test_a_damaged_journal_counts_as_empty(tmp_path, caplog, content):
    with launch(tmp_path) as run:
        run.write_journal([state(0)])
        (tmp_path / "journal/rows-00000-of-00001.jsonl").write_bytes(content)
        assert run.read_journal() == []
    assert "is damaged, its rows start again" in caplog.text


def test_another_identity_is_refused(tmp_path):
    launch(tmp_path).close()
    other = {"models": {"student": "s2", "teacher": "t1"}, "seed": 0, "k": 20}
    with pytest.raises(RunDirError) as error:
        launch(tmp_path, other)
    assert str(error.value) == (
        f"{tmp_path} holds a different run:\n"
        "  k: absent there, 20 now\n"
        '  models.student: "s1" there, "s2" now\n'
        "use --overwrite or another --output"
    )
    launch(tmp_path, other, overwrite=True).close()
    launch(tmp_path, other).close()


def test_overwrite_removes_only_its_own_files(tmp_path):
    with launch(tmp_path) as run:
        run.append(record(0))
        run.metrics({"a": 1})
        run.write_journal([state(1)])
    kept = [tmp_path / "notes.txt", tmp_path / "data/mine.jsonl", tmp_path / "report.html", tmp_path / "journal/diary"]
    for file in kept:
        file.write_text("mine")
    with launch(tmp_path, overwrite=True) as run:
        assert run.done == set()
        assert run.read_journal() == []
    assert [file.read_text() for file in kept] == ["mine"] * 4
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "manifest.json", "data", "a/b"])
def test_foreign_folders_are_refused(tmp_path, name, overwrite):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("{}")
    with pytest.raises(RunDirError, match=f"is not empty and holds no run .it has {name[0]}.*: use another --output"):
        launch(tmp_path, overwrite=overwrite)
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [file]


def test_unusable_places(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="file is a file, not a folder: use another --output"):
        launch(tmp_path / "file")
    with pytest.raises(RunDirError, match=r"cannot write .*file/run: Not a directory"):
        launch(tmp_path / "file/run")

    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(RunDirError, match=r"cannot write .*lock-.*: Permission denied; .*use another --output"):
        launch(tmp_path / "run")


def test_one_writer_per_shard(tmp_path):
    with launch(tmp_path):
        with pytest.raises(RunDirError, match=rf"is in use by process {os.getpid()} on .*: wait for it, or"):
            launch(tmp_path)
        with pytest.raises(RunDirError, match="is in use by"):
            launch(tmp_path, shard=(1, 2))
    launch(tmp_path).close()
    (tmp_path / ".lock-00000-of-00001").write_text("process 999999 on elsewhere")  # of a dead process
    launch(tmp_path).close()


def test_a_refused_open_lets_go_of_the_lock(tmp_path):
    launch(tmp_path).close()
    with pytest.raises(RunDirError, match="different run"):
        launch(tmp_path, {"seed": 1})
    launch(tmp_path).close()


def test_two_shards_and_another_number_of_them(tmp_path):
    with launch(tmp_path, shard=(0, 2)) as left, launch(tmp_path, shard=(1, 2)) as right:
        left.append(record(0))
        right.append(record(1))
        right.reject({"id": "r2", "sample_index": 0, "reason": "loop"})
        left.write_journal([state(4)])
        right.write_journal([state(5)])
        assert right.read_journal() == [state(5)]
    names = sorted(file.name for file in (tmp_path / "data").iterdir())
    assert names == ["part-00000-of-00002.jsonl", "part-00001-of-00002.jsonl"]
    torn = tmp_path / "data" / names[1]
    whole = torn.read_bytes()
    torn.write_bytes(whole + b'{"id"')
    with launch(tmp_path, shard=(0, 2)) as left:  # leaves the other shard's file alone
        assert left.done == {("r0", 0), ("r1", 0), ("r2", 0)}
    assert torn.read_bytes() == whole + b'{"id"'
    with launch(tmp_path) as alone:
        assert alone.done == {("r0", 0), ("r1", 0), ("r2", 0)}
        alone.append(record(3))
    assert torn.read_bytes() == whole
    with launch(tmp_path, overwrite=True) as alone:
        assert alone.done == set()
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["part-00000-of-00001.jsonl"]


def test_two_processes_begin_at_once(tmp_path):
    """Neither takes the other's files for foreign ones, and neither reads what the other is still to remove."""
    keys = [("r0", 0), ("r1", 0)]
    for turn in range(40):
        run, barrier = tmp_path / str(turn), Barrier(2, timeout=60)
        if overwrite := turn % 2 == 1:
            with launch(run) as alone:  # the second process's row stands in a file that the first removes
                alone.append(record(1))

        def begin(index, run=run, barrier=barrier, overwrite=overwrite):
            with launch(run, shard=(index, 2), barrier=barrier.wait, overwrite=overwrite) as part:
                assert part.done == set()
                barrier.wait()
                part.append(record(index))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(begin, range(2)))
        with launch(run) as alone:
            assert alone.done == set(keys)


@pytest.mark.parametrize("links", [True, False])
def test_two_runs_that_begin_in_one_folder_at_once(tmp_path, monkeypatch, links):
    """One of them is first; the other is told so, and changes nothing. Without links in the file system too, if both
    are not at the very same moment.
    """
    if not links:
        monkeypatch.setattr(jsonl.os, "link", Mock(side_effect=OSError(errno.ENOTSUP, "no links")))
    for turn in range(20 if links else 1):
        run, barrier, ends = tmp_path / str(turn), Barrier(2, timeout=60), []

        def begin(index, run=run, barrier=barrier, ends=ends):
            if links:
                barrier.wait()
            try:
                launch(run, shard=(index, 2), identity={"seed": index}).close()
                ends.append(index)
            except DifferentRunError as error:
                ends.append(str(error))

        with ThreadPoolExecutor(2 if links else 1) as pool:
            list(pool.map(begin, range(2)))
        numbers, refused = [end for end in ends if isinstance(end, int)], [end for end in ends if isinstance(end, str)]
        assert (len(numbers), len(refused)) == (1, 1)
        assert f"seed: {numbers[0]} there, {1 - numbers[0]} now" in refused[0]
        assert json.loads((run / "manifest.json").read_text())["identity"]["seed"] == numbers[0]


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_another_process_begins_meanwhile(tmp_path, monkeypatch, first):
    """`first`: before this process lists the folder; or when it has."""
    look = Path.iterdir

    def begun_meanwhile(folder):
        before = list(look(folder))
        monkeypatch.setattr(Path, "iterdir", look)
        launch(folder, shard=(0, 2)).close()
        return look(folder) if first else iter(before)

    monkeypatch.setattr(Path, "iterdir", begun_meanwhile)
    launch(tmp_path, shard=(1, 2)).close()


def test_hash_folder_notices_weights_and_texts(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(3 << 20))
    (tmp_path / "config.json").write_text("{}")
    seen = {hash_folder(tmp_path)}
    (tmp_path / "README.md").write_text("no part of it")
    assert hash_folder(tmp_path) in seen
    (tmp_path / "config.json").write_text("[]")
    seen.add(hash_folder(tmp_path))
    weights.write_bytes(b"\1" * (3 << 20))
    seen.add(hash_folder(tmp_path))
    weights.write_bytes(b"\1" * (3 << 20) + b"\1")
    seen.add(hash_folder(tmp_path))
    assert len(seen) == 4
