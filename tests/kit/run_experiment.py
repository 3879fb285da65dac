"""Tiny experiments: their files, and a runner that runs stages in this process, where all of them compile once.

Student and teacher have one architecture and one vocabulary, so that one loop serves both, and every student trained.
"""

import atexit
import importlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tessy_jax import experiment
from tessy_jax.baselines import seated
from tessy_jax.cooperate.loop import Loop
from tessy_jax.cooperate.turn import Schedule
from tessy_jax.engine import solo
from tessy_jax.engine.build import build_schedule
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.language_model import LanguageModel
from tessy_jax.engine.solo import solo_engine
from tessy_jax.evals.generate import checkpoint
from tessy_jax.experiments import run
from tessy_jax.experiments.processes import Processes, Running
from tessy_jax.experiments.stages import Stage
from tessy_jax.text.tokenizer import ContentTokenizer
from tests.kit import vocab
from tests.kit.run_synthesize import QUESTIONS, write_problems
from tests.kit.tiny import llama

BUDGETS = {"k": 7, "max_think_tokens": 24, "max_answer_tokens": 8}
ARMS: dict[str, Any] = {
    "own": {"method": "student_only", "sft": ["checkpoint.every=1"]},
    "teacher": {"method": "teacher_only"},
    "half": {"data": "teacher", "sft": ["max_steps=1"]},
}
PROBLEMS = [
    {"id": f"b{n}", "prompt": f"What is {n} + 0?", "answer": str(n), "tags": {"level": "easy" if n % 3 else "hard"}}
    for n in range(5)
]


@cache
def models() -> Path:
    """The folder of student/ and teacher/ and of problems, written once per session."""
    root = Path(tempfile.mkdtemp(prefix="experiment-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for seed, name in enumerate(("student", "teacher"), start=1):
        folder = vocab.small_chatml(root / name)
        llama(folder, seed=seed, vocab_size=ContentTokenizer.load(folder).vocab_size, num_hidden_layers=1)
    write_problems(root / "problems.jsonl", [{"id": f"p{i}", "question": q} for i, q in enumerate(QUESTIONS[:4])])
    write_problems(root / "sums.jsonl", PROBLEMS)
    return root


def write_experiment(root: Path, **changes: Any) -> Path:
    """Writes the configurations of an experiment below `root`; returns its file. `changes` replace its keys."""
    root.mkdir(parents=True, exist_ok=True)
    engine = {"batch": 4, "context": 256, "prompt_buckets": [32], "chunk": 8, "turns_per_dispatch": 1}
    role = {"sampling": {"temperature": 0.8}}
    synthesize = {
        "student": {"model": str(models() / "student"), **role},
        "teacher": {"model": str(models() / "teacher"), **role},
        "cooperation": {"preset": "paper", **BUDGETS},
        "engine": engine | {"dtype": "float32"},
        "input": str(models() / "problems.jsonl"),
    }
    sft = {
        "data": {"held_out": 0, "length": 128},
        "batch": {"rows": 2},
        "epochs": 1,
        "optimizer": {"lr": 1e-3, "warmup": 0.1},
        "compute": {"dtype": "float32", "attention": "dense", "remat": "none", "loss_chunk": 64},
    }
    evaluate = {
        "model": {"budgets": BUDGETS, "engine": synthesize["engine"], **role},
        "benchmarks": [{"name": "jsonl", "path": str(models() / "sums.jsonl"), "label": "Sums", "runs": 2}],
        "judge": {"workers": 1, "on_truncated": "forced"},
    }
    values = {
        "synthesize": "synthesize.yaml",
        "sft": "sft.yaml",
        "evaluate": "evaluate.yaml",
        "arms": ARMS,
        "control": "own",
        "seeds": [0, 1],
        "output": str(root / "out"),
    }
    files = {"synthesize": synthesize, "sft": sft, "evaluate": evaluate, "experiment": values | changes}
    for name, content in files.items():
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return root / "experiment.yaml"


def call(file: Path, *arguments: object, runner: object) -> int:
    """The command, whose stages `runner` runs."""
    with mock.patch.object(run, "Processes", return_value=runner), _one_loop():
        return experiment.main([str(file), *map(str, arguments)])


@dataclass
class InProcess:
    """Runs stages in this process, through the same words.

    Attributes:
        real: stages that are run as processes all the same.
        before: called with each stage.
        started: names of the stages, in order.
    """

    real: tuple[str, ...] = ()
    before: Callable[[Stage], None] = lambda stage: None
    started: list[str] = field(default_factory=list)

    def start(self, stage: Stage) -> Running:
        self.started.append(stage.name)
        self.before(stage)
        if stage.name in self.real:
            with warnings.catch_warnings(action="ignore"):  # that JAX, which this process has, may suffer by a fork
                return Processes().start(stage)
        return Ended(importlib.import_module(f"tessy_jax.{stage.command}").main(list(stage.words)))


@dataclass(frozen=True)
class Ended:
    """A stage that has run."""

    code: int

    def poll(self) -> int:
        return self.code

    def stop(self) -> None:
        """There is nothing to stop."""


_loops: dict[str, Loop] = {}
_schedules: dict[str, Schedule] = {}


@contextmanager
def _one_loop() -> Iterator[None]:
    """Engines of one model alone share their compiled loop: weights and seeds are its arguments."""

    def key(model: LanguageModel, *more: Any) -> str:
        return " ".join(map(str, (model.sampling, *more)))

    def schedule(models: Any, predictors: Any, *more: Any, **named: Any) -> Schedule:
        name = key(models[0], *more)
        if name not in _schedules:
            _schedules[name] = build_schedule(models, predictors, *more, **named)
        return _schedules[name]

    def engine(model: LanguageModel, budgets: Any, k: int, config: Any, *more: Any) -> Engine:
        made = solo_engine(model, budgets, k, config, *more)
        limits = budgets.max_think_tokens, budgets.max_answer_tokens, budgets.loop
        made.loop = _loops.setdefault(key(model, limits, k, config), made.loop)
        return made

    with (
        mock.patch.object(solo, "build_schedule", schedule),
        mock.patch.object(seated, "solo_engine", engine),
        mock.patch.object(checkpoint, "solo_engine", engine),
    ):
        yield
