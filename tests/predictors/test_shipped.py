"""The demo's shipped probes: measured better than the word list, of the demo's models, and made as the docs say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tessy_jax.config.boundary_predictors import ProbePredictor
from tessy_jax.config.sample import SampleConfig
from tessy_jax.config.schema import load_as
from tessy_jax.config.sections import RoleConfig
from tessy_jax.config.synthesize import load_config
from tessy_jax.config.train_probe import TrainProbeConfig
from tessy_jax.data.inputs import read
from tessy_jax.engine.pair import Pair
from tessy_jax.train_probe import main
from tests.kit import ROOT

CONFIGS = ROOT / "configs"
SHIPPED = {"student": CONFIGS / "predictors/smollm2-135m-instruct", "teacher": CONFIGS / "predictors/gemma3-270m"}
SUFFIX = {"student": "", "teacher": "_teacher"}


@pytest.mark.parametrize("role", SHIPPED)
def test_they_beat_the_word_list(role: str) -> None:
    """On prompts that nothing was learned from, by an interval of the paired gain that lies above 0."""
    report = json.loads((SHIPPED[role] / "report.json").read_text())
    gain = report["baseline"]["f1_gain"]
    assert 0 < gain["low"] <= gain["value"] <= gain["high"]
    f1, listed = (scores["style"]["f1"]["value"] for scores in (report["scores"], report["baseline"]["scores"]))
    assert f1 - listed == pytest.approx(gain["value"])
    assert report["style_tokens"] >= 100
    facts = json.loads((SHIPPED[role] / "probe.json").read_text())
    assert facts["metrics"]["scores"] == report["scores"]
    assert (facts["layer"], facts["threshold"]) == (int(report["about"]["layer"].split()[0]), report["threshold"])


@pytest.mark.parametrize("role", SHIPPED)
def test_they_are_small_and_name_no_machine(role: str) -> None:
    files = list(SHIPPED[role].iterdir())
    assert {file.name for file in files} == {"probe.json", "probe.safetensors", "report.html", "report.json"}
    assert sum(file.stat().st_size for file in files) < 400_000
    about = json.loads((SHIPPED[role] / "report.json").read_text())["about"]
    folder = SHIPPED[role].relative_to(CONFIGS.parent)
    assert (
        about["command"] == f"python -m tessy_jax.train_probe configs/probe_demo{SUFFIX[role]}.yaml --output {folder}"
    )
    assert about["use it as"] == f"{{kind: probe, model: {folder}}}"
    assert not Path(about["model"]).is_absolute()


def test_the_demo_uses_them(demo_weights: Path) -> None:
    """They load on the demo's pair: Pair.open compares tokenizers and shapes."""
    names = {role: folder.name for role, folder in SHIPPED.items()}
    config = load_config(CONFIGS / "demo.yaml", [f"{role}.model={demo_weights / names[role]}" for role in names])
    for role, folder in SHIPPED.items():
        predictor = getattr(config.predictors, role)
        assert isinstance(predictor, ProbePredictor)
        assert Path(predictor.model).resolve() == folder
    pair = Pair.open(config)
    assert Pair.identity_as(pair.identity(), config) == pair.identity()  # told from files alone


@pytest.mark.parametrize("role", SHIPPED)
def test_they_were_trained_on_the_demos_prompts_and_sampling(role: str) -> None:
    """The same prompts, opening and sampling; other problems."""
    demo = load_config(CONFIGS / "demo.yaml")
    wanted: RoleConfig = getattr(demo, role)
    sample = load_as(SampleConfig, CONFIGS / f"sample_demo{SUFFIX[role]}.yaml")
    writer = load_as(TrainProbeConfig, CONFIGS / f"probe_demo{SUFFIX[role]}.yaml").writer
    for ours in (sample, writer):
        assert (ours.model, ours.prompt, ours.thinking) == (wanted.model, wanted.prompt, wanted.thinking)
    assert sample.sampling == wanted.sampling
    practice, problems = ({(p.id, str(p.messages)) for p in read(Path(c.input))} for c in (sample, demo))
    assert len(practice) == 40
    for names in zip(*practice, strict=True), zip(*problems, strict=True):
        assert all(len(set(column)) == len(column) for column in names)
    assert all(
        not set(a) & set(b) for a, b in zip(zip(*practice, strict=True), zip(*problems, strict=True), strict=True)
    )


def test_compare_says_what_was_not_reproduced(tmp_path: Path, capsys: Any) -> None:
    """The same numbers; other ones within the interval; worse ones; a probe without numbers."""
    shipped = SHIPPED["student"]
    assert main(["--compare", str(shipped), str(shipped)]) == 0
    assert "reproduced: all " in capsys.readouterr().err
    other = Path(shutil.copytree(shipped, tmp_path / "other"))
    facts = json.loads((shipped / "probe.json").read_text())
    f1 = facts["metrics"]["scores"]["style"]["f1"]

    def changed(value: float) -> int:
        f1["value"] = value
        (other / "probe.json").write_text(json.dumps(facts))
        return main(["--compare", str(other), str(shipped)])

    high = f1["high"]
    assert changed(high - 1e-4) == 0
    assert "reproduced, not to the last digit (1 of " in capsys.readouterr().err
    assert changed(high + 1e-4) == 1
    message = capsys.readouterr().err
    assert "not reproduced: F1 of style" in message
    assert "scores.style.f1.value: " in message
    del facts["metrics"]
    assert changed(0.5) == 1
    assert "holds no measured numbers" in capsys.readouterr().err
