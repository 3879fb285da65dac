"""A training run from its configuration to its exit code: `sft` and `train_predictor` are this one run.

Open what is to be trained; take the run directory; read the data; begin, or restore the newest checkpoint; train until
the last step, until the patience is over or until the user stops the run; draw the curves; export.
"""

import argparse
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from rich.console import Console

from tessy_jax.config.schema import to_yaml
from tessy_jax.config.sft import SftConfig
from tessy_jax.config.train_predictor import TrainPredictorConfig
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import log_to, tell
from tessy_jax.console.progress import View, compiling
from tessy_jax.data.run_folder import has_checkpoints, rules_of
from tessy_jax.devices import compilation_cache, processes
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.errors import DONE, ERROR, INTERRUPTED, REJECTS
from tessy_jax.train.checkpoints import Checkpoints
from tessy_jax.train.classifier import Classifier
from tessy_jax.train.curves import draw
from tessy_jax.train.data.inspect import inspect
from tessy_jax.train.evaluations import Evaluations, check_evaluations, show_evaluations
from tessy_jax.train.learner import Learner, TrainingData
from tessy_jax.train.memory import memory_lines
from tessy_jax.train.metrics import MetricsFile, Reporter, Sink, TensorBoard
from tessy_jax.train.mfu import peak_of
from tessy_jax.train.optimizer import AdamW
from tessy_jax.train.patience import Patience, StopOrPatience
from tessy_jax.train.run_home import RunHome, folder_here, open_home
from tessy_jax.train.step import TrainState, batch_sharding, make_eval, make_step
from tessy_jax.train.student import Student
from tessy_jax.train.trainer import BatchIterator, Trainer, TrainingError

_SAME = ("overwrite", "dry_run", "inspect", "export_only")
"""Options that all processes of a pod have the same."""


# -- the commands ------------------------------------------------------------------------------------------------------


