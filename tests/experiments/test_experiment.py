"""`experiment` from end to end: real stages, kills in each kind of them, and a report that counts right."""

import json
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from scipy.stats import ttest_1samp

from tessy_jax import experiment
from tessy_jax.data.run_rows import RunDir
from tessy_jax.experiments.stages import Stage
from tessy_jax.train.checkpoints import DiskCheckpoints
from tests.evals.test_seeds import plain
from tests.kit.browser import Page
from tests.kit.run_experiment import ARMS, PROBLEMS, InProcess, call, write_experiment
from tests.kit.run_synthesize import records

SEEDS = (0, 1)


class Killed(BaseException):
    """As if the process were gone: nothing catches it."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of an experiment that was run undisturbed."""
    file = write_experiment(tmp_path_factory.mktemp("experiment"))
    runner = InProcess()
    assert call(file, runner=runner) == 0
    assert len(runner.started) == len(set(runner.started)) == 2 + 2 * (3 + 3 + 2)
    assert "nothing left to do" not in (file.parent / "out/run.log").read_text()
    return file


def report(out: Path) -> dict[str, Any]:
    return {name: value for name, value in json.loads((out / "report.json").read_text()).items() if name != "seconds"}


def tables(out: Path) -> str:
    return (out / "report.md").read_text().partition("## Wall time")[0].partition("\n")[2]


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = chain.from_iterable(file.read_text().splitlines() for file in sorted(folder.glob("data/part-*.jsonl")))
    return list(map(json.loads, lines))


def test_a_second_start_starts_nothing(file: Path, tmp_path: Path) -> None:
    """Nor where the folder was moved; the report is the same."""
    shutil.copytree(file.parent / "out", tmp_path / "moved")
    runner = InProcess()
    assert call(file, "--output", tmp_path / "moved", runner=runner) == 0
    assert runner.started == []
    assert tables(tmp_path / "moved") == tables(file.parent / "out")


def test_a_stage_is_a_process_that_understands_its_words(file: Path, tmp_path: Path) -> None:
    """It finds what was written by them, and nothing to do: only its mark is new."""
    out = tmp_path / "out"
    shutil.copytree(file.parent / "out", out)
    marks = (out / "stages.jsonl").read_text().splitlines(keepends=True)
    left = [line for line in marks if json.loads(line)["stage"] != "own/seed-1/synthesize"]
    (out / "stages.jsonl").write_text("".join(left))
    runner = InProcess(real=("own/seed-1/synthesize",))
    assert call(file, "--output", out, runner=runner) == 0
    assert runner.started == ["own/seed-1/synthesize"]
    assert "4 rows done, 0 rejected, 0 left" in (out / "own/seed-1/synthesize.log").read_text()
    assert tables(out) == tables(file.parent / "out")


