"""Runs of `python -m tessy_jax.synthesize` on a tiny pair, in this process or in one that can be killed.

`python -m tests.kit.run_synthesize --kills 20` kills runs at random moments and compares what they wrote.
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
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tessy_jax import synthesize
from tessy_jax.config.synthesize import load_config
from tessy_jax.engine.engine import Engine
from tessy_jax.engine.pair import Pair
from tessy_jax.text.tokenizer import ContentTokenizer
from tests.kit import process, vocab
from tests.kit.tiny import gemma3, llama, qwen3_classifier

QUESTIONS = (
    *("What is 2 + 3?", "Sum of odd numbers.", "Is 91 prime?\n\nSay why.", "def f(x):\n    return x", "Hi"),
    *("Größe <think>?", "Three boxes.", "漢字 and 👍", "n squared?"),
)
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}\n{% endfor %}Thoughts:\n"
NAME = "tessy_jax.synthesize"
LAYERS = ["sliding_attention", "full_attention"]


def write_pair(root: Path) -> Path:
    """Writes models, problems and a configuration below `root`; returns the configuration's file."""
    writers = (
        ("student", vocab.small_chatml, llama, {"num_hidden_layers": 1}),
        ("teacher", vocab.sentencepiece, gemma3, {"num_hidden_layers": 2, "layer_types": LAYERS}),
        ("predictor", vocab.small_plain, qwen3_classifier, {"num_hidden_layers": 1}),
    )
    for seed, (name, tokenizer, model, sizes) in enumerate(writers, start=1):
        folder = tokenizer(root / name)
        model(folder, seed=seed, vocab_size=ContentTokenizer.load(folder).vocab_size, **sizes)
    words = dict.fromkeys("abcdefghijklm", 0.1)
    (root / "table.json").write_text(json.dumps({"default": 0.7, "words": words}))
    write_problems(
        root / "problems.jsonl", [{"id": f"p{i}", "question": q, "level": i} for i, q in enumerate(QUESTIONS)]
    )
    sampling = {"temperature": 0.8, "top_k": 20}
    config = {
        "student": {"model": str(root / "student"), "sampling": sampling},
        "teacher": {
            "model": str(root / "teacher"),
            "prompt": {"template": TEMPLATE},
            "thinking": {"marker": "</end>"},
            "sampling": sampling,
        },
        "predictors": {
            "student": {"kind": "unigram", "table": str(root / "table.json"), "threshold": 0.4},
            "teacher": {"kind": "checkpoint", "model": str(root / "predictor"), "threshold": 0.6, "block": 16},
        },
        "cooperation": {"preset": "paper", "k": 7, "max_think_tokens": 80, "max_answer_tokens": 24},
        "engine": {
            "batch": 3,
            "context": 384,
            "prompt_buckets": [32],
            "chunk": 8,
            "turns_per_dispatch": 1,
            "dtype": "float32",
        },
        "input": str(root / "problems.jsonl"),
        "output": str(root / "run"),
        "seed": 5,
    }
    file = root / "pair.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
    return file


@cache
def pair() -> Path:
    """The configuration file of the pair, written once per session; its folder is for runs too."""
    folder = Path(tempfile.mkdtemp(prefix="synthesize-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_pair(folder)


@cache
def whole() -> list[dict[str, Any]]:
    """The records of an undisturbed run with two samples."""
    run = pair().parent / "whole"
    assert call("--output", run, "samples=2") == 0
    return records(run)


def call(*arguments: object) -> int:
    """The command on the pair in this process, always with the same engine, so that it compiles once."""
    engine = shared_engine()
    # What earlier runs left in the caches stays: it must not matter.
    engine.slots, engine.host = [None] * engine.local, engine.rows.empty(engine.local)
    engine.carry = engine.carry.replace(state=engine._put(engine.host))
    with mock.patch.object(Pair, "load", return_value=engine):
        return synthesize.main([str(pair()), *map(str, arguments)])


@cache
def shared_engine() -> Engine:
    """The engine of all calls in this process."""
    return Pair.open(load_config(pair())).load(None)


def write_problems(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def records(run: Path) -> list[dict[str, Any]]:
    """All records of a run, sorted by id and sample."""
    rows = [row for file in (run / "data").glob("part-*.jsonl") for row in _rows(file)]
    return sorted(rows, key=lambda row: (row["id"], row["sample_index"]))


def rejects(run: Path) -> list[dict[str, Any]]:
    return list(_rows(run / "rejects.jsonl"))


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in file.read_bytes().split(b"\n") if line)


def kill_often(config: Path, run: Path, kills: int, rng: random.Random, *arguments: object) -> list[int]:
    """Runs the command into `run`, killed `kills` times, each some dispatches and a random moment after its beginning.

    Then runs it to its end. Returns how many records were there after each kill; fewer where it ended before one.
    """
    settings, seen = (config, "--output", run, *arguments), []
    for _ in range(kills):
        dispatch, delay = rng.randrange(1, 12), rng.random() * 0.02
        command = process.start(*process.signalled(signal.SIGKILL, process.DISPATCH, dispatch, delay, NAME, *settings))
        _, messages = command.communicate()
        if command.returncode != -signal.SIGKILL:
            break
        seen.append(len(records(run)))
    else:
        command = process.start("-m", NAME, *settings)
        _, messages = command.communicate()
    if command.returncode:
        raise RuntimeError(f"the last run ended with {command.returncode}: {messages}")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills runs at random moments and compares what they wrote.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rng, samples = random.Random(options.seed), f"samples={options.samples}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = write_pair(root)
        kill_often(config, root / "whole", 0, rng, samples)
        whole = records(root / "whole")
        print(f"undisturbed: {len(whole)} records", flush=True)
        kills = runs = different = 0
        while kills < options.kills:
            run = root / f"run{runs}"
            seen = kill_often(config, run, min(rng.randrange(2, 7), options.kills - kills), rng, samples)
            equal = records(run) == whole
            kills, runs, different = kills + len(seen), runs + 1, different + (not equal)
            print(f"killed after {seen} records: {'equal' if equal else 'DIFFERENT'}", flush=True)
        print(f"{kills} kills in {runs} runs, {different} runs different")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