def sft(config: SftConfig, options: argparse.Namespace, console: Console) -> int:
    """Trains a student on traces, and returns the exit code.

    Args:
        options: of the command: pod, pod_timeout, dry_run, inspect, overwrite, export_only.
        console: for messages.

    Raises:
        UserError: one of many kinds; the text says what was wrong and what to do.
    """
    if options.pod:
        more = {f"--{name.replace('_', '-')}": getattr(options, name) for name in _SAME}
        processes.initialize(options.pod_timeout, config.model_dump(mode="json") | more)
        console = Console(stderr=True, quiet=jax.process_index() > 0)
    compilation_cache.use(config.compute)
    mesh = make_mesh(config.mesh, config.batch.rows // config.batch.accumulate, "batch.rows / batch.accumulate")
    student = Student.open(config)
    if options.inspect is not None:
        _inspect(student, options.inspect)
    if options.dry_run or options.inspect is not None:
        return _dry_run(student, mesh) if options.dry_run else DONE
    if config.evaluate is not None and options.export_only is None:
        check_evaluations(config.evaluate, student.folder, folder_here(config.output))
    return _run(student, mesh, console, overwrite=options.overwrite, export_only=options.export_only)


def train_predictor(config: TrainPredictorConfig, options: argparse.Namespace, console: Console) -> int:
    """Trains a boundary predictor on annotated segments, and returns the exit code. Raises as `sft` does.

    Args:
        options: of the command: dry_run, overwrite.
        console: for messages.
    """
    compilation_cache.use(config.compute)
    mesh = make_mesh(config.mesh, config.mesh.data * config.mesh.fsdp, "mesh")
    classifier = Classifier.open(config)
    if options.dry_run:
        return _dry_run(classifier, mesh)
    return _run(classifier, mesh, console, overwrite=options.overwrite)


# -- looking without training ------------------------------------------------------------------------------------------


def _inspect(student: Student, steps: int) -> None:
    """Shows the rows of the first steps."""
    out = _plain_output()
    with student.preview() as data:
        for step in range(min(steps, len(data.train))):
            out.rule(f"step {step + 1}")
            inspect(data.train.batch(step), student.chat, out)


def _dry_run(learner: Learner[Any, Any], mesh: Mesh | None) -> int:
    """Shows the data, the plan, and the memory that the run will need."""
    out = _plain_output()
    for warning in learner.warnings:
        out.print(warning)
    with learner.preview() as data:
        out.print(data.summary())
        for reject in data.rejects():
            out.print(f"reject: {reject}")
        with _out_of_memory_explained(learner):
            memory = learner.memory(mesh, data.train.plan)
        if not memory.device.keys() <= memory.host.keys():  # the devices have memory of their own
            out.rule("memory of a device, GiB")
            out.print(memory_lines(memory.device))
        out.rule("memory of the host, GiB")
        out.print(memory_lines(memory.host))
        if (evaluations := learner.evaluations(data.train.plan)) is not None:
            show_evaluations(evaluations, out)
        return REJECTS if data.rejected else DONE


def _plain_output() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


# -- one run -----------------------------------------------------------------------------------------------------------


def _run(
    learner: Learner[Any, Any],
    mesh: Mesh | None,
    console: Console,
    *,
    overwrite: bool,
    export_only: str | None = None,
) -> int:
    """Takes the run directory and does the run, or what is left of it; returns the exit code.

    Args:
        overwrite: start anew where an earlier run wrote.
        export_only: instead, export this checkpoint: "newest", "best" or a step.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax warns of what is meant here; its errors are raised too
    if not overwrite and (rules := _rules_begun(learner)) is not None:
        learner = replace(learner, rules=rules)
    output, identity, yaml = learner.config.output, learner.identity(), to_yaml(learner.config)
    with (
        _out_of_memory_explained(learner),
        open_home(output, learner.manifest, learner.written, yaml, identity, overwrite) as home,
        log_to(home.path / _log_name()),
    ):
        learner = replace(learner, home=home)
        data = learner.read(console)
        tell(console, data.summary())
        run = _TrainingRun(learner, data, mesh, console, home)
        with home.checkpoints(learner.config.checkpoint.keep, learner.keep_best) as checkpoints:
            return run.train(checkpoints) if export_only is None else run.export(checkpoints, export_only)


def _rules_begun(learner: Learner[Any, Any]) -> int | None:
    """The rules of the run that is to go on; None where none has a checkpoint yet."""
    output = learner.config.output
    return rules_of(output, learner.manifest) if has_checkpoints(output) else None


@dataclass(frozen=True)
class _TrainingRun:
    """A run whose directory is held and whose data is read."""

    learner: Learner[Any, Any]
    data: TrainingData
    mesh: Mesh | None
    console: Console
    home: RunHome

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.data.train.plan.steps

    @cached_property
    def evaluations(self) -> Evaluations | None:
        """On benchmarks, while it trains."""
        return self.learner.evaluations(self.data.train.plan)

    @property
    def optimizer(self) -> AdamW:
        return self.learner.optimizer(self.steps)

    def export(self, checkpoints: Checkpoints, which: str) -> int:
        """Exports a checkpoint."""
        step = checkpoints.find(which)
        state, _ = checkpoints.restore(step, self.learner.load(self.mesh, self.optimizer))
        self.learner.export(state, self.mesh, self.console, here=False)
        return DONE

    def train(self, checkpoints: Checkpoints) -> int:
        """Does the steps that no checkpoint has, and exports what came of them."""
        learner, path = self.learner, self.learner.path
        done = checkpoints.newest or 0
        patience = learner.patience(done)
        over = self._over(done, patience)
        if over and (message := learner.already_done(self.steps)) is not None:
            if self._make_up(done, self.steps + 1) == INTERRUPTED:
                return INTERRUPTED
            tell(self.console, f"nothing left to do: {message}")
            return self._end()

        for warning in learner.warnings:
            tell(self.console, warning)
        if self._make_up(done, done) == INTERRUPTED:
            return INTERRUPTED
        tell(self.console, f"loading {learner.folder}")
        state, batches = learner.load(self.mesh, self.optimizer), iter(self.data.train)
        stopped = False
        if not over or self.evaluations is not None:
            if done:  # in this function, so that nobody still holds the state that was loaded
                state, position = checkpoints.restore(done, state)
                batches.set_state(position)
                tell(self.console, f"going on after step {done} of {self.steps}")
            state, stopped = self._advance(state, batches, patience, checkpoints)
            done = int(state.step)
        if jax.process_index() == 0:
            draw(path / "metrics.jsonl", path / "curves.png")
        if stopped or not self._over(done, patience):
            tell(self.console, f"stopped after step {done} of {self.steps}; the same command goes on from here")
            return INTERRUPTED

        chosen = (checkpoints.best or done) if learner.exports_best else done
        if chosen != int(state.step):
            state, _ = checkpoints.restore(chosen, state)
        learner.finish(state, self.data, self.mesh, patience.over, self.console)
        return self._end()

    def _over(self, step: int, patience: Patience) -> bool:
        return step == self.steps or patience.over

    def _advance(
        self, state: TrainState, batches: BatchIterator, patience: Patience, checkpoints: Checkpoints
    ) -> "_Advanced":
        """Trains from `state` to the end, or until the run is stopped; the checkpoint of the last step is on disk then.

        Args:
            batches: the next is that of the step after `state`.
        """
        reporter = self._reporter(int(state.step), patience)
        trainer = self._trainer()
        phase: str | None = compiling(1 if self.mesh is None else self.mesh.size, jax.devices()[0])
        while not (stopped := self._evaluate(state, reporter)) and not self._over(int(state.step), patience):
            if phase is not None:
                tell(self.console, phase)
            with (
                Interrupt(self.console, "this step") as stop,
                View("training", reporter.cells, self.console, waiting=phase) as view,
            ):
                state = trainer.run(state, batches, checkpoints, reporter, StopOrPatience(stop, patience), view.update)
            checkpoints.wait()
            phase = None
            if processes.anywhere(stop.asked):  # a signal to one process stops all
                stopped = self.evaluations is not None  # which may have one left
                break
        reporter.close()
        return _Advanced(state, stopped)

    def _evaluate(self, state: TrainState, reporter: Reporter) -> bool:
        """Does what is left of the evaluation at this step, if there is one; returns whether the user stopped it.

        One that fails leaves its student and its responses where they are, and the training goes on.
        """
        if self.evaluations is None:
            return False
        step, output = int(state.step), self.learner.path

        def export(name: str) -> None:
            self.learner.export(state, self.mesh, self.console, name)

        code = self.evaluations.evaluate(step, reporter.write, self.console, self.home.bring, export)
        if code == ERROR and step == 0:
            raise TrainingError("the model before training could not be evaluated, and nothing is trained yet")
        reporter.pause()
        draw(output / "metrics.jsonl", output / "curves.png")
        self.home.commit()
        return code == INTERRUPTED

    def _make_up(self, done: int, before: int) -> int:
        """Does again what evaluations of steps before `before` failed; returns an exit code.

        Args:
            done: the step of the newest checkpoint.
        """
        left = self.evaluations.unfinished(before) if self.evaluations else []
        if not (self.evaluations and left):
            return DONE
        sinks = self._sinks(done)

        def write(row: Mapping[str, Any]) -> None:
            for sink in sinks:
                sink.write(row)

        for step in left:
            code = self.evaluations.evaluate(step, write, self.console, self.home.bring)
            if code == INTERRUPTED:
                break
        for sink in sinks:
            sink.close()
        return code

    def _trainer(self) -> Trainer:
        learner, mesh = self.learner, self.mesh
        how = (learner.compute, learner.tuning)
        return Trainer(
            step=make_step(
                learner.model, mesh, self.optimizer, *how, objective=learner.objective, router_loss=learner.router_loss
            ),
            evaluate=make_eval(learner.model, mesh, *how, objective=learner.objective),
            sharding=None if mesh is None else batch_sharding(mesh),
            held_out=self.data.held_out,
            names=self.data.train.names,
            arithmetic=learner.arithmetic,
            total=self.steps,
            checkpoint_every=learner.config.checkpoint.every,
            evaluate_every=learner.evaluate_every,
            pauses=frozenset(self.evaluations.steps if self.evaluations else ()),
        )

    def _reporter(self, done: int, patience: Patience) -> Reporter:
        """What reports the numbers; of several processes, the first writes them."""
        config = self.learner.config
        sinks = self._sinks(done)
        peak = peak_of(jax.devices()[0], config.compute.dtype, config.report.peak_tflops)
        if peak is not None:
            tell(self.console, self.learner.arithmetic.formula(peak))
            peak *= jax.local_device_count()
        epoch = self.data.train.plan.epoch
        return self.learner.reporter(sinks, patience, first=done, total=self.steps, epoch=epoch, peak=peak)

    def _sinks(self, done: int) -> list[Sink]:
        """Where the numbers go after step `done`; of several processes, the first writes them."""
        config, path = self.learner.config, self.learner.path
        sinks: list[Sink] = []
        if jax.process_index() == 0:
            sinks.append(MetricsFile(path / "metrics.jsonl", done))
            if config.report.tensorboard:
                sinks.append(TensorBoard(path / "tensorboard", done))
        return sinks

    def _end(self) -> int:
        """Says what the run did not do, and returns the exit code."""
        code = DONE
        if self.data.rejected:
            file = self.learner.config.output / self.learner.rejects_file
            tell(self.console, f"{self.data.rejected} rows could not be used; see {file}")
            code = REJECTS
        if self.evaluations is None:
            return code
        for line in self.evaluations.table():
            tell(self.console, line)
        if left := self.evaluations.unfinished(self.steps + 1):
            steps = ", ".join(map(str, left))
            tell(self.console, f"error: evaluations failed, after steps {steps}; the same command does them again")
            code = ERROR
        return code


class _Advanced(NamedTuple):
    """Where the training is, and whether the user stopped it."""

    state: TrainState
    stopped: bool


def _log_name() -> str:
    """A log for each process."""
    index, count = jax.process_index(), jax.process_count()
    return "run.log" if count == 1 else f"run-{index:05d}-of-{count:05d}.log"


@contextmanager
def _out_of_memory_explained(learner: Learner[Any, Any]) -> Iterator[None]:
    """Raises TrainingError, with what to do, in place of JAX's error where a device has too little memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise TrainingError(
            f"a device has too little memory ({reason}). {learner.memory_advice}; --dry-run says what a step needs"
        ) from None
