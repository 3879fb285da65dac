"""An experiment whose folder is on a store: the report of one on a disk."""

import importlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from tessy_jax.analysis.status import read_status
from tessy_jax.config.schema import RunPath
from tessy_jax.config.sft import SftConfig
from tessy_jax.experiments import stages
from tessy_jax.experiments.processes import Running
from tessy_jax.experiments.stages import Stage
from tessy_jax.storage.copies import local
from tessy_jax.storage.followed import followed
from tessy_jax.storage.paths import as_path
from tessy_jax.storage.store import Store
from tests.experiments.test_experiment import tables
from tests.kit.run_experiment import ARMS, Ended, InProcess, call, write_experiment
from tests.kit.stores import BUCKET, upload


class StoredSft(SftConfig):
    """Its output may be a URL."""

    output: RunPath


class Stopped(BaseException):
    """As if the process were gone."""


@dataclass
class OnStore(InProcess):
    """Trains in `folder`, on this machine, and puts what comes of it where the stage should have written it."""

    folder: Path = Path()

    def start(self, stage: Stage) -> Running:
        if stage.command != "sft":
            return super().start(stage)
        self.started.append(stage.name)
        self.before(stage)
        stage.log.parent.mkdir(parents=True, exist_ok=True)
        stage.log.write_text("trained\n")
        here = self.folder / "trained"
        code = importlib.import_module("tessy_jax.sft").main([*stage.words[:-1], str(here)])
        upload(here, str(stage.folder))
        return Ended(code)


def stop_before_sft(stage: Stage) -> None:
    if stage.command == "sft":
        raise Stopped


def test_the_report_is_that_of_a_disk(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before its third stage, and then to the end; its configurations are on the store too."""
    monkeypatch.setattr(stages, "SftConfig", StoredSft)
    file = write_experiment(tmp_path, arms={"own": ARMS["own"]}, seeds=[0])
    assert call(file, runner=InProcess()) == 0

    place = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    store = Store.open(as_path(place))
    for one in tmp_path.glob("*.yaml"):
        store.write(one.name, one.read_bytes())
    on_store, out = f"{place}/experiment.yaml", f"{place}/out"
    names = ["base/seed-0/evaluate", "own/seed-0/synthesize", "own/seed-0/sft", "own/seed-0/evaluate"]
    first = OnStore(folder=tmp_path, before=stop_before_sft)
    with pytest.raises(Stopped):
        call(on_store, "--output", out, runner=first)
    assert first.started == names[:3]
    then = OnStore(folder=tmp_path)
    assert call(on_store, "--output", out, runner=then) == 0
    assert then.started == names[2:]

    ours, theirs = (json.loads(local(f"{one}/report.json").read_text()) for one in (out, tmp_path / "out"))
    assert ours.pop("seconds").keys() == theirs.pop("seconds").keys()
    assert ours == theirs
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/report.md").write_bytes(local(f"{out}/report.md").read_bytes())
    assert tables(tmp_path / "ours") == tables(tmp_path / "out")
    assert "<svg" in local(f"{out}/report.html").read_text()

    with followed(as_path(out)) as look:
        whole, *parts = read_status(look())
        assert (look() / "own/seed-0/sft.log").read_text() == "trained\n"
        assert "own/seed-0/sft: done" in (look() / "run.log").read_text()
    assert whole.cells["stages"] == "4 done"
    assert {part.running for part in (whole, *parts)} == {False}

    again = OnStore()
    assert call(on_store, "--output", out, runner=again) == 0
    assert again.started == []
    assert call(on_store, "--output", out, "--dry-run", runner=again) == 0
    assert call(on_store, "--output", place, runner=again) == 1  # it holds other files
