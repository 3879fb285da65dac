"""What may be wrong with an experiment's configuration: said before anything starts, by key, file or override."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tessy_jax import experiment
from tessy_jax.config.experiment import ExperimentConfig
from tessy_jax.config.methods import METHODS
from tessy_jax.config.schema import load_as
from tessy_jax.errors import ConfigError
from tessy_jax.experiments.notes import notes_on
from tessy_jax.experiments.stages import plan_stages
from tests.kit import ROOT
from tests.kit.run_experiment import ARMS, write_experiment

TEACHER = {"method": "teacher_only"}


def refused(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        plan_stages(load_as(ExperimentConfig, file, overrides))
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"arms": {"a": {"method": "teacher_onli"}}},
            "'arms.a.method' in FILE names no method: 'teacher_onli'; did you mean 'teacher_only'?",
        ),
        (
            {"arms": {"tessy": TEACHER, "b": {"data": "tesy"}}},
            "'arms' in FILE has 'b' whose data names no arm: 'tesy'; did you mean 'tessy'?",
        ),
        (
            {"arms": {"a": {"data": "b"}, "b": {"data": "c"}, "c": {"data": "b"}}},
            "'arms' in FILE has a cycle, in which no arm writes data: a -> b -> c -> b",
        ),
        (
            {"arms": {"a": {"sft": []}}},
            "'arms.a' in FILE needs method (it writes data of its own) or data (an arm that does), one of the two",
        ),
        (
            {"arms": {"a": TEACHER, "b": {"data": "a", "method": "student_only"}}},
            "'arms.b' in FILE needs method (it writes data of its own) or data (an arm that does), one of the two",
        ),
        (
            {"arms": {"a": TEACHER, "b": {"data": "a", "synthesize": ["limit=1"]}}},
            "'arms.b' in FILE trains on the data of a and synthesizes nothing: leave synthesize out",
        ),
        (
            {"arms": {"Base": TEACHER}},
            "'arms' in FILE has an arm 'Base': this is the name of the model before training",
        ),
        (
            {"arms": {"a": TEACHER, "A": TEACHER}},
            "'arms' in FILE has 'a' and 'A', whose folders some file systems do not tell apart",
        ),
        ({"arms": {"a": TEACHER | {"sfd": []}}}, "unknown key 'arms.a.sfd' in FILE; did you mean 'arms.a.sft'?"),
        ({"control": "onw"}, "'control' in FILE names no arm: 'onw'; did you mean 'own'?"),
        ({"seeds": [1, 2, 1]}, "'seeds' in FILE has 1 twice: the same seed gives the same run"),
        ({"synthesize": "no.yaml"}, "no configuration file no.yaml"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
def test_a_mistake_is_said_with_its_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = write_experiment(tmp_path, **({"control": None} | changes))
    assert refused(file) == message.replace("FILE", str(file))


def test_an_arm_that_is_there_twice(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    file.write_text(file.read_text().replace("  teacher:\n", "  own:\n"))
    assert "found duplicate key own" in refused(file)


def test_the_name_of_an_arm_is_a_folder(tmp_path: Path) -> None:
    assert "arms.../a" in refused(write_experiment(tmp_path, arms={"../a": TEACHER}, control=None))


@pytest.mark.parametrize(
    ("arm", "overrides", "message"),
    [
        (
            "half",
            {"sft": ["optimizer.lrr=1"]},
            "arms.half.sft: unknown key 'optimizer.lrr' in override 'optimizer.lrr=1'",
        ),
        ("teacher", {"synthesize": ["limit=no"]}, "arms.teacher.synthesize: 'limit' in override 'limit=no' should be"),
        (
            "teacher",
            {"synthesize": ["seed=1"]},
            "arms.teacher.synthesize: 'seed' in override 'seed=1' is set by the experiment: leave it out",
        ),
        (
            "half",
            {"sft": ["data.train=x"]},
            "arms.half.sft: 'data.train' in override 'data.train=x' is set by the experiment: leave it out",
        ),
        (
            "teacher",
            {"synthesize": ["student.model=other"]},
            "arms.teacher: its student is other, that of own is",
        ),
    ],
)
def test_a_mistake_in_an_override_of_the_last_arm(
    tmp_path: Path, arm: str, overrides: dict[str, list[str]], message: str
) -> None:
    arms = {name: dict(values) for name, values in ARMS.items()}
    arms[arm] |= overrides
    found = refused(write_experiment(tmp_path, arms=arms))
    assert found.startswith(message)
    assert "\n" not in found


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    arms = ARMS | {"own": {"method": "student_only", "synthesize": ["limt=1"], "sft": ["epoch=1"]}}
    file = write_experiment(tmp_path, arms=arms)
    for name, wrong in (
        ("sft", {"batchs": 1}),
        ("evaluate", {"model": {"kind": "server", "url": "http://x", "model": "y"}}),
    ):
        values = yaml.safe_load((tmp_path / f"{name}.yaml").read_text()) | wrong
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    found = refused(file).splitlines()
    assert any(line.startswith("arms.own.synthesize: unknown key 'limt' in override 'limt=1'") for line in found)
    assert any(line.startswith("arms.own.sft: unknown key 'epoch' in override 'epoch=1'") for line in found)
    [once] = [line for line in found if "'batchs'" in line]
    assert once.startswith(f"unknown key 'batchs' in {tmp_path}/sft.yaml; did you mean 'batch")
    assert [line.partition(", got ")[2] for line in found if "'model.kind' in" in line] == [
        "'server': an experiment evaluates the students that it trains"
    ]
    assert len(found) == 4


def test_stages_and_their_words(tmp_path: Path) -> None:
    """In the order of seeds; an arm with data of another trains on what that one has written."""
    config = load_as(ExperimentConfig, write_experiment(tmp_path, arms=ARMS | {"third": {"data": "half"}}))
    stages = {stage.name: stage for stage in plan_stages(config)}
    arms = ("own", "teacher", "half", "third")
    assert list(stages) == [
        f"{arm}/seed-{seed}/{command}"
        for seed in (0, 1)
        for arm in ("base", *arms)
        for command in ("synthesize", "sft", "evaluate")
        if (arm != "base" or command == "evaluate") and (arm in ("own", "teacher") or command != "synthesize")
    ]
    for name in ("half", "third"):
        sft = stages[f"{name}/seed-1/sft"]
        assert [stage.name for stage in sft.needs] == ["teacher/seed-1/synthesize"]
        assert sft.config.data.train == (str(tmp_path / "out/teacher/seed-1/synthesize"),)
    student = stages["base/seed-0/evaluate"].config.model.model
    assert stages["half/seed-1/sft"].typed == (
        f"python -m tessy_jax.sft {tmp_path}/sft.yaml max_steps=1 'model=\"{student}\"' "
        f"'data.train=[\"{tmp_path}/out/teacher/seed-1/synthesize\"]' seed=1 --output {tmp_path}/out/half/seed-1/sft"
    )
    evaluate = stages["half/seed-1/evaluate"]
    assert evaluate.config.model.model == str(tmp_path / "out/half/seed-1/sft/export")
    assert [stage.name for stage in evaluate.needs] == ["half/seed-1/sft"]


def test_a_greedy_base_model_is_asked_once(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    values = yaml.safe_load((tmp_path / "evaluate.yaml").read_text())
    values["model"]["sampling"] = {"temperature": 0}
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(values))
    stages = plan_stages(load_as(ExperimentConfig, file))
    assert [stage.name for stage in stages if stage.arm == "base"] == ["base/seed-0/evaluate"]
    assert not any(stage.arm == "base" for stage in plan_stages(load_as(ExperimentConfig, file, ["evaluate=null"])))


def test_what_a_stage_depends_on_is_in_its_hash(tmp_path: Path) -> None:
    """Its configuration, the files that it names, the stages before it; not where the experiment is."""

    def hashes(file: Path, *overrides: str) -> dict[str, str]:
        return {stage.name: stage.hash for stage in plan_stages(load_as(ExperimentConfig, file, overrides))}

    file = write_experiment(tmp_path)
    (tmp_path / "problems.jsonl").write_text('{"question": "?"}\n')
    values = yaml.safe_load((tmp_path / "synthesize.yaml").read_text()) | {"input": str(tmp_path / "problems.jsonl")}
    (tmp_path / "synthesize.yaml").write_text(yaml.safe_dump(values))
    before = hashes(file)
    assert hashes(file, f"output={tmp_path}/moved", "jobs=3") == before

    changed = hashes(file, 'arms.own.synthesize=["samples=2"]')
    assert {name for name in before if changed[name] != before[name]} == {name for name in before if "own/" in name}
    changed = hashes(file, 'arms.teacher.sft=["epochs=3"]')
    assert {name.split("/", 2)[2] for name in before if changed[name] != before[name]} == {"sft", "evaluate"}

    (tmp_path / "problems.jsonl").write_text('{"question": "??"}\n')
    changed = hashes(file)
    assert {name for name in before if changed[name] == before[name]} == {f"base/seed-{n}/evaluate" for n in (0, 1)}


def test_a_dry_run_says_what_is_left_and_what_it_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = {"method": "teacher_score", "synthesize": ["candidates=3"]}
    file = write_experiment(tmp_path, seeds=[0], arms=ARMS | {"best": best})
    assert experiment.main([str(file), "--dry-run"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert lines["own/seed-0/synthesize"] == ["to", "do", "4", "records", str(4 * 32)]
    assert lines["best/seed-0/synthesize"] == ["to", "do", "4", "records", str(4 * 3 * 2 * 32)]
    assert lines["own/seed-0/sft"] == ["to", "do", "2", "steps", str(2 * 2 * 128)]
    assert lines["half/seed-0/sft"] == ["to", "do", "1", "steps", str(2 * 128)]
    assert lines["half/seed-0/evaluate"] == ["to", "do", "10", "responses", str(10 * 32)]
    assert lines["synthesize:"][0] == f"{(2 + 3 * 2) * 4 * 32:,}"
    assert lines["sft:"][0] == f"{7 * 2 * 128:,}"
    assert lines["evaluate:"][0] == f"{5 * 10 * 32:,}"
    assert not (tmp_path / "out").exists()


def test_the_experiment_of_the_paper(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method is an arm, all configurations are right, and files that are absent are named."""
    monkeypatch.chdir(ROOT)
    file = ROOT / "configs/experiments/paper.yaml"
    config = load_as(ExperimentConfig, file)
    assert {arm.method for arm in config.arms.values()} == set(METHODS.schemas)
    sft = next(stage.config for stage in plan_stages(config) if stage.command == "sft")
    assert (sft.batch.rows, sft.optimizer.lr, sft.epochs, sft.data.pack) == (128, 5e-5, 9, False)

    assert experiment.main([str(file), "--dry-run"]) == 1
    said = capsys.readouterr().out
    assert "teacher.model: no folder 'openai/gpt-oss-120b' is here: as a hub id, the first stage that needs it" in said
    for name in ("prompts.jsonl", "lcb_pro_706.jsonl", "OJBench_testdata", "gpqa_diamond.csv", "aime2025.jsonl"):
        assert f"data/{name}" in said


def test_a_student_that_is_prompted_otherwise_in_training_is_named(tmp_path: Path) -> None:
    file = write_experiment(tmp_path)
    stages = plan_stages(load_as(ExperimentConfig, file))
    assert notes_on(stages) == []
    stages = plan_stages(load_as(ExperimentConfig, file, ["arms.half.sft=['prompt.system=Think.']"]))
    [note] = notes_on(stages)
    assert note.startswith("half: sft has another prompt than student.prompt of synthesize")
