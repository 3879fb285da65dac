"""Boundary predictors that are trained, on true labels: a probe on each writer's own hidden states (`train_probe`)."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from experiments.lab.problems import labels
from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.records import Record, dump_line
from tessy_jax.data.segments import Annotated, Segment, StyleSpan

PAIR = Path(__file__).resolve().parents[2] / "configs" / "lab" / "synthesize.yaml"
"""The laboratory's configuration, whose models may be made elsewhere."""


def make_probe(role: str, lab: Path, work: Path) -> None:
    """What a writer of the laboratory writes alone, labelled by construction, and a probe fitted to it."""
    run, labelled = work / f"{role}-alone", work / f"{role}-labelled.jsonl"
    model, folder = lab / "models" / role, lab / "predictors" / role
    problems = f"input={lab / 'data/practice.jsonl'}"
    _command("synthesize", str(PAIR), f"method={role}_only", f"{role}.model={model}", problems, "--output", str(run))
    labelled.write_text("".join(dump_line(row) + "\n" for row in true_labels(run)), encoding="utf-8")
    config = {
        "writer": yaml.safe_load(PAIR.read_text("utf-8"))[role] | {"model": str(model)},
        "data": {"annotated": [str(labelled)], "responses": [str(run)], "length": 256, "max_tokens": 20_000},
        "rows": 32,
        "dtype": "float32",
        "baseline": None,
        "output": str(folder),
    }
    file = work / f"{role}-probe.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    _command("train_probe", str(file))


def true_labels(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of `annotate` for the thoughts of a run directory."""
    for file in sorted((run / "data").glob("*.jsonl")):
        for _, row in read_objects(file):
            record = Record.from_row(row or {})
            text = record.thinking
            spans = [StyleSpan(one.start, one.end) for one in labels(text) if one.style]
            segment = Segment(record.problem.id, record.sample_index, 0, 0, text)
            yield Annotated(segment, spans).to_row("construction")


def _command(name: str, *arguments: str) -> None:
    code = subprocess.run([sys.executable, "-m", f"tessy_jax.{name}", *arguments]).returncode
    if code not in (0, 3):
        raise SystemExit(f"error: {name} {' '.join(arguments)} ended with exit code {code}")
