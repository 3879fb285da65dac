"""Shards of a run, in one folder or in folders of their own, and what `merge` makes of them."""

import json
import shutil
from pathlib import Path

import pytest

from tessy_jax import merge, synthesize
from tessy_jax.data.shards import Shard
from tessy_jax.errors import ConfigError
from tests.kit.run_synthesize import QUESTIONS, call, pair, records, write_problems


@pytest.fixture(scope="module")
def problems() -> Path:
    """The pair's problems, and a row without one."""
    rows = [{"id": f"p{i}", "question": q, "level": i} for i, q in enumerate(QUESTIONS)]
    return write_problems(pair().parent / "shards.jsonl", [*rows[:4], {"id": "bad"}, *rows[4:]])


@pytest.fixture(scope="module")
def whole(problems: Path) -> Path:
    """All of them, by one job."""
    return written(problems, pair().parent / "whole_shard", "0/1")


@pytest.fixture(scope="module")
def thirds(problems: Path) -> list[Path]:
    return [written(problems, pair().parent / f"third-{i}", f"{i}/3") for i in range(3)]


def written(problems: Path, run: Path, shard: str) -> Path:
    assert call("--output", run, "--shard", shard, f"input={problems}", "samples=2") in (0, 3)  # 3: with the bad row
    return run


def merged(output: Path, *runs: Path, options: tuple[str, ...] = ()) -> dict[str, bytes]:
    """What `merge` writes, by file."""
    assert merge.main([*map(str, runs), "--output", str(output), *options]) == 0
    return {name: (output / name).read_bytes() for name in ("data/part-00000-of-00001.jsonl", "rejects.jsonl")}


