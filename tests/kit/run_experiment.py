"""Tiny experiments on the tiny pair: their files, and a runner that runs stages in this process."""

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tessy_jax.experiments.stages import Stage
from tests.kit.run_synthesize import pair

BUDGETS = {"max_think_tokens": 24, "max_answer_tokens": 8}
ENGINE = {"batch": 4, "context": 256, "prompt_buckets": [32], "chunk": 8, "turns_per_dispatch": 8, "dtype": "float32"}
ARMS: dict[str, Any] = {
    "own": {"method": "student_only"},
    "teacher": {"method": "teacher_only"},
    "half": {"data": "teacher", "sft": ["max_steps=1"]},
}
PROBLEMS = [
    {"id": f"b{n}", "prompt": f"What is {n} + 0?", "answer": str(n), "tags": {"level": "easy" if n % 3 else "hard"}}
    for n in range(5)
]


def write_experiment(root: Path, **changes: Any) -> Path:
    """Writes the configurations of an experiment below `root`; returns its file. `changes` replace its keys."""
    root.mkdir(parents=True, exist_ok=True)
    synthesize = yaml.safe_load(pair().read_text("utf-8"))
    cache = synthesize["engine"]["compilation_cache"]
    engine = ENGINE | {"compilation_cache": cache}
    synthesize |= {"limit": 4, "cooperation": {"preset": "paper", "k": 7, **BUDGETS}, "engine": engine}
    sft = {
        "data": {"held_out": 0, "length": 128},
        "batch": {"rows": 2},
        "epochs": 1,
        "optimizer": {"lr": 1e-3, "warmup": 0.1},
        "compute": {
            "dtype": "float32",
            "attention": "dense",
            "remat": "none",
            "loss_chunk": 64,
            "compilation_cache": cache,
        },
        "output": "unused",
    }
    evaluate = {
        "model": {"budgets": BUDGETS, "engine": engine},
        "benchmarks": [{"name": "jsonl", "path": "problems.jsonl", "label": "Sums", "runs": 2}],
        "judge": {"workers": 1},
        "output": "unused",
    }
    experiment = {
        "synthesize": "synthesize.yaml",
        "sft": "sft.yaml",
        "evaluate": "evaluate.yaml",
        "arms": ARMS,
        "control": "own",
        "seeds": [0, 1],
        "output": str(root / "out"),
    }
    files = {"synthesize": synthesize, "sft": sft, "evaluate": evaluate, "experiment": experiment | changes}
    for name, values in files.items():
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (root / f"{name}.yaml").write_text(text, "utf-8")
    (root / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return root / "experiment.yaml"


@dataclass
class InProcess:
    """Runs stages in this process, through the same words.

    Attributes:
        started: names of the stages, in order.
    """

    started: list[str] = field(default_factory=list)

    def start(self, stage: Stage) -> "Ended":
        self.started.append(stage.name)
        return Ended(importlib.import_module(f"tessy_jax.{stage.command}").main(list(stage.words)))


@dataclass(frozen=True)
class Ended:
    """A stage that has run."""

    code: int

    def poll(self) -> int:
        return self.code

    def stop(self) -> None:
        """There is nothing to stop."""
