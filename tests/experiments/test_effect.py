"""The comparison of docs/effect.md takes hours; what its commands would refuse at their start shows in seconds."""

from pathlib import Path

import pytest

from tessy_jax import synthesize
from tessy_jax.config.experiment import ExperimentConfig
from tessy_jax.config.schema import load_as
from tessy_jax.experiments.stages import plan_stages
from tests.kit import ROOT


def test_synthesize_takes_every_arm(demo_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_as(ExperimentConfig, "configs/experiments/effect.yaml", ["seeds=[0]"])
    stages = [stage for stage in plan_stages(config) if stage.command == "synthesize"]
    assert [stage.name for stage in stages] == [f"{arm}/seed-0/synthesize" for arm in config.arms]
    models = [
        f"student.model={demo_weights / 'smollm2-135m-instruct'}",
        f"teacher.model={demo_weights / 'gemma3-270m'}",
    ]
    for stage in stages:
        assert synthesize.main([*stage.words, *models, "--dry-run"]) == 0, stage.name
