"""What benchmarks say of a student while it is trained: accuracy by epoch, as in the paper's Fig. 11.

At each of its steps a run pauses, saves, and does what `python -m tessy_jax.evaluate` would do with that student:

    RUN/evaluations/step-000123/    an evaluation: responses, judgements, report; it resumes as every evaluation does
    RUN/exports/step-000123/        the student, as it is exported at a run's end; it goes when the evaluation is done
    RUN/metrics.jsonl               a line for each benchmark

Nothing of it comes back into the training: weights and numbers are those of a run without.
"""

import gc
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import yaml
from rich.console import Console

from tessy_jax import models
from tessy_jax.config.evaluate import CheckpointConfig, EvaluateConfig
from tessy_jax.config.schema import to_yaml
from tessy_jax.config.sections import MeshConfig
from tessy_jax.config.sft import BenchmarksConfig
from tessy_jax.console.messages import tell
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.run_folder import RunDirError
from tessy_jax.engine.dry_run import GIB, Part
from tessy_jax.errors import DONE, ERROR, ConfigError, UserError
from tessy_jax.evals.run import check, run_stages, show_plan
from tessy_jax.train.accuracy import read_points, table
from tessy_jax.train.data.packing import BatchPlan

Write = Callable[[Mapping[str, Any]], None]
"""Takes a line of `metrics.jsonl`."""
Export = Callable[[str], object]
"""Writes a student into a folder of the run, given by its name."""
Bring = Callable[[Path], None]
"""Brings a student to this machine, where an empty folder stands for it."""


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of one run.

    Attributes:
        section: of the configuration.
        base: the checkpoint that the training begins with.
        run: directory of the run.
        plan: its steps.
    """

    section: BenchmarksConfig
    base: Path
    run: Path
    plan: BatchPlan

    @cached_property
    def steps(self) -> list[int]:
        """The steps after which the student is evaluated; 0: before the first."""
        every, last = self.section.every, self.plan.steps
        between = self.plan.epoch_ends if every == "epoch" else range(every, last, every)
        return sorted({0, *between, last})

    def config(self, step: int) -> EvaluateConfig:
        """With which `evaluate` would do the same."""
        return self.section.of(self.export_folder(step) if step else self.base, self.run / "evaluations" / _name(step))

    def export_folder(self, step: int) -> Path:
        """Where the student is while it is evaluated."""
        return self.run / "exports" / _name(step)

    def unfinished(self, before: int) -> list[int]:
        """The steps before one whose evaluations are not done and can be: their models are there."""
        there = [one for one in self.steps if one < before and (one == 0 or self.export_folder(one).is_dir())]
        return [one for one in there if not self._is_done(one)]

    def evaluate(self, step: int, write: Write, console: Console, bring: Bring, export: Export | None = None) -> int:
        """Does what is left of the evaluation after a step, if there is one; returns an exit code.

        Args:
            write: takes the lines for `metrics.jsonl` that are not there.
            bring: called before its folder is read.
            export: writes the student of this step; None: it is there.
        """
        if step not in self.steps:
            return DONE
        if not self._is_done(step):
            tell(console, f"evaluating the student after step {step} ({self.plan.passes(step):g} epochs)")
            try:
                code = self._evaluate(step, console, bring, export)
            except (UserError, OSError, jax.errors.JaxRuntimeError) as error:
                tell(console, f"error: {_reason(error)}")
                if isinstance(error, RunDirError):
                    folder = self.config(step).output
                    tell(console, f"to evaluate anew, remove {folder}: --overwrite would begin the training anew")
                code = ERROR
            gc.collect()  # or the engine's weights and caches would stay on the devices
            if code != DONE:
                return code
        there = self._lines()
        for line in self._results(step):
            if line not in there:
                write(line)
        if not self.section.keep_exports:
            shutil.rmtree(self.export_folder(step), ignore_errors=True)
            with suppress(OSError):  # of others that are there
                self.export_folder(step).parent.rmdir()
        return DONE

    def table(self) -> list[str]:
        """All results up to now, as lines of text."""
        return table(read_points(self._lines()))

    def _evaluate(self, step: int, console: Console, bring: Bring, export: Export | None) -> int:
        config = self.config(step)
        (config.output / "report.json").unlink(missing_ok=True)  # of an evaluation by another configuration
        if step and self.export_folder(step).is_dir():
            bring(self.export_folder(step))
        elif step:
            assert export is not None
            export(f"exports/{_name(step)}")
        return run_stages(config, console)

    def _is_done(self, step: int) -> bool:
        """By the configuration as it is now: the report is the last that an evaluation writes."""
        config = self.config(step)
        written = config.output / "config.yaml"
        same = written.is_file() and _elsewhere(written.read_text("utf-8")) == _elsewhere(to_yaml(config))
        return same and (config.output / "report.json").is_file()

    def _results(self, step: int) -> list[dict[str, Any]]:
        """The lines of an evaluation."""
        report = json.loads((self.config(step).output / "report.json").read_text("utf-8"))
        when = {"step": step, "epochs": round(self.plan.passes(step), 4)}
        return [when | {"benchmarks": {result["label"]: _numbers(result)}} for result in report["results"]]

    def _lines(self) -> list[dict[str, Any]]:
        path = self.run / "metrics.jsonl"
        return [row for _, row in read_objects(path) if row is not None] if path.exists() else []


def check_evaluations(section: BenchmarksConfig, base: Path, run: Path) -> None:
    """Raises what an evaluation of the base model would raise before its first response.

    Raises:
        ConfigError: there are several processes. All else that `evaluate` raises of files, prompts and the sandbox.
    """
    if jax.process_count() > 1:
        raise ConfigError(
            "evaluate: a run of several processes evaluates nothing while it trains; take this section out, and use "
            "--export-only and tessy_jax.evaluate"
        )
    check(section.of(base, run / "evaluations" / _name(0)))


def show_evaluations(evaluations: Evaluations, out: Console) -> None:
    """Prints what an evaluation asks, and what all of them cost."""
    section, steps = evaluations.section, evaluations.steps
    responses = show_plan(evaluations.config(0))
    budgets = section.model.budgets
    longest = budgets.max_answer_tokens + (budgets.max_think_tokens if section.model.thinking is not None else 0)
    out.rule("evaluations while it trains")
    out.print(
        f"{len(steps)} evaluations, after steps {', '.join(map(str, steps))}, of {responses} responses: "
        f"{len(steps) * responses} in all, at most {longest:,} tokens each"
    )
    answering = evaluations.config(0).model
    assert isinstance(answering, CheckpointConfig)
    shapes = replace(models.read_config(evaluations.base), **answering.role.loading)
    memory = Part("student", shapes, cache=answering.cache).memory(answering.engine, MeshConfig())
    out.rule("memory of an evaluation beside the training's state, GiB over all devices")
    out.print(f"{'weights':<28}{memory.weights / GIB:8.2f}\n{'cache':<28}{memory.cache / GIB:8.2f}")


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _elsewhere(text: str) -> dict[str, Any]:
    """A configuration without where the run is: one on a store may go on from another folder."""
    values = yaml.safe_load(text)
    return values | {"output": None, "model": values["model"] | {"model": None}}


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of a benchmark, as a line of metrics has it."""
    scores, lengths = result["scores"], result["lengths"]
    return {
        "accuracy": scores["score"]["value"],
        "standard_error": scores["score"]["error"],
        "problems": scores["score"]["problems"],
        "runs": len(scores["runs"]),
        "mean_tokens": lengths["mean"],
        "truncated": lengths["truncated"],
    }


def _reason(error: Exception) -> str:
    if isinstance(error, jax.errors.JaxRuntimeError):
        text = " ".join(str(error).split())[:300]
        advice = "lower evaluate.model.engine.batch or .context, or raise an axis of evaluate.model.mesh"
        full = "RESOURCE_EXHAUSTED" in text
        return f"a device has too little memory for the evaluation ({text}); {advice}" if full else text
    return str(error)
