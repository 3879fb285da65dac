"""Train a boundary predictor: `python -m tessy_jax.train_predictor [configs/predictor.yaml] [options] [key=value]`."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from tessy_jax import models
from tessy_jax.analysis.curves import draw
from tessy_jax.analysis.predictor_report import write_report
from tessy_jax.config.predictors import TrainPredictorConfig
from tessy_jax.config.schema import to_yaml
from tessy_jax.console import app
from tessy_jax.console.interrupt import Interrupt
from tessy_jax.console.messages import log_to, tell
from tessy_jax.console.progress import View
from tessy_jax.data.jsonl import replace_file
from tessy_jax.data.records import dump_line
from tessy_jax.data.training_folder import run_directory
from tessy_jax.devices.mesh import make_mesh
from tessy_jax.errors import DONE, INTERRUPTED, REJECTS
from tessy_jax.predictors.base import Unigram
from tessy_jax.predictors.scores import best_threshold, evaluate
from tessy_jax.train.checkpoints import Checkpoints
from tessy_jax.train.classifier import Classifier
from tessy_jax.train.data.predictor_data import PredictorData
from tessy_jax.train.export import export
from tessy_jax.train.loss import token_class
from tessy_jax.train.memory import memory_lines
from tessy_jax.train.metrics import MetricsFile, Sink, TensorBoard
from tessy_jax.train.mfu import peak_of
from tessy_jax.train.predictor_eval import Patience, PredictorReporter, StopOrPatience, judged_tokens, predict
from tessy_jax.train.step import TrainState, batch_sharding, make_eval, make_step
from tessy_jax.train.trainer import Trainer, place

CONFIG = app.ConfigFile(TrainPredictorConfig, "configs/predictor.yaml", example="optimizer.lr=2e-5")
_FORMAT = "tessy_jax train_predictor 1"
_WRITTEN = (
    *("checkpoints", "tensorboard", "export", "metrics.jsonl", "rejects.jsonl", "run.log"),
    *("curves.png", "report.html", "report.json", "config.yaml"),
)


def run(options: argparse.Namespace, console: Console) -> int:
    """Trains the predictor."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about what is meant here
    return _run(CONFIG.load(options), options, console)


main = app.Command(
    name="train_predictor",
    description="Trains a token classifier on annotated segments. Running it again resumes.",
    config=CONFIG,
    options=(app.output_option(), app.dry_run_option("data, plan and memory"), app.OVERWRITE),
    run=run,
)


def _run(config: TrainPredictorConfig, options: argparse.Namespace, console: Console) -> int:
    if config.compute.compilation_cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(config.compute.compilation_cache))
    ways = config.mesh.data * config.mesh.fsdp
    mesh = make_mesh(config.mesh, ways, "mesh")
    classifier = Classifier.open(config)
    lessons = PredictorData.open(config, classifier.tokenizer)
    if options.dry_run:
        out = Console(highlight=False, markup=False, soft_wrap=True)
        out.print(lessons.summary())
        for reject in lessons.every.rejects:
            out.print(f"reject: {reject.file}:{reject.line}: {reject.reason}")
        out.rule("memory of a device in a step, GiB")
        out.print(memory_lines(classifier.memory(mesh, lessons.train.plan)))
        return DONE
    path = config.output
    with (
        run_directory(path, _FORMAT, _WRITTEN, to_yaml(config), classifier.identity(), options.overwrite),
        log_to(path / "run.log"),
    ):
        tell(console, lessons.summary())
        rejects = "".join(dump_line(reject.to_row()) + "\n" for reject in lessons.every.rejects)
        replace_file(path / "rejects.jsonl", rejects)
        done = _train(classifier, lessons, mesh, console)
        if done == DONE and rejects:
            tell(console, f"{len(lessons.every.rejects)} rows could not be used; see {path}/rejects.jsonl")
            return REJECTS
        return done


