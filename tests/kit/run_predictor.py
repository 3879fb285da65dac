"""Annotated segments, and a tiny model to train a predictor or a probe on, for tests of the commands."""

import json
import random
from pathlib import Path
from typing import Any

import yaml

from tessy_jax.text.tokenizer import ContentTokenizer
from tests.kit import vocab
from tests.kit.tiny import llama, qwen3

STYLE = ("so", "wait,", "okay", "let me think", "good", "hmm,", "therefore")
CONTENT = ("the sum", "of odd", "numbers", "is 16", "prime", "x + 2", "four", "boxes", "the answer", "n squared")


def write_annotated(root: Path, prompts: int = 24, seed: int = 3) -> tuple[Path, Path]:
    """(run directory of responses, run directory of their annotated segments): two samples of each prompt."""
    rng = random.Random(seed)
    responses, segments = [], []
    for number in range(prompts):
        for sample in range(2):
            phrases = [rng.choice(STYLE if rng.random() < 0.35 else CONTENT) for _ in range(24)]
            messages = [{"role": "user", "content": f"What is {number} + 0?"}]
            thinking = " ".join(phrases)
            responses.append(_record(f"p{number}", sample, messages, thinking))
            for index, part in enumerate((phrases[:12], phrases[12:])):
                text, spans = "", []
                for phrase in part:
                    text += " " if text else ""
                    if phrase in STYLE:
                        spans.append({"start": len(text), "end": len(text) + len(phrase)})
                    text += phrase
                offset = 0 if index == 0 else len(" ".join(phrases[:12])) + 1
                assert thinking[offset : offset + len(text)] == text
                row = {"id": f"p{number}", "sample_index": sample, "segment": index, "offset": offset}
                segments.append(row | {"text": text, "spans": spans, "annotator": "test"})
    return _write(root / "responses", responses), _write(root / "annotated", segments)


def _record(name: str, sample: int, messages: list[dict[str, str]], thinking: str) -> dict[str, Any]:
    opening, after = "<think>\n", "\n</think>\n\nThe answer is 16."
    spans = [
        {"by": "student", "phase": "think", "start": len(opening), "end": len(opening + thinking)},
        {"by": "student", "phase": "answer", "start": len(opening + thinking), "end": len(opening + thinking + after)},
    ]
    return {
        "id": name,
        "sample_index": sample,
        "messages": [*messages, {"role": "assistant", "content": opening + thinking + after}],
        "spans": [span | {"n_tokens": 1, "dropped_tokens": 0} for span in spans],
        "n_tokens": {"student": 1, "teacher": 0, "answer": 1, "rolled_back": 0},
        "switches": 0,
        "finish": {"think": "end", "answer": "stop"},
        "seed": 0,
    }


def _write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"format": "tessy_jax run 1", "identity": {}}')
    (folder / "data/part-00000-of-00001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_model(folder: Path, family: str = "qwen3", **sizes: int) -> Path:
    """A random language model with the small ChatML vocabulary."""
    vocab.small_chatml(folder)
    size = (ContentTokenizer.load(folder).vocab_size + 4) // 2 * 2
    {"qwen3": qwen3, "llama": llama}[family](folder, seed=1, vocab_size=size, **sizes)
    return folder


def write_predictor(root: Path) -> Path:
    """Writes all that a predictor's training needs below `root`; returns the configuration's file."""
    table = {"default": 0.2, "words": {"so": 0.9, "good": 0.4}}
    (root / "words.json").write_text(json.dumps(table))
    config = {
        "model": str(write_model(root / "base", num_hidden_layers=1, initializer_range=0.02)),
        "data": {"train": str(write_annotated(root)[1]), "held_out": 0.2, "length": 96},
        "class_weights": "balanced",
        "batch": 8,
        "accumulate": 2,
        "epochs": 6,
        "max_steps": 40,
        "optimizer": {"lr": 5e-3, "schedule": "constant", "warmup": 0.0},
        "compute": {"dtype": "float32", "attention": "dense", "remat": "none"},
        "checkpoint": {"every": 10, "keep": 1},
        "baseline": str(root / "words.json"),
        "output": str(root / "run"),
        "seed": 5,
    }
    file = root / "predictor.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    return file
