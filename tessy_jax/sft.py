"""Train the student on traces: `python -m tessy_jax.sft [configs/sft_demo.yaml] [options] [key=value …]`."""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import jax
from jax.sharding import Mesh
from rich.console import Console

from tessy_jax.analysis.curves import draw
from tessy_jax.config.schema import to_yaml
from tessy_jax.config.sft import SftConfig
from tessy_jax.console import app
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import log_to, tell
from tessy_jax.console.progress import View
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.training_folder import run_directory
from tessy_jax.devices import processes
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.errors import DONE, INTERRUPTED, REJECTS
from tessy_jax.train.checkpoints import CheckpointError, Checkpoints
from tessy_jax.train.data.inspect import inspect
from tessy_jax.train.data.packing import BatchPlan
from tessy_jax.train.data.sft_data import SftData
from tessy_jax.train.export import export
from tessy_jax.train.memory import memory_lines
from tessy_jax.train.metrics import MetricsFile, Reporter, Sink, TensorBoard
from tessy_jax.train.mfu import peak_of
from tessy_jax.train.step import TrainState, batch_sharding, make_eval, make_step
from tessy_jax.train.student import Student
from tessy_jax.train.trainer import Trainer, TrainingError

CONFIG = app.ConfigFile(SftConfig, "configs/sft_demo.yaml", example="optimizer.lr=1e-5")
_FORMAT = "tessy_jax sft 1"
_WRITTEN = (
    *("corpus", "held_out", "checkpoints", "tensorboard", "export"),
    *("metrics.jsonl", "run*.log", "curves.png", "config.yaml"),
)
"""What a run leaves in its directory, besides the manifest, as patterns."""


