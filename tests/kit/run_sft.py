"""Runs of `python -m tessy_jax.sft` on a tiny student, in this process or in one that can be killed.

`python -m tests.kit.run_sft --kills 10` kills runs at random moments and compares what came of them.
"""

import argparse
import atexit
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

from tessy_jax import sft
from tessy_jax.text.tokenizer import ContentTokenizer
from tests.kit import process, vocab
from tests.kit.tiny import llama

WORDS = ("let", "me", "think", "about", "the", "sum", "of", "odd", "numbers", "so", "16", "wait", "check", "again")
EIGHT = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2")
FOUR = ("mesh.fsdp=2", "mesh.tensor=2")
TIMES = ("step_seconds", "tokens_per_second", "eta_seconds", "memory_gib")


def write_run(root: Path, rows: int = 40) -> Path:
    """A run directory as synthesize writes it: rows of many lengths, in spans of both authors."""
    rng = random.Random(7)
    (root / "data").mkdir(parents=True)
    (root / "manifest.json").write_text('{"format": "tessy_jax run 1", "identity": {}}')
    records = []
    for number in range(rows):
        content, spans = "<think>\n", []
        for by in ("student", "teacher") * rng.randrange(1, 4):
            text = " ".join(rng.choices(WORDS, k=rng.randrange(1, 7))) + " "
            spans.append(span(by, "think", len(content), text))
            content += text
        content += "\n</think>\n\n"
        answer = f"The answer is {number}."
        spans.append(span("student", "answer", len(content), answer))
        messages = [{"role": "user", "content": f"What is {number} + 0?"}]
        messages.append({"role": "assistant", "content": content + answer})
        records.append(record(f"p{number}", messages, spans))
    (root / "data/part-00000-of-00001.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return root


def span(by: str, phase: str, start: int, text: str) -> dict[str, Any]:
    counts = {"n_tokens": len(text.split()), "dropped_tokens": 0}
    return {"by": by, "phase": phase, "start": start, "end": start + len(text), **counts}


def record(name: str, messages: list[dict[str, str]], spans: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {"student": 0, "teacher": 0, "answer": 0, "rolled_back": 0}
    more = {"n_tokens": counts, "switches": 0, "finish": {"think": "end", "answer": "stop"}, "seed": 0}
    return {"id": name, "sample_index": 0, "messages": messages, "spans": spans, **more}


def write_student(root: Path) -> Path:
    """Writes a student, a run directory and a configuration below `root`; returns the configuration's file."""
    folder = vocab.small_chatml(root / "student")
    size = (ContentTokenizer.load(folder).vocab_size + 4) // 2 * 2
    llama(folder, seed=1, vocab_size=size, num_hidden_layers=1, tie_word_embeddings=True)
    config = {
        "model": str(folder),
        "data": {"train": str(write_run(root / "traces")), "held_out": 0.1, "length": 96},
        "batch": {"rows": 8, "accumulate": 2},
        "epochs": 6,
        "max_steps": 14,
        "optimizer": {"lr": 1e-3, "warmup": 0.2, "weight_decay": 0.1},
        "compute": {"dtype": "float32", "attention": "dense", "remat": "none", "loss_chunk": 64},
        "checkpoint": {"every": 3, "keep": 2},
        "output": str(root / "run"),
        "seed": 5,
    }
    file = root / "sft.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    return file


@cache
def student() -> Path:
    """The configuration file, written once per session; its folder is for runs too."""
    folder = Path(tempfile.mkdtemp(prefix="sft-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_student(folder)


@cache
def whole() -> Path:
    """The run directory of an undisturbed run."""
    run = student().parent / "whole"
    assert call("--output", run) == 0
    return run


def call(*arguments: object) -> int:
    """The command in this process."""
    return sft.main([str(student()), *map(str, arguments)])


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "export/model.safetensors")


def metrics(run: Path, *leave_out: str) -> list[dict[str, Any]]:
    """All lines of numbers, without times and what else is named."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in (*TIMES, *leave_out)} for row in rows]


def order(run: Path) -> list[tuple[int, str]]:
    """The batch of each step."""
    return [(row["step"], row["data"]) for row in metrics(run) if "data" in row]


def kill_often(
    config: Path, run: Path, kills: int, rng: random.Random, *arguments: object, name: str = "sft"
) -> list[int]:
    """Runs a training command into `run`, killed `kills` times, each up to 7 steps and a random moment after it began.

    Then runs it to its end. Returns the newest checkpoint after each kill; fewer where the run ended before one.
    """
    module, settings, seen = f"tessy_jax.{name}", (config, "--output", run, *arguments), []
    for _ in range(kills):
        step, delay = rng.randrange(1, 8), rng.random() * 0.1
        command = process.start(*process.signalled(signal.SIGKILL, process.STEP, step, delay, module, *settings))
        _, messages = command.communicate()
        if command.returncode != -signal.SIGKILL:
            break
        seen.append(max((int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdecimal()), default=0))
    else:
        command = process.start("-m", module, *settings)
        _, messages = command.communicate()
    if command.returncode:
        raise RuntimeError(f"the last run ended with {command.returncode}: {messages}")
    return seen


def difference(run: Path, other: Path) -> float:
    """The largest difference of two runs' exported weights."""
    theirs = weights(other)
    return max(float(np.abs(value - theirs[name]).max()) for name, value in weights(run).items())


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills runs at random moments and compares what came of them.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = write_student(root)
        references = {}
        for name, mesh in (("one", ()), ("eight", EIGHT)):
            kill_often(config, root / name, 0, rng, *mesh)
            references[mesh] = root / name
        print(f"undisturbed: {len(order(root / 'one'))} steps; 8 devices differ from 1 by", flush=True)
        print(f"  {difference(root / 'one', root / 'eight'):.3g}", flush=True)
        kills = runs = different = 0
        while kills < options.kills:
            mesh, run = list(references)[runs % 2], root / f"run{runs}"
            seen = kill_often(config, run, min(rng.randrange(2, 5), options.kills - kills), rng, *mesh)
            whole = references[mesh]
            equal = difference(run, whole) == 0 and metrics(run) == metrics(whole)
            kills, runs, different = kills + len(seen), runs + 1, different + (not equal)
            devices = 8 if mesh else 1
            print(f"{devices} devices, killed with checkpoints {seen}: {'equal' if equal else 'DIFFERENT'}", flush=True)
        print(f"{kills} kills in {runs} runs, {different} runs different")
        run, whole = root / "fewer", references[EIGHT]
        once = process.signalled(signal.SIGKILL, process.STEP, 7, 0, "tessy_jax.sft", config, "--output", run, *EIGHT)
        process.start(*once).communicate()
        kill_often(config, run, 0, rng, *FOUR)
        same = order(run) == order(whole)
        print(f"8 devices, killed, then 4: weights differ by {difference(run, whole):.3g}, same batches: {same}")
    sys.exit(different > 0 or not same)


if __name__ == "__main__":
    main()
