"""The third stage: scores and reports from what the judge said."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tessy_jax.config.evaluate import CheckpointConfig, EvaluateConfig, ServerConfig
from tessy_jax.config.schema import load_as
from tessy_jax.console.messages import say, tell
from tessy_jax.errors import DONE
from tessy_jax.evals.benchmark import Benchmark, open_benchmarks
from tessy_jax.evals.folders import judgements_file, read_judgements, read_responses, responses_file
from tessy_jax.evals.interchange import write_lcb_eval_all, write_lcb_outputs
from tessy_jax.evals.judged import JudgedProblem, judge_failed, read_judged
from tessy_jax.evals.judging import thoughts
from tessy_jax.evals.records import Judgement, Response
from tessy_jax.evals.report import Report, Result, lengths, write_report
from tessy_jax.evals.report_html import ToShow, write_html
from tessy_jax.evals.scores import Difference, ScoreError, Scores, compare_models, passes
from tessy_jax.evals.scores import score as score_benchmark
from tessy_jax.evals.tasks.livecodebench import LiveCodeBenchTask

_KS = (5, 10)
"""For pass@k and maj@k, as far as there are responses; and all of them."""


def score(config: EvaluateConfig, benchmarks: Sequence[Benchmark], model: str, console: Console) -> int:
    """Writes report.md, report.json and report.html, and files for other tools; returns the exit code.

    Raises:
        ScoreError: judgements are missing or of different judges.
    """
    results = [_result(config, each, model) for each in benchmarks]
    report = Report(f"Evaluation of {model}", results, _notes(config, benchmarks))
    shown = [
        ToShow(
            result,
            _judged(config, each),
            responses=result.lengths.responses,
            prompts=each.task.shows_prompts,
        )
        for each, result in zip(benchmarks, results, strict=True)
    ]
    write_html(config.output, report, shown)
    for each in benchmarks:
        _write_for_others(config, each)
    write_report(config.output, report)  # last: where it is, all is
    for result in results:
        tell(console, _line(result))
    say(console, f"report: {config.output}/report.md, report.html, report.json")
    return DONE


def compare(a: Path, b: Path) -> Table:
    """How far two evaluations differ, benchmark by benchmark, on the problems of both.

    Raises:
        ScoreError: they have no benchmark in common, or one was not judged.
    """
    configs = [load_as(EvaluateConfig, folder / "config.yaml") for folder in (a, b)]
    first, second = (
        {each.label: (config.model_copy(update={"output": folder}), each) for each in open_benchmarks(config)}
        for config, folder in zip(configs, (a, b), strict=True)
    )
    table = Table(title=f"{b} less {a}, points of pass@1")
    for column in ("benchmark", "difference", "95 % interval", "problems", "better", "worse"):
        table.add_column(column, justify="left" if column == "benchmark" else "right")
    for label in first:
        if label in second:
            one = compare_models(passes(_judgements(*first[label])), passes(_judgements(*second[label])))
            table.add_row(label, *_cells(one))
    if not table.row_count:
        raise ScoreError(f"{a} and {b} have no benchmark in common: {', '.join(first)}; {', '.join(second)}")
    return table


def read_passes(config: EvaluateConfig, benchmark: Benchmark) -> dict[str, float]:
    """By problem, the share of the responses that passed, from an evaluation's judgements."""
    return {name: sum(found) / len(found) for name, found in passes(_judgements(config, benchmark)).items()}


def _cells(one: Difference) -> list[str]:
    interval = f"{one.low:+.2f} to {one.high:+.2f}"
    return [f"{one.value:+.2f}", interval, str(one.problems), str(one.better), str(one.worse)]


def _result(config: EvaluateConfig, benchmark: Benchmark, model: str) -> Result:
    scores = _scores(config, benchmark)
    found = lengths(_responses(config, benchmark), thoughts(config.model))
    return Result(model, benchmark.label, scores, found, _settings(config))