def run(options: argparse.Namespace, _: Console) -> int:
    """Trains the student."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about what is meant here
    config = CONFIG.load(options)
    if options.pod:
        processes.initialize()
    try:
        return _sft(config, options, Console(stderr=True, quiet=jax.process_index() > 0))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _out_of_memory(error) from None


EXPORTED = "export a checkpoint and stop: newest (default), best (lowest held-out loss) or a step"
main = app.Command(
    name="sft",
    description="Trains a student on traces and writes a Hugging Face folder. Running it again resumes.",
    config=CONFIG,
    options=(
        app.output_option(),
        app.dry_run_option("data, plan and memory"),
        app.option("--inspect", "show the rows of the first N steps, then stop", type=int, metavar="N"),
        app.OVERWRITE,
        app.option("--export-only", EXPORTED, nargs="?", const="newest", metavar="STEP"),
        app.POD,
    ),
    run=run,
)


def _out_of_memory(error: Exception) -> TrainingError:
    reason = " ".join(str(error).split())[:300]
    return TrainingError(
        f"a device has too little memory ({reason}). Raise batch.accumulate or mesh.fsdp, set compute.remat=full, or "
        "lower compute.loss_chunk or data.length; --dry-run says what a step needs"
    )


# -- one run -----------------------------------------------------------------------------------------------------------


def _sft(config: SftConfig, options: argparse.Namespace, console: Console) -> int:
    if config.compute.compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(config.compute.compilation_cache))
    pieces = config.batch.rows // config.batch.accumulate
    mesh = make_mesh(config.mesh, pieces, "batch.rows / batch.accumulate")
    student = Student.open(config)
    if options.dry_run or options.inspect is not None:
        return _look(student, mesh, options)
    index, count = jax.process_index(), jax.process_count()
    name = "run.log" if count == 1 else f"run-{index:05d}-of-{count:05d}.log"
    identity, yaml = student.identity(), to_yaml(config)
    with (
        run_directory(config.output, _FORMAT, _WRITTEN, yaml, identity, options.overwrite),
        log_to(config.output / name),
    ):
        return _train(student, mesh, options, console)


def _train(student: Student, mesh: Mesh | None, options: argparse.Namespace, console: Console) -> int:
    config, path = student.config, student.config.output
    tell(console, f"reading {', '.join(config.data.train)}")
    material = SftData.open(config, student.chat, path)
    tell(console, material.summary())
    plan = material.train.plan
    optimizer = student.optimizer(plan.steps)
    with Checkpoints(path / "checkpoints", config.checkpoint.keep, config.checkpoint.best) as checkpoints:
        if options.export_only is not None:
            done = _chosen(checkpoints, options.export_only)
            state, _ = checkpoints.restore(done, student.load(mesh, optimizer))
            return _export(student, state, mesh, console)
        done = checkpoints.newest or 0
        if done == plan.steps and (path / "export").is_dir():
            tell(console, f"nothing left to do: all {done} steps are done, the trained student is in {path}/export")
            return _code(material, console)
        if config.lora is not None:
            tell(console, "LoRA: in the paper (Fig. 13) rank 8 made the student much worse than training all weights")
        tell(console, f"loading {student.folder}")
        state, data = student.load(mesh, optimizer), iter(material.train)
        if done:
            state, position = checkpoints.restore(done, state)
            data.set_state(position)
            tell(console, f"going on after step {done} of {plan.steps}")
        reporter = _reporter(student, plan, done, console)
        loop = Trainer(
            step=make_step(student.model, mesh, optimizer, student.compute, student.tuning),
            evaluate=make_eval(student.model, mesh, student.compute, student.tuning),
            sharding=None if mesh is None else batch_sharding(mesh),
            held_out=material.held_out,
            names=material.train.names,
            arithmetic=student.arithmetic,
            total=plan.steps,
            checkpoint_every=config.checkpoint.every,
            evaluate_every=config.evaluate_every,
        )
        tell(console, f"compiling for {1 if mesh is None else mesh.size} x {jax.devices()[0].device_kind}")
        with Interrupt(console, "this step") as stop, View("training", reporter.cells, console) as view:
            state = loop.run(state, data, checkpoints, reporter, stop, view.update)
        reporter.close()
        checkpoints.wait()
    if jax.process_index() == 0:
        draw(path / "metrics.jsonl", path / "curves.png")
    if int(state.step) < plan.steps:
        tell(console, f"stopped after step {int(state.step)} of {plan.steps}; the same command goes on from here")
        return INTERRUPTED
    _export(student, state, mesh, console)
    return _code(material, console)


def _reporter(student: Student, plan: BatchPlan, done: int, console: Console) -> Reporter:
    """What writes the lines of numbers: the first process."""
    config, path = student.config, student.config.output
    sinks: list[Sink] = []
    if jax.process_index() == 0:
        sinks.append(MetricsFile(path / "metrics.jsonl", done))
        if config.report.tensorboard:
            sinks.append(TensorBoard(path / "tensorboard", done))
    peak = peak_of(jax.devices()[0], config.compute.dtype, config.report.peak_tflops)
    if peak is not None:
        tell(console, student.arithmetic.formula(peak))
        peak *= jax.local_device_count()
    return Reporter(sinks, first=done, total=plan.steps, epoch=plan.epoch, peak=peak)


def _chosen(checkpoints: Checkpoints, which: str) -> int:
    """The step that the user wants exported."""
    named = {"newest": checkpoints.newest, "best": checkpoints.best}
    step = named[which] if which in named else int(which) if which.isdecimal() else None
    if step in checkpoints.steps:
        return step
    there = ", ".join(map(str, checkpoints.steps)) or "none"
    raise CheckpointError(f"there is no checkpoint '{which}' to export; steps with one: {there}")


def _export(student: Student, state: TrainState, mesh: Mesh | None, console: Console) -> int:
    folder = student.config.output / "export"
    export(student.trained(state, mesh), student.folder, folder, student.config.prompt.template)
    tell(console, f"the student after step {int(state.step)} is in {folder}")
    return DONE


def _code(material: SftData, console: Console) -> int:
    if not material.rejected:
        return DONE
    tell(console, f"{material.rejected} rows could not be used; see {material.train.corpus.folder}/rejects.jsonl")
    return REJECTS


# -- looking without training ------------------------------------------------------------------------------------------


def _look(student: Student, mesh: Mesh | None, options: argparse.Namespace) -> int:
    """Shows what a run would train on; writes nothing but, for a moment, a folder of its own."""
    out = Console(highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = student.config.output if (student.config.output / "corpus").is_dir() else Path(scratch)
        material = SftData.open(student.config, student.chat, folder)
        if options.inspect is not None:
            for step in range(min(options.inspect, len(material.train))):
                out.rule(f"step {step + 1}")
                inspect(material.train.batch(step), student.chat, out)
        if options.dry_run:
            out.print(material.summary())
            for rejected in sorted(folder.glob("*/rejects.jsonl")):
                for _, row in read_objects(rejected):
                    if row is not None:
                        out.print(f"reject: {row['file']}:{row['line']}: {row['reason']}")
            out.rule("memory of a device in a step, GiB")
            out.print(memory_lines(student.memory(mesh, material.train.plan.steps)))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
