"""The laboratory's models, problems and predictors: `python experiments/lab/make_models.py [--output configs/lab]`.

Writes what `configs/lab/*.yaml` name: `data/` (problems), `models/` (a student and a teacher, trained from scratch by
`python -m tessy_jax.sft`), `predictors/` (tables of words, a probe for each writer). Models and probes that are there
stay as they are. All seeds and the order of all data are fixed. Minutes on 2 CPU cores.

The student learns from its own style only, and a share of the products is random in what it reads: it is fluent, and
does not know those. The teacher learns the styles of all degrees of entanglement, of which its system message names
one, and from texts in the student's style the capability words alone (weight 0 for style): it can go on where the
student has written, and writes its own style when it writes alone.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also where the file is run as a script

from experiments.lab.folders import STUDENT, TEACHER, write_folder
from experiments.lab.probes import make_probe
from experiments.lab.problems import (
    CAPABILITY,
    DEGREES,
    EASY,
    HARD,
    Problem,
    final_answer,
    labels,
    problems,
    student_text,
    teacher_text,
    unknown_facts,
)

UNKNOWN = 0.4
"""Share of the products that the student does not know."""

TEACHER_THINKING = {"open": "<work>\n", "before": "\n", "marker": "</work>", "after": "\n"}
ROUNDS = {"student": (4e-3,), "student_small": (8e-3,), "student_large": (2e-3,), "teacher": (4e-3, 2e-3)}
"""Learning rates of the rounds in which a model is trained; each has its own texts. By width: twice as wide, half."""

STUDENTS = {"student": STUDENT, "student_small": STUDENT.of_width(32), "student_large": STUDENT.of_width(128)}
"""Students that have read the same texts: the laboratory's, one whose matrices are a quarter of its, one four times."""

ROWS = 24_000
OWN_STYLE = 0.6
"""Share of the teacher's rows that are in its own style; of the others, in the student's, it learns capability."""

NAMES = ("student", "teacher")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("configs/lab"))
    parser.add_argument("--work", type=Path, default=Path("runs/lab_base"), help="where the training's runs are kept")
    parser.add_argument("--only", nargs="*", choices=[*STUDENTS, "teacher"], default=NAMES, help="models to make")
    options = parser.parse_args()
    write_problems(options.output / "data")
    write_tables(options.output / "predictors")
    write_models(options.output / "models", options.work, options.only)
    for role in NAMES:
        if role in options.only and not (options.output / "predictors" / role).exists():
            make_probe(role, options.output, options.work)


# -- problems and predictors ---------------------------------------------------------------------------------------


def write_problems(folder: Path) -> None:
    """Problems to write traces for, to train probes on, and to be asked: easy and hard ones, of the test and others."""
    write_rows(folder / "synthesis.jsonl", map(ask, problems("synthesis", 800, 0)))
    write_rows(folder / "practice.jsonl", map(ask, problems("dev", 120, 1)))
    for split in ("test", "dev"):
        for name, lengths in (("easy", EASY), ("hard", HARD)):
            asked = problems(split, 150, 0, lengths)
            write_rows(folder / f"{split}_{name}.jsonl", (ask(one) | {"answer": str(one.answer)} for one in asked))


def ask(problem: Problem) -> Row:
    return {"id": problem.prompt.replace(" ", ""), "prompt": problem.prompt}


