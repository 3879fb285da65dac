"""The paper's effect on the demo pair: `python experiments/effect.py [--output runs/effect] [--report docs]`.

For the same problems, traces are written by both models (TESSY) and by the teacher alone, thinking and answer
(Teacher-Only), and the student is trained on each. Two questions:

- Fig. 15 of the paper: is the training loss on TESSY data below that on Teacher-Only data?
- Forgetting: how much does the loss on the student's own text, for other problems, rise by the training?

Each seed writes its own data and shuffles it anew. Everything goes through the two commands, so an interrupted run goes
on where it was. About 25 minutes on 2 CPU cores.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

DEMO = Path("configs/demo.yaml")
# Not the demo's probes: they are of one model each, and here the teacher also writes in the student's place.
WORD_LIST = {
    role: {"kind": "unigram", "table": "configs/style_words.json", "threshold": threshold}
    for role, threshold in (("student", 0.4), ("teacher", 0.6))
}
CONDITIONS = ("TESSY", "Teacher-Only")
Config = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/effect"), help="where data and runs are kept")
    parser.add_argument(
        "--report", type=Path, default=Path("runs/effect"), help="folder of effect-table.md and effect.png"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=3, help="traces per problem")
    parser.add_argument("--held-out", type=int, default=4, help="problems for the student's own text")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()

    out = options.output
    out.mkdir(parents=True, exist_ok=True)
    demo = yaml.safe_load(DEMO.read_text()) | {"predictors": WORD_LIST}
    problems = Path(demo["input"]).read_text().splitlines()
    train, held_out = out / "train.jsonl", out / "held_out.jsonl"
    train.write_text("\n".join(problems[: -options.held_out]) + "\n")
    held_out.write_text("\n".join(problems[-options.held_out :]) + "\n")

    own = synthesize(out / "own", alone(demo, "student"), held_out, options.samples, seed=0)
    writers = {"TESSY": demo, "Teacher-Only": alone(demo, "teacher")}
    runs: dict[str, list[list[Config]]] = {name: [] for name in CONDITIONS}
    for seed in range(options.seeds):
        for name, config in writers.items():
            folder = out / f"{name.lower()}-{seed}"
            data = synthesize(folder, config, train, options.samples, seed)
            runs[name].append(sft(folder.with_name(folder.name + "-sft"), demo, data, own, options.epochs, seed))
    table = report(runs, options.report)
    print(table)


def alone(demo: Config, role: str) -> Config:
    """The configuration in which one model writes all: as the student, with a predictor that keeps every word."""
    config = copy.deepcopy(demo)
    config["student"] = config["teacher"] = config[role]
    config["student"] = {key: value for key, value in config["student"].items() if key != "thinking"}
    config["predictors"]["student"]["threshold"] = 0.0
    return config


def synthesize(folder: Path, config: Config, problems: Path, samples: int, seed: int) -> Path:
    """Writes `samples` traces per problem; returns the run directory."""
    config = config | {"input": str(problems), "output": str(folder), "samples": samples, "seed": seed}
    config["cooperation"] = config["cooperation"] | {"max_think_tokens": 96, "max_answer_tokens": 64}
    return command("synthesize", folder, config, done=(0, 3))


def sft(folder: Path, demo: Config, data: Path, own: Path, epochs: int, seed: int) -> list[Config]:
    """Trains the student on `data`; returns the lines of metrics, with evaluations on `own` before and after."""
    config = {
        "model": demo["student"]["model"],
        "prompt": demo["student"]["prompt"],
        "data": {"train": [str(data)], "held_out": str(own), "length": 384},
        "batch": {"rows": 4},
        "epochs": epochs,
        "optimizer": {"lr": 5e-5, "warmup": 0.1},
        "compute": {"dtype": "float32", "remat": "none", "loss_chunk": 512},
        "checkpoint": {"every": 1000, "keep": 1, "best": 0},
        "output": str(folder),
        "seed": seed,
    }
    command("sft", folder, config, done=(0, 3))
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def command(name: str, folder: Path, config: Config, done: tuple[int, ...]) -> Path:
    """Runs one of our commands, to its end or on from where it was."""
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    code = subprocess.run([sys.executable, "-m", f"tessy_jax.{name}", str(file)]).returncode
    if code not in done:
        raise SystemExit(f"error: {name} {file} ended with exit code {code}")
    return folder


def report(runs: dict[str, list[list[Config]]], folder: Path) -> str:
    """Writes the table and the plot; returns the table."""
    losses = {name: [[row["loss"] for row in rows if "loss" in row] for rows in seeds] for name, seeds in runs.items()}
    own = {name: [[row["held_out"]["loss"] for row in rows if "held_out" in row] for rows in seeds]
           for name, seeds in runs.items()}  # fmt: skip
    lines = [
        "| trained on | loss, first step | loss, last step | own text, before | own text, after | change |",
        "|---|---|---|---|---|---|",
    ]
    for name in CONDITIONS:
        columns = (
            [seed[0] for seed in losses[name]],
            [seed[-1] for seed in losses[name]],
            [seed[0] for seed in own[name]],
            [seed[-1] for seed in own[name]],
            [seed[-1] - seed[0] for seed in own[name]],
        )
        lines.append(f"| {name} | " + " | ".join(map(spread, columns)) + " |")
    steps = [min(map(len, losses[name])) for name in CONDITIONS]
    below = [
        sum(a < b for a, b in zip(tessy, teacher, strict=False)) / min(len(tessy), len(teacher))
        for tessy, teacher in zip(*(losses[name] for name in CONDITIONS), strict=True)
    ]
    lines += ["", f"Share of steps at which TESSY's training loss is the lower one, by seed: {spread(below)}."]
    folder.mkdir(parents=True, exist_ok=True)
    table = "\n".join(lines) + "\n"
    (folder / "effect-table.md").write_text(table)
    draw(losses, own, steps, folder / "effect.png")
    return table


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation over the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def draw(losses: dict[str, list[list[float]]], own: dict[str, list[list[float]]], steps: list[int], file: Path) -> None:
    """Left: training losses, mean and spread over seeds. Right: the loss on the student's own text."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for index, (name, count) in enumerate(zip(CONDITIONS, steps, strict=True)):
        columns = list(zip(*(seed[:count] for seed in losses[name]), strict=True))
        mean = [statistics.mean(column) for column in columns]
        deviation = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
        at = range(1, count + 1)
        left.plot(at, mean, color=f"C{index}", label=name)
        low, high = ([m + sign * d for m, d in zip(mean, deviation, strict=True)] for sign in (-1, 1))
        left.fill_between(at, low, high, color=f"C{index}", alpha=0.2, linewidth=0)
        for seed in own[name]:
            right.plot([0, 1], [seed[0], seed[-1]], color=f"C{index}", marker="o", alpha=0.7)
    left.set(xlabel="step", ylabel="training loss (nats per token)", title="Training loss")
    right.set(xticks=[0, 1], xticklabels=["before", "after"], title="Loss on the student's own text", xlim=(-0.2, 1.2))
    left.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
