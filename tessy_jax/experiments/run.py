"""What `experiment` runs: all stages that are not done, and the report of those that are."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from tessy_jax.config.experiment import ExperimentConfig
from tessy_jax.config.schema import to_yaml
from tessy_jax.console.messages import log_to, say, tell
from tessy_jax.data.jsonl import make_folder, replace_file
from tessy_jax.errors import DONE, ERROR, INTERRUPTED, REJECTS
from tessy_jax.experiments.marks import LOG, Marks, check, hold
from tessy_jax.experiments.notes import notes_on
from tessy_jax.experiments.processes import Processes, Runner
from tessy_jax.experiments.schedule import Schedule
from tessy_jax.experiments.stages import Stage, plan_stages


def experiment(
    config: ExperimentConfig, options: argparse.Namespace, console: Console, runner: Runner | None = None
) -> int:
    """Runs what is left of an experiment and writes its report; returns the exit code.

    Args:
        options: of the command: dry_run, report.
        console: for messages.
        runner: starts the stages; None: each as a process of its own.

    Raises:
        UserError: one of many kinds; the text says what was wrong and what to do.
    """
    stages = plan_stages(config)
    check(config.output)
    if options.dry_run:
        from tessy_jax.experiments.cost import dry_run

        return dry_run(stages, Marks(config.output))
    if options.report:
        return _report(config, stages, Marks(config.output), console)
    with hold(config.output, stages) as marks, log_to(marks.folder / LOG):
        replace_file(config.output / "config.yaml", to_yaml(config))
        for note in notes_on(stages):
            tell(console, note)
        schedule = Schedule(stages, marks, runner or Processes(), config.jobs, console)
        if schedule.left:
            schedule.run()
        else:
            tell(console, f"nothing left to do: all {len(stages)} stages are done")
        _report(config, stages, marks, console)
        return _end(schedule, console)


def _end(schedule: Schedule, console: Console) -> int:
    """Says what is left; returns the exit code."""
    left = schedule.left
    if schedule.interrupted and left:
        say(console, f"stopped with {len(left)} stages left; the same command goes on from here")
        return INTERRUPTED
    if left:
        waiting = [stage.name for stage in left if stage.name not in schedule.failed]
        without = f"; not run without them: {', '.join(waiting)}" if waiting else ""
        tell(console, f"error: stages failed: {', '.join(sorted(schedule.failed))}{without}")
        tell(console, "what is done is kept; repair this, and the same command goes on from here")
        return ERROR
    rejects = any((mark := schedule.marks.last(stage)) and mark.code == REJECTS for stage in schedule.stages)
    return REJECTS if rejects else DONE


def _report(config: ExperimentConfig, stages: Sequence[Stage], marks: Marks, console: Console) -> int:
    """Writes the report of what is done."""
    from tessy_jax.experiments.report import write_report
    from tessy_jax.experiments.results import read_results

    results = read_results(config, stages, marks)
    make_folder(config.output)
    write_report(config.output, results)
    say(console, f"report: {config.output}/report.md, report.html, report.json")
    return DONE
