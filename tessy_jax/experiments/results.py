"""What the stages that are done have written, arm by arm and seed by seed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tessy_jax.config.evaluate import EvaluateConfig
from tessy_jax.config.experiment import BASE, ExperimentConfig
from tessy_jax.data.jsonl import read_objects
from tessy_jax.evals.benchmark import Benchmark, open_benchmarks
from tessy_jax.evals.scores import ScoreError
from tessy_jax.evals.scoring import read_passes
from tessy_jax.experiments.marks import Marks
from tessy_jax.experiments.notes import notes_on
from tessy_jax.experiments.stages import Stage
from tessy_jax.experiments.traces import TraceCounts, count_traces
from tessy_jax.storage.copies import local, own_files
from tessy_jax.train.accuracy import Point, read_points


@dataclass(frozen=True)
class BenchmarkResult:
    """A model on a benchmark.

    Attributes:
        passes: by problem, the share of responses that passed.
        score: the evaluation's own headline, in percent.
        mean_tokens: of its responses; None where they were not counted.
        truncated: share of the responses that did not end by themselves.
        judge: what judged; scores of different judges are not compared.
    """

    passes: dict[str, float]
    score: float
    mean_tokens: float | None
    truncated: float
    judge: Any


@dataclass(frozen=True)
class Training:
    """What a run of sft reported.

    Attributes:
        losses: by step.
        held_out: loss on the data that were held out, by step; before the first is 0.
        trained_tokens: of all steps.
        accuracy: by benchmark, where it evaluated its checkpoints.
        rejected: rows that it could not use.
    """

    losses: dict[int, float]
    held_out: dict[int, float]
    trained_tokens: int
    accuracy: dict[str, list[Point]]
    rejected: int


@dataclass
class Arm:
    """What is there of an arm, by seed.

    Attributes:
        source: "method tessy", "data of tessy".
        seconds: that its stages took, by command.
    """

    name: str
    source: str
    traces: dict[int, TraceCounts] = field(default_factory=dict)
    trainings: dict[int, Training] = field(default_factory=dict)
    evaluations: dict[int, dict[str, BenchmarkResult]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Unfinished:
    """A stage that is not done, and why: "failed (exit code 1)", "not run yet"."""

    stage: str
    why: str


@dataclass(frozen=True)
class Results:
    """All of an experiment that is there.

    Attributes:
        arms: the base model first, then those of the configuration, in its order.
        labels: of the benchmarks.
        groups: by benchmark and problem, where its score is the mean of groups' scores.
        base_is_greedy: so that it answers with every seed as with the first.
        notes: what a reader must know.
        stages: how many there are in all.
    """

    config: ExperimentConfig
    arms: list[Arm]
    labels: list[str]
    groups: dict[str, dict[str, str]]
    base_is_greedy: bool
    notes: list[str]
    stages: int
    unfinished: list[Unfinished]

    @property
    def base(self) -> Arm:
        return self.arms[0]

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def read_results(config: ExperimentConfig, stages: Sequence[Stage], marks: Marks) -> Results:
    """Reads what is there.

    Raises:
        ScoreError: evaluations are of different judges.
        TaskError: a benchmark is not there any more.
    """
    arms = {BASE: Arm(BASE, "the student before training")}
    for name, own in config.arms.items():
        arms[name] = Arm(name, f"method {own.method}" if own.method else f"data of {own.data}")
    benchmarks: list[Benchmark] = []
    for stage in stages:
        arm = arms[stage.arm]
        if seconds := marks.seconds(stage):
            arm.seconds[stage.command] = arm.seconds.get(stage.command, 0.0) + seconds
        if not marks.is_done(stage):
            continue
        if stage.command == "synthesize":
            arm.traces[stage.seed] = count_traces(local(stage.folder))
        elif stage.command == "sft":
            arm.trainings[stage.seed] = _training(stage)
        else:
            assert isinstance(stage.config, EvaluateConfig)
            benchmarks = benchmarks or open_benchmarks(stage.config)  # the same of all
            arm.evaluations[stage.seed] = _evaluation(stage.config, benchmarks)
    _check_comparable(list(arms.values()), [each.label for each in benchmarks])
    return Results(
        config,
        list(arms.values()),
        [each.label for each in benchmarks],
        {each.label: _groups(each) for each in benchmarks if each.task.mean_over is not None},
        sum(stage.arm == BASE for stage in stages) < len(config.seeds),
        notes_on(stages),
        len(stages),
        [Unfinished(stage.name, _why(stage, marks)) for stage in stages if not marks.is_done(stage)],
    )


def _why(stage: Stage, marks: Marks) -> str:
    mark = marks.last(stage)
    if mark is None:
        return "not run yet"
    if mark.is_done:
        return "to be run again: its configuration or its data has changed"
    return "interrupted" if mark.code == 130 else f"failed (exit code {mark.code})"


def _training(stage: Stage) -> Training:
    folder = own_files(stage.folder, "metrics.jsonl", "corpus/rejects.jsonl")
    rows = [row for _, row in read_objects(folder / "metrics.jsonl") if row is not None]
    steps = [row for row in rows if "loss" in row]
    rejects = folder / "corpus" / "rejects.jsonl"
    return Training(
        {row["step"]: row["loss"] for row in steps},
        {row["step"]: row["held_out"]["loss"] for row in rows if "held_out" in row},
        sum(row["tokens_all"] for row in steps),
        read_points(rows),
        sum(1 for _ in read_objects(rejects)) if rejects.exists() else 0,
    )


def _evaluation(config: EvaluateConfig, benchmarks: Sequence[Benchmark]) -> dict[str, BenchmarkResult]:
    report = json.loads(local(config.output / "report.json").read_text("utf-8"))
    by_label = {one["label"]: one for one in report["results"]}
    return {each.label: _benchmark(config, each, by_label[each.label]) for each in benchmarks}


def _benchmark(config: EvaluateConfig, benchmark: Benchmark, reported: dict[str, Any]) -> BenchmarkResult:
    scores, lengths = reported["scores"], reported["lengths"]
    return BenchmarkResult(
        read_passes(config, benchmark),
        scores["score"]["value"],
        lengths["mean"],
        lengths["truncated"] / max(1, lengths["responses"]),
        scores["judge"],
    )


def _groups(benchmark: Benchmark) -> dict[str, str]:
    tag = benchmark.task.mean_over or ""
    return {problem.id: problem.tags.get(tag, "(none)") for problem in benchmark.problems}


def _check_comparable(arms: Sequence[Arm], labels: Sequence[str]) -> None:
    for label in labels:
        judges = {
            f"{arm.name}/seed-{seed}": json.dumps(found[label].judge, sort_keys=True)
            for arm in arms
            for seed, found in arm.evaluations.items()
        }
        first = next(iter(judges), "")
        for name, judge in judges.items():
            if judge != judges[first]:
                raise ScoreError(
                    f"{label}: {first} and {name} were judged by different judges: {judges[first][:300]}; "
                    f"{judge[:300]}; judge one of them anew: its evaluate with --stage judge --overwrite"
                )