def _train(classifier: Classifier, lessons: PredictorData, mesh: Mesh | None, console: Console) -> int:
    config, path, plan = classifier.config, classifier.config.output, lessons.train.plan
    optimizer = classifier.optimizer(plan.steps)
    with Checkpoints(path / "checkpoints", config.checkpoint.keep, max(1, config.checkpoint.best)) as checkpoints:
        done = checkpoints.newest or 0
        patience = Patience.resumed(config.patience, path / "metrics.jsonl", done)
        finished = done == plan.steps or patience.over
        if finished and (path / "export").is_dir() and (path / "report.html").is_file():
            tell(console, f"nothing left to do: the predictor is in {path}/export, its report is {path}/report.html")
            return DONE
        tell(console, f"loading {classifier.folder}")
        state, data = classifier.load(mesh, optimizer), iter(lessons.train)
        if not finished:
            if done:
                state, position = checkpoints.restore(done, state)
                data.set_state(position)
                tell(console, f"going on after step {done} of {plan.steps}")
            reporter = _reporter(classifier, lessons, done, patience, console)
            compute, model = classifier.compute, classifier.model
            loop = Trainer(
                step=make_step(model, mesh, optimizer, compute, objective=token_class),
                evaluate=make_eval(model, mesh, compute, objective=token_class),
                sharding=None if mesh is None else batch_sharding(mesh),
                held_out=lessons.held_out,
                names=lessons.train.names,
                arithmetic=classifier.arithmetic,
                total=plan.steps,
                checkpoint_every=config.checkpoint.every,
                evaluate_every=None,
            )
            with Interrupt(console, "this step") as stop, View("training", reporter.cells, console) as view:
                state = loop.run(state, data, checkpoints, reporter, StopOrPatience(stop, patience), view.update)
            reporter.close()
            checkpoints.wait()
            draw(path / "metrics.jsonl", path / "curves.png")
            if int(state.step) < plan.steps and not patience.over:
                tell(console, f"stopped after step {int(state.step)} of {plan.steps}; the same command goes on")
                return INTERRUPTED
        best = checkpoints.best or checkpoints.newest
        assert best is not None, "a finished run has a checkpoint"
        state, _ = checkpoints.restore(best, state)
    early = " (F1 no longer rose)" if patience.over else ""
    tell(console, f"trained{early}; the best F1 is that of step {best} of {plan.steps}")
    return _finish(classifier, lessons, state, mesh, console)


def _reporter(
    classifier: Classifier, lessons: PredictorData, done: int, patience: Patience, console: Console
) -> PredictorReporter:
    config, path, plan = classifier.config, classifier.config.output, lessons.train.plan
    sinks: list[Sink] = [MetricsFile(path / "metrics.jsonl", done)]
    if config.report.tensorboard:
        sinks.append(TensorBoard(path / "tensorboard", done))
    peak = peak_of(jax.devices()[0], config.compute.dtype, config.report.peak_tflops)
    if peak is not None:
        tell(console, classifier.arithmetic.formula(peak))
        peak *= jax.local_device_count()
    return PredictorReporter(sinks, first=done, total=plan.steps, epoch=plan.epoch, peak=peak, patience=patience)


def _finish(
    classifier: Classifier, lessons: PredictorData, state: TrainState, mesh: Mesh | None, console: Console
) -> int:
    """Exports the predictor, and judges what was exported."""
    config, path = classifier.config, classifier.config.output
    folder = path / "export"
    export(classifier.trained(state, mesh), classifier.folder, folder)
    tell(console, f"the predictor after step {int(state.step)} is in {folder}")
    model = models.load(folder, mesh=mesh, rules=models.TRAINING, dtype=config.compute.dtype)
    sharding = None if mesh is None else batch_sharding(mesh)
    p = predict(model, lessons.held_out, lambda batch: place(batch, sharding), config.compute.attention)
    items = lessons.held_out.corpus.items
    tokens, said = judged_tokens(items, p)
    baseline = None
    if config.baseline is not None:
        table = Unigram.load(Path(config.baseline), classifier.tokenizer, threshold=0.5)
        listed = [
            np.where(np.isnan(ours), np.nan, np.asarray(table.params)[item.tokens])
            for item, ours in zip(items, p, strict=True)
        ]
        baseline = judged_tokens(items, listed)[1]
    numbers = evaluate(tokens, said, config.threshold, baseline)
    about: dict[str, Any] = {
        "kind": "checkpoint",
        "model": str(classifier.folder),
        "architecture": classifier.model.architecture,
        "shift": config.shift,
        "trained on": ", ".join(config.data.train),
        "step": int(state.step),
        "command": "python -m tessy_jax.train_predictor config.yaml",
        "use it as": f"{{kind: checkpoint, model: {folder}, threshold: {config.threshold}, shift: {config.shift}}}",
        "threshold with the best F1": best_threshold(tokens.style, said),
    }
    write_report(path, "Boundary predictor: token classifier", about, numbers)
    f1 = numbers["scores"]["style"]["f1"]
    tell(console, f"F1 of style {f1['value']:.3f} ({f1['low']:.3f} … {f1['high']:.3f}); report: {path}/report.html")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