def test_merged_data_do_not_depend_on_the_number_of_shards(
    problems: Path, whole: Path, thirds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sevenths = [written(problems, tmp_path / "together", f"{i}/7") for i in range(7)][:1]
    expected = merged(tmp_path / "1", whole)
    assert merged(tmp_path / "3", *thirds) == expected
    assert merged(tmp_path / "7", *sevenths) == expected
    assert "18 records, 1 rejected, 0 missing" in capsys.readouterr().err.splitlines()[-1]
    ids = [json.loads(line)["id"] for line in expected["data/part-00000-of-00001.jsonl"].splitlines()]
    assert ids == [f"p{i}" for i in range(len(QUESTIONS)) for _ in range(2)], "in the order of the input"
    assert len({file.name for file in (tmp_path / "together" / "data").iterdir()}) == 7


def test_a_run_goes_on_with_another_number_of_shards(
    problems: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the first job wrote is not written again, and half a line that a kill left is."""
    run = written(problems, tmp_path / "run", "1/3")
    part = run / "data/part-00001-of-00003.jsonl"
    part.write_bytes(part.read_bytes() + b'{"id": "p0", "sam')
    before = len(records(run := written(problems, run, "1/2"))) - len(part.read_bytes().splitlines())
    assert before == 6, "of the ten of this half four were there"
    written(problems, run, "0/2")
    assert merged(tmp_path / "merged", run) == merged(tmp_path / "expected", whole)
    assert call("--output", tmp_path / "merged", f"input={problems}", "samples=2") == 3
    assert "nothing left to do" in capsys.readouterr().err, "the merged run is a run"


def test_what_cannot_be_merged_is_named(
    whole: Path, thirds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object, code: int = 1) -> str:
        assert merge.main(["--output", str(tmp_path / "out"), *map(str, arguments)]) == code
        return capsys.readouterr().err

    said = refused(thirds[0], thirds[2])
    assert "4 of 18 rows are in none of the runs: 'p1', 'p1', 'p6', …; of shard 1/3: 4; run what is missing" in said
    assert "named twice" in refused(thirds[0], thirds[1], thirds[2], thirds[2])
    other = _copy(whole, tmp_path / "other", seed=6)
    assert f"another configuration than {whole}:\n  seed: 6 there, 5 in {whole}" in refused(whole, other)
    assert f"{tmp_path} is no run directory of synthesize or sample" in refused(tmp_path)
    assert not (tmp_path / "out").exists()

    twice = _copy(thirds[1], tmp_path / "twice")
    assert merge.main([*map(str, [*thirds, twice]), "--output", str(tmp_path / "out")]) == 0
    assert "4 stood there more than once, always the same" in capsys.readouterr().err
    part = twice / "data/part-00001-of-00003.jsonl"
    part.write_bytes(part.read_bytes().replace(b'"sample_index": 1', b'"sample_index":  1'))
    assert f"{part}:2: id 'p1', sample 1 has another record in {thirds[1]}" in refused(*thirds, twice)
    part.write_bytes(b"[]\n")
    assert f"{part}:1 is not a record" in refused(*thirds, twice)
    assert merged(tmp_path / "partial", thirds[0], options=("--partial",))
    (twice / "config.yaml").write_text("samples: none\n")
    assert f"{twice}/config.yaml is damaged" in refused(*thirds, twice)


def _copy(run: Path, to: Path, **identity: object) -> Path:
    shutil.copytree(run, to)
    manifest = json.loads((to / "manifest.json").read_text())
    (to / "manifest.json").write_text(json.dumps(manifest | {"identity": manifest["identity"] | identity}))
    return to


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        (None, {}, Shard(0, 1)),
        ("2/8", {"JOB_COMPLETION_INDEX": "5"}, Shard(2, 8)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "5"}, Shard(5, 8)),
        ("auto/4", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1"}, Shard(2, 4)),
    ],
)
def test_which_shard(text: str | None, environment: dict[str, str], shard: Shard) -> None:
    assert Shard.parse(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3", "write INDEX/COUNT"),
        ("3/3", "there is no shard 3 of 3; they count from 0"),
        ("0/0", "there is no shard 0 of 0"),
        ("auto/3", "neither JOB_COMPLETION_INDEX nor SLURM_ARRAY_TASK_ID is set"),
    ],
)
def test_wrong_shards(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Shard.parse(text, {})


def test_wrong_numbers_of_a_scheduler() -> None:
    with pytest.raises(ConfigError, match="SLURM_ARRAY_TASK_ID=x is no number"):
        Shard.parse("auto/3", {"SLURM_ARRAY_TASK_ID": "x"})
    with pytest.raises(ConfigError, match="there is no shard -1 of 3"):
        Shard.parse("auto/3", {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "1"})


def test_workers_of_a_pod_are_no_shards() -> None:
    """Kubernetes counts all pods of a job, and those of one slice hold one model; Slurm counts jobs."""
    with pytest.raises(ConfigError, match=r"JOB_COMPLETION_INDEX counts the workers of a pod.*slices\.yaml"):
        Shard.parse("auto/2", {"JOB_COMPLETION_INDEX": "1"}, pod=True)
    assert Shard.parse("1/2", {"JOB_COMPLETION_INDEX": "0"}, pod=True) == Shard(1, 2)
    assert Shard.parse("auto/2", {"SLURM_ARRAY_TASK_ID": "1"}, pod=True) == Shard(1, 2)


def test_wrong_shards_end_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, said in ((["--shard", "x"], "write INDEX/COUNT"), (["--shard", "0/2", "--overwrite"], "--overwrite")):
        assert synthesize.main([str(pair()), "--output", str(tmp_path / "run"), *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_processes_of_shards() -> None:
    """Four processes in each of two shards have eight files, and the shards' rows are all rows."""
    numbers = [Shard(shard, 2).of_process(process, 4) for shard in range(2) for process in range(4)]
    assert numbers == [(number, 8) for number in range(8)]
    assert sorted([*Shard(0, 2).part(range(9)), *Shard(1, 2).part(range(9))]) == list(range(9))