def _scores(config: EvaluateConfig, benchmark: Benchmark) -> Scores:
    task = benchmark.task
    return score_benchmark(
        benchmark.problems,
        _judgements(config, benchmark),
        runs=benchmark.runs,
        groups=task.groups,
        ks=sorted({k for k in (*_KS, benchmark.runs) if 1 < k <= benchmark.runs}),
        mean_over=task.mean_over,
        allow_judge_errors=config.judge.allow_judge_errors,
        identity=task.identity() | {"on_truncated": config.judge.on_truncated},
    )


def _judgements(config: EvaluateConfig, benchmark: Benchmark) -> Iterator[Judgement]:
    """Those of the responses that are wanted: an earlier command may have asked for more. Where failures of the judge
    are allowed, a response without a judgement is one: failures are not stored, so that they are tried again.
    """
    left = benchmark.keys
    for judgement in read_judgements(config, benchmark.folder):
        if judgement.key in left:
            left.remove(judgement.key)
            yield judgement
    if config.judge.allow_judge_errors:
        for response in read_responses(config, benchmark.folder):
            if response.key in left:
                yield judge_failed(response)


def _judged(config: EvaluateConfig, benchmark: Benchmark) -> Iterator[JudgedProblem]:
    """The responses that are wanted, with their judgements, a problem at a time."""
    files = [place(config.output, benchmark.folder) for place in (responses_file, judgements_file)]
    allowed = config.judge.allow_judge_errors
    return read_judged(benchmark.problems, *files, runs=benchmark.runs, failed=allowed)


def _responses(config: EvaluateConfig, benchmark: Benchmark) -> Iterator[Response]:
    keys = benchmark.keys
    return (each for each in read_responses(config, benchmark.folder) if each.key in keys)


def _settings(config: EvaluateConfig) -> dict[str, Any]:
    """How the responses came about."""
    model = config.model
    if isinstance(model, CheckpointConfig):
        budgets, sampling = model.budgets, model.sampling
        thinking = {"max_think_tokens": budgets.max_think_tokens} if model.thinking is not None else {}
        return {
            **sampling.model_dump(),
            **thinking,
            "max_answer_tokens": budgets.max_answer_tokens,
            "seed": config.seed,
        }
    if isinstance(model, ServerConfig):
        return {"temperature": model.temperature, "max_tokens": model.max_tokens, **model.extra, "seed": config.seed}
    return {"responses": Path(model.path).name}


def _notes(config: EvaluateConfig, benchmarks: Sequence[Benchmark]) -> list[str]:
    """What a reader must know."""
    notes = []
    for each in benchmarks:
        options = each.task.identity()
        if options.get("python") == "cpython":
            notes.append(f"{each.label}: Python programs ran on CPython, not on PyPy as officially: slower ones fail.")
    if any(each.task.name in ("aime", "olympiadbench", "gpqa") for each in benchmarks):
        notes.append("Answers are judged by rules alone: OpenCompass also asks a language model about failures.")
    if config.limit is not None:
        notes.append(f"The first {config.limit} problems of each benchmark only.")
    return notes


def _write_for_others(config: EvaluateConfig, benchmark: Benchmark) -> None:
    """Files that LiveCodeBench's own tools read."""
    if not isinstance(benchmark.task, LiveCodeBenchTask):
        return
    folder = config.output / benchmark.folder
    write_lcb_outputs(folder / "custom_evaluator.json", _judged(config, benchmark))
    write_lcb_eval_all(folder / f"{benchmark.folder}_eval_all.json", _judged(config, benchmark), benchmark.task.rows())


def _line(result: Result) -> str:
    found = result.scores
    verdicts = " ".join(f"{name} {count}" for name, count in found.verdicts.items())
    return (
        f"score: {result.label}: {found.score.value:.2f} ± {found.score.error:.2f} % of {found.score.problems} "
        f"problems, {len(found.runs)} runs; {verdicts}"
    )
