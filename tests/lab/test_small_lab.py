"""A small laboratory with the shipped models: traces by both writers, a student trained on them, and its accuracy."""

import json

import yaml

from experiments.lab.problems import labels, problems
from tessy_jax.data.records import Record
from tests.kit import ROOT
from tests.kit.run_experiment import InProcess, call

LAB = ROOT / "configs/lab"


def test_a_small_laboratory(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # the laboratory's configurations name their files from there
    files = {name: yaml.safe_load((LAB / f"{name}.yaml").read_text("utf-8")) for name in ("synthesize", "sft")}
    evaluate = yaml.safe_load((LAB / "evaluate_dev.yaml").read_text("utf-8"))
    files["synthesize"] |= {"limit": 24}
    files["sft"] |= {"epochs": 1}
    files["evaluate"] = evaluate | {"benchmarks": [evaluate["benchmarks"][0] | {"limit": 32}]}
    files["experiment"] = {
        **{name: f"{name}.yaml" for name in files},
        **{"arms": {"tessy": {"method": "tessy"}}, "output": str(tmp_path / "out")},
    }
    for name, values in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")

    runner = InProcess()
    assert call(tmp_path / "experiment.yaml", runner=runner) == 0
    assert len(runner.started) == 4  # the base, and three stages of the arm

    answers = {problem.prompt: problem.answer for problem in problems("synthesis", 800, 0)}
    right, true, written = 0, 0, 0
    rows = (tmp_path / "out/tessy/seed-0/synthesize/data").glob("*.jsonl")
    records = [Record.from_row(json.loads(line)) for file in rows for line in file.read_text("utf-8").splitlines()]
    assert len(records) == 24
    for record in records:
        style = [kind.style for kind in labels(record.thinking) for _ in range(kind.start, kind.end)]
        thought = [span for span in record.spans if span.phase == "think"]
        by_student = [span.by == "student" for span in thought for _ in range(span.end - span.start)]
        true += sum(a == b for a, b in zip(style, by_student, strict=True))
        written += len(style)
        right += f"\\boxed{{{answers[record.problem.messages[-1]['content']]}}}" in record.content
    assert true / written > 0.97, "perfect predictors divide the text by its true labels"
    assert right >= 20, "the teacher's capability is in the text, and the student's weakness is not"

    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    scores = {row["arm"]: row["score"] for row in report["benchmarks"][0]["rows"]}
    assert scores.keys() == {"base", "tessy"}