def write_tables(folder: Path) -> None:
    """Predictors as tables of words: perfect; with a share of wrong words; and useless ones, which toss a coin."""
    words = sorted(CAPABILITY | style_words())
    folder.mkdir(parents=True, exist_ok=True)
    for name, wrong in (("perfect", 0.0), ("wrong10", 0.1), ("wrong25", 0.25), ("useless", 0.5)):
        flipped = set(random.Random(f"wrong {wrong}").sample(words, round(wrong * len(words))))
        table = {word.lower(): float((word not in CAPABILITY) != (word in flipped)) for word in words}
        comment = f"P(style | word) in the laboratory: {wrong:.0%} of the words have the wrong label."
        values = {"comment": comment, "default": 1.0, "words": table}
        (folder / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def style_words() -> set[str]:
    """All words of both styles."""
    texts = [*student_texts(problems("base", 2000, 0), "words"), *teacher_texts(problems("base", 2000, 0), "words")]
    return {word for text in texts for word in text.split()} - CAPABILITY


# -- models --------------------------------------------------------------------------------------------------------


def write_models(folder: Path, work: Path, names: Sequence[str]) -> None:
    """The student and the teacher."""
    asked = problems("base", 4000, 1)
    prompts = [f"{one.prompt}\n{final_answer(one.answer)}" for one in asked]
    texts = [*prompts, *student_texts(asked, "tokens"), *teacher_texts(asked, "tokens")]
    for name in names:
        if (folder / name / "config.json").exists():
            continue
        model = work / f"{name}-untrained"
        if name in STUDENTS:
            write_folder(model, STUDENTS[name], [*texts, *student_texts(asked, "more")], seed=1)
        else:
            write_folder(model, TEACHER, texts, seed=2)
        for number, rate in enumerate(ROUNDS[name], start=1):
            run = work / f"{name}-{number}"
            rows = student_rows(ROWS, number) if name in STUDENTS else teacher_rows(ROWS, number)
            write_rows(run.with_suffix(".jsonl"), rows)
            config = training(model, run, rate) | {"thinking": {} if name in STUDENTS else TEACHER_THINKING}
            run.with_suffix(".yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
            code = subprocess.run([sys.executable, "-m", "tessy_jax.sft", str(run.with_suffix(".yaml"))]).returncode
            if code:
                raise SystemExit(f"error: sft {run.with_suffix('.yaml')} ended with exit code {code}")
            model = run / "export"
        shutil.copytree(model, folder / name, dirs_exist_ok=True)


def training(model: Path, run: Path, rate: float) -> Row:
    """The configuration of a round."""
    return {
        "model": str(model),
        "data": {
            "train": str(run.with_suffix(".jsonl")),
            "held_out": 0.01,
            "length": 128 if run.name.startswith("student") else 192,
            "weights": {"style": 0.0},  # of the student's texts that a teacher reads
        },
        "batch": {"rows": 16},
        "epochs": 1,
        "optimizer": {"lr": rate, "warmup": 0.05},
        "compute": {"dtype": "float32", "remat": "none", "attention": "dense", "loss_chunk": 4096},
        "checkpoint": {"every": 5000, "keep": 1, "best": 0},
        "output": str(run),
    }


def student_texts(asked: Iterable[Problem], seed: str) -> Iterator[str]:
    draw = random.Random(f"student {seed}")
    return (student_text(one.steps(), draw) for one in asked)


def teacher_texts(asked: Iterable[Problem], seed: str) -> Iterator[str]:
    draw = random.Random(f"teacher {seed}")
    return (teacher_text(one.steps(), degree, draw) for degree in DEGREES for one in asked)


def student_rows(count: int, number: int) -> Iterator[Row]:
    """What the student has read: right but for products that it does not know."""
    draw, unknown = random.Random("student" * number), unknown_facts(UNKNOWN)
    for problem in problems("base", count, 2 * number):
        steps = problem.steps(unknown, draw)
        content = f"<think>\n{student_text(steps, draw)}\n</think>\n\n{final_answer(steps[-1].result)}"
        yield {"messages": conversation(problem, content)}


def teacher_rows(count: int, number: int) -> Iterator[Row]:
    """What the teacher has read: its own styles, and the student's as records in which both wrote."""
    draw = random.Random("teacher" * number)
    opening, close = TEACHER_THINKING["open"], "\n</work>\n"
    for index, problem in enumerate(problems("base", count, 2 * number + 1)):
        steps, answer, degree = problem.steps(), final_answer(problem.answer), index % len(DEGREES)
        system = {"role": "system", "content": str(degree)}
        if draw.random() < OWN_STYLE:
            content = f"{opening}{teacher_text(steps, degree, draw)}{close}{answer}"
            yield {"messages": [system, *conversation(problem, content)]}
        else:
            text = student_text(steps, draw)
            row = record(problem, f"p{index}", opening + text + close + answer, len(opening), text)
            yield row | {"messages": [system, *row["messages"]]}


def record(problem: Problem, identity: str, content: str, start: int, text: str) -> Row:
    """A record in which the student wrote the style and the teacher the capability."""
    spans = [
        {"by": "student" if one.style else "teacher", "phase": "think", "start": start + one.start,
         "end": start + one.end, "n_tokens": 1, "dropped_tokens": 0}
        for one in labels(text)
    ]  # fmt: skip
    return {
        "id": identity,
        "sample_index": 0,
        "messages": conversation(problem, content),
        "spans": spans,
        "n_tokens": {"student": 0, "teacher": 0, "answer": 0, "rolled_back": 0},
        "switches": len(spans) - 1,
        "finish": {"think": "end", "answer": "stop"},
        "seed": 0,
    }


def conversation(problem: Problem, content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem.prompt}, {"role": "assistant", "content": content}]


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
