"""What `evaluate` runs: three stages, generate, judge and score, each of which resumes and may run alone."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from tessy_jax.config.evaluate import CheckpointConfig, EvaluateConfig, ServerConfig
from tessy_jax.config.schema import to_yaml
from tessy_jax.console.messages import log_to, say, tell
from tessy_jax.data.jsonl import replace_file
from tessy_jax.errors import DONE, ERROR, INTERRUPTED
from tessy_jax.evals.benchmark import Benchmark, open_benchmarks
from tessy_jax.evals.folders import open_responses
from tessy_jax.evals.generate.base import ResponseSource
from tessy_jax.evals.generation import Ending, Wanted, generate
from tessy_jax.storage.outputs import hold

LOG = "run.log"
STAGES = ("generate", "judge", "score")


def evaluate(config: EvaluateConfig, options: argparse.Namespace, console: Console) -> int:
    """Runs the stages, and returns the exit code.

    Args:
        config: of the command.
        options: of the command: stage, dry_run, overwrite.
        console: for messages.

    Raises:
        UserError: one of many kinds; the text says what was wrong and what to do.
    """
    if options.dry_run:
        show_plan(config)
        return DONE
    stages = STAGES if options.stage is None else (options.stage,)
    return run_stages(config, console, stages, overwrite=options.overwrite)


def run_stages(
    config: EvaluateConfig, console: Console, stages: Sequence[str] = STAGES, *, overwrite: bool = False
) -> int:
    """Does what of these stages is left to do, and returns the exit code. Raises as `evaluate` does."""
    benchmarks = open_benchmarks(config)
    if "judge" in stages:
        check_tests(config, benchmarks)
    source = open_source(config)
    with hold(config.output, [LOG]) as held, log_to(held.path / LOG):
        replace_file(config.output / "config.yaml", to_yaml(config))
        code = DONE
        if "generate" in stages:
            code = _generate(config, benchmarks, source, stages, overwrite, console)
            held.commit()
        if code == DONE and "judge" in stages:
            from tessy_jax.evals.judging import judge

            code = judge(config, benchmarks, overwrite, console)
            held.commit()
        if code == DONE and "score" in stages:
            from tessy_jax.evals.scoring import score

            code = score(config, benchmarks, source.name, console)
        return code


def open_source(config: EvaluateConfig) -> ResponseSource:
    """Where the configuration says that responses come from; large things are loaded when it begins.

    Raises:
        ConfigError, TextError, WeightsError, TaskError: what it needs is not there or damaged.
    """
    if isinstance(config.model, CheckpointConfig):
        from tessy_jax.evals.generate.checkpoint import Checkpoint  # imports JAX, which the others do not need

        return Checkpoint.open(config.model, config.seed)
    if isinstance(config.model, ServerConfig):
        from tessy_jax.evals.generate.server import Server

        return Server(config.model, config.seed)
    from tessy_jax.evals.generate.file import File

    return File(config.model)


def _generate(
    config: EvaluateConfig,
    benchmarks: Sequence[Benchmark],
    source: ResponseSource,
    stages: Sequence[str],
    overwrite: bool,
    console: Console,
) -> int:
    """The first stage; returns the exit code. Where `stages` judge what it writes, the judges are tried before."""
    with ExitStack() as stack:
        wanted = []
        for each in benchmarks:
            identity = {"source": source.identity(), "seed": config.seed, "benchmark": each.question_identity}
            run = stack.enter_context(open_responses(config, each.folder, identity, overwrite))
            wanted.append(Wanted(each, run))
        if "judge" in stages and any(each.benchmark.keys - each.run.done for each in wanted):
            try_judges(config, benchmarks)
        ending = generate(wanted, source, console)
        refused = sum(len(each.run.failed & each.benchmark.keys) for each in wanted)
        left = sum(len(each.benchmark.keys - each.run.done) for each in wanted)
    if refused:
        tell(console, f"{refused} responses could not be written: see rejects.jsonl in {config.output}/*/responses")
    return _exit_code(ending, left, console)


def _exit_code(ending: Ending, left: int, console: Console) -> int:
    if ending.error is not None:
        tell(console, f"error: {ending.error}")
        tell(console, "what is done is kept; repair this, and the same command goes on from here")
        return ERROR
    if ending.interrupted and left:
        say(console, "stopped; the same command goes on from here")
        return INTERRUPTED
    return DONE


def show_plan(config: EvaluateConfig) -> int:
    """Prints what would be asked, how often, and by what it would be judged; tries the judges. Raises as `evaluate`.

    Returns the number of responses.
    """
    benchmarks = open_benchmarks(config)
    check_tests(config, benchmarks)
    source = open_source(config)
    out = Console(highlight=False, markup=False, soft_wrap=True)
    for each in benchmarks:
        out.rule(f"{each.label}: {len(each.problems)} problems, {each.runs} responses each")
        for problem in each.problems[:1]:
            out.print(f"problem {problem.id}")
            out.print(source.preview(problem))
    total = sum(len(each.problems) * each.runs for each in benchmarks)
    out.rule("plan")
    out.print(f"{total} responses by {source.name}")
    if tools := try_judges(config, benchmarks):
        out.rule("programs run in a sandbox, which holds here")
        for language, version in tools.items():
            out.print(f"{language}: {version}")
    return total


def check(config: EvaluateConfig) -> None:
    """Raises what `evaluate` would raise before its first response: of files, tests, prompts and judges."""
    benchmarks = open_benchmarks(config)
    check_tests(config, benchmarks)
    open_source(config)
    try_judges(config, benchmarks)


def check_tests(config: EvaluateConfig, benchmarks: Sequence[Benchmark]) -> None:
    """Raises TaskError where a benchmark's tests are not there."""
    for each in benchmarks:
        each.check_tests(config.judge.allow_judge_errors)


def try_judges(config: EvaluateConfig, benchmarks: Sequence[Benchmark]) -> dict[str, str]:
    """Opens what judges the benchmarks, and closes it: the versions of what runs programs, by language.

    Raises:
        SandboxError: the sandbox does not hold here, or a language is missing.
        MathJudgeError: math-verify is not installed, or does not start.
    """
    from tessy_jax.evals.judging import Judges

    with Judges(config, benchmarks) as judges:
        return judges.open()


def compare_runs(a: Path, b: Path) -> int:
    """Prints how far two evaluations differ on the problems of both, and returns the exit code."""
    from tessy_jax.evals.scoring import compare

    Console().print(compare(a, b))
    return DONE