def test_killed_in_every_kind_of_stage(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is done by the same command, and the tables are those of the undisturbed run, byte for byte."""
    one = (f"arms={{own: {json.dumps(ARMS['own'])}}}", "seeds=[0]")
    shutil.copytree(file.parent / "out", tmp_path / "whole")
    assert call(file, *one, "--output", tmp_path / "whole", runner=InProcess()) == 0

    out, now = tmp_path / "out", ""
    stored, append, save = 0, RunDir.append, DiskCheckpoints.save

    def begin(stage: Stage) -> None:
        nonlocal now
        now = stage.name

    def append_and_die(self: RunDir, record: Any) -> None:
        nonlocal stored
        append(self, record)
        stored += now == command
        if stored == 2:
            raise Killed

    def save_and_die(self: DiskCheckpoints, step: int, *more: Any) -> None:
        save(self, step, *more)
        if step == 1:
            self.wait()
            raise Killed

    killed = []
    for command in ("base/seed-0/evaluate", "own/seed-0/synthesize", "own/seed-0/sft", "own/seed-0/evaluate"):
        stored, runner = 0, InProcess(before=begin)
        with monkeypatch.context() as patch:
            if command.endswith("sft"):
                patch.setattr(DiskCheckpoints, "save", save_and_die)
            else:
                patch.setattr(RunDir, "append", append_and_die)
            with pytest.raises(Killed):
                call(file, *one, "--output", out, runner=runner)
        killed.append(runner.started[-1])
        if len(runner.started) > 1:  # it went on with the one that was killed before
            assert runner.started[0] == killed[-2]
    assert killed == ["base/seed-0/evaluate", "own/seed-0/synthesize", "own/seed-0/sft", "own/seed-0/evaluate"]
    assert call(file, *one, "--output", out, runner=InProcess()) == 0
    assert tables(out) == tables(tmp_path / "whole")
    assert report(out) == report(tmp_path / "whole") | {"title": "Experiment out"}


@pytest.fixture(scope="module")
def judged(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same experiment, in which responses have passed here and there, as no tiny model's do."""
    out = tmp_path_factory.mktemp("judged") / "out"
    shutil.copytree(file.parent / "out", out)
    for number, judgements in enumerate(sorted(out.glob("*/seed-*/evaluate/Sums/judgements"))):
        [part] = judgements.glob("data/part-*.jsonl")
        found = rows(judgements)
        for at, row in enumerate(sorted(found, key=lambda row: (row["problem_id"], row["sample_index"]))):
            row["verdict"] = "AC" if (at * 7 + number * 5) % 11 < 2 + number % 5 else "WA"
        part.write_text("".join(json.dumps(row) + "\n" for row in found))
    for number, metrics in enumerate(sorted(out.glob("own/seed-*/sft/metrics.jsonl"))):
        with metrics.open("a") as lines:
            for epoch in (0, 1):
                accuracy = {"accuracy": 10.0 * epoch + number, "standard_error": 1.0}
                lines.write(json.dumps({"step": epoch, "epochs": epoch, "benchmarks": {"Sums": accuracy}}) + "\n")
                loss = 2.0 - epoch * (0.5 + number / 4)  # from 2 to 1.5 with one seed, to 1.25 with the other
                lines.write(json.dumps({"step": epoch, "held_out": {"loss": loss}}) + "\n")
    assert experiment.main([str(file), "--output", str(out), "--report"]) == 0
    return out


def passes(out: Path, arm: str, seed: int) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for row in rows(out / arm / f"seed-{seed}/evaluate/Sums/judgements"):
        found.setdefault(row["problem_id"], []).append(row["verdict"] == "AC")
    return {name: mean(values) for name, values in found.items()}


def test_scores_and_differences_are_those_of_plain_python(judged: Path) -> None:
    one_group = {problem["id"]: "" for problem in PROBLEMS}
    [benchmark] = report(judged)["benchmarks"]
    assert (benchmark["label"], benchmark["problems"]) == ("Sums", 5)
    assert [row["arm"] for row in benchmark["rows"]] == ["base", *ARMS]
    x = {arm: [passes(judged, arm, seed) for seed in SEEDS] for arm in ("base", *ARMS)}
    for row in benchmark["rows"]:
        wanted = {"score": x[row["arm"]]}
        for name, other in (("less_base", "base"), ("less_control", "own")):
            if row["arm"] == other:
                assert row[name] is None
            else:
                pairs = zip(x[other], x[row["arm"]], strict=True)
                wanted[name] = [
                    {problem: after[problem] - before[problem] for problem in after} for before, after in pairs
                ]
        for name, values in wanted.items():
            found = row[name]
            assert (found["value"], found["low"], found["high"]) == pytest.approx(plain(values, one_group))
            assert (found["seeds"], found["problems"]) == (2, 5)
    assert len({row["score"]["value"] for row in benchmark["rows"]}) > 2
    own = benchmark["rows"][1]["score"]
    assert f"| own | {own['value']:.2f} ({own['low']:.2f} to {own['high']:.2f}) |" in (judged / "report.md").read_text()


def test_the_rest_is_counted_right(judged: Path) -> None:
    found = report(judged)
    for arm, author in (("own", "student"), ("teacher", "teacher")):
        traces = [record for seed in SEEDS for record in records(judged / arm / f"seed-{seed}/synthesize")]
        totals = [record["n_tokens"] for record in traces]
        kept = sum(one["student"] + one["teacher"] + one["answer"] for one in totals)
        answers = [span for record in traces for span in record["spans"] if span["phase"] == "answer"]
        dropped = sum(one["rolled_back"] for one in totals) + sum(span["dropped_tokens"] for span in answers)
        cost = {"generated": kept + dropped, "kept": kept, "rolled_back": dropped, "left_out": 0}
        assert found["cost"][arm]["models"][author] == cost | {"generated_per_record": (kept + dropped) / 8}
        assert (found["cost"][arm]["records"], found["cost"][arm]["rejected"]) == (8, 0)
        assert found["authors"][arm]["thinking_tokens"][author] == found["authors"][arm]["answer_tokens"][author] == 1.0
        assert found["lengths"][arm]["trace_tokens"] == pytest.approx(kept / 8)
    assert found["lengths"]["half"]["trace_tokens"] == found["lengths"]["teacher"]["trace_tokens"]
    for arm in ("base", *ARMS):
        written = [rows(judged / arm / f"seed-{seed}/evaluate/Sums/responses") for seed in SEEDS]
        tokens = mean(mean(row["n_tokens"] for row in responses) for responses in written)
        assert found["lengths"][arm]["responses"]["Sums"]["tokens"] == pytest.approx(tokens)
    for arm in ARMS:
        losses = [dict(steps(judged / arm / f"seed-{seed}/sft/metrics.jsonl")) for seed in SEEDS]
        both = sorted(losses[0].keys() & losses[1].keys())
        assert found["training_loss"][arm]["steps"] == both
        assert found["training_loss"][arm]["mean"] == [
            pytest.approx(mean(one[step] for one in losses)) for step in both
        ]
        assert found["training"][arm]["first_loss"] == pytest.approx(mean(one[1] for one in losses))
        assert found["training"][arm]["last_loss"] == pytest.approx(mean(one[max(one)] for one in losses))
    assert found["training_loss"]["half"]["steps"] == [1]
    assert found["held_out"].keys() == {"own"}
    held_out, change = found["held_out"]["own"], found["held_out"]["own"]["change"]
    assert (held_out["before"], held_out["after"], change["value"]) == (2.0, 1.375, -0.625)
    wanted = ttest_1samp([-0.5, -0.75], 0).confidence_interval()
    assert (change["low"], change["high"]) == pytest.approx((wanted.low, wanted.high))
    assert "| own | 2.0000 | 1.3750 | -0.6250 (-2.2133 to +0.9633) |" in (judged / "report.md").read_text()
    points = found["accuracy_by_epoch"]["own"]["benchmarks"]["Sums"]
    assert points == [{"epochs": 0, "accuracy": 0.5}, {"epochs": 1, "accuracy": 10.5}]


def steps(metrics: Path) -> Iterator[tuple[int, float]]:
    for row in map(json.loads, metrics.read_text().splitlines()):
        if "loss" in row:
            yield row["step"], row["loss"]


def test_what_is_not_done_is_named(file: Path, judged: Path, tmp_path: Path) -> None:
    """A report can be made at any time; seeds that both models have are compared."""
    out = tmp_path / "out"
    shutil.copytree(judged, out)
    shutil.rmtree(out / "teacher/seed-1/evaluate")
    marks = [json.loads(line) for line in (out / "stages.jsonl").read_text().splitlines()]
    for mark in marks:
        mark["code"] = {"half/seed-1/sft": 1, "own/seed-1/sft": 130}.get(mark["stage"], mark["code"])
    (out / "stages.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    assert experiment.main([str(file), "--output", str(out), "--report", "arms.late={data: own}"]) == 0
    found = report(out)
    why = {one["stage"]: one["why"] for one in found["stages"]["unfinished"]}
    assert why["half/seed-1/sft"] == "failed (exit code 1)"
    assert why["own/seed-1/sft"] == "interrupted"
    assert why["late/seed-0/sft"] == "not run yet"
    text = (out / "report.md").read_text()
    assert "teacher/seed-1/evaluate: to be run again" in text
    assert "| late | not run yet |" in text
    assert ", 1 of 2 seeds |" in text
    teacher = next(row for row in found["benchmarks"][0]["rows"] if row["arm"] == "teacher")
    assert teacher["less_base"]["seeds"] == teacher["score"]["seeds"] == 1


def test_an_experiment_without_evaluations(file: Path, tmp_path: Path) -> None:
    assert experiment.main([str(file), "evaluate=null", "--report", "--output", str(tmp_path / "out")]) == 0
    shutil.copytree(file.parent / "out", tmp_path / "copy")
    assert experiment.main([str(file), "evaluate=null", "--report", "--output", str(tmp_path / "copy")]) == 0
    text = (tmp_path / "copy/report.md").read_text()
    assert "Table 1" not in text
    assert "## Training" in text


def test_scores_by_different_judges_are_not_compared(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    shutil.copytree(file.parent / "out", out)
    path = out / "teacher/seed-1/evaluate/report.json"
    content = json.loads(path.read_text())
    content["results"][0]["scores"]["judge"]["on_truncated"] = "fail"
    path.write_text(json.dumps(content))
    assert experiment.main([str(file), "--output", str(out), "--report"]) == 1
    said = capsys.readouterr().err
    assert "Sums: base/seed-0 and teacher/seed-1 were judged by different judges" in said


def test_the_page_opens_from_the_disk(judged: Path, tmp_path: Path) -> None:
    with Page(tmp_path / "profile") as page:
        page.open(judged / "report.html")
        table = page.value("document.querySelector('table').innerText")
        assert table.split()[:3] == ["Sums", "(N=5)", "base"]
        assert (
            page.value(
                "[...document.querySelectorAll('svg')].filter(e => e.getBoundingClientRect().height > 50).length"
            )
            == 4
        )
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.requests == [(judged / "report.html").as_uri()]
        assert page.complaints == []
