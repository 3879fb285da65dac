"""GPQA: https://github.com/idavidrein/gpqa (data CC BY 4.0)

Its authors ask that no question be published in plain text, so that models do not learn it: none is in this repository,
and reports leave questions out.

gpqa_diamond.csv has 198 rows with these columns among others; the values are ours:

    Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Record ID,High-level domain
    Which of these is prime?,7,8,9,10,rec0,Mathematics
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from tessy_jax.config.benchmarks import Gpqa
from tessy_jax.evals.extract import TEXT
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import ChoiceTarget
from tessy_jax.evals.tasks.base import BaseTask, Entry, user
from tessy_jax.evals.tasks.rows import Row, TaskError

LETTERS = "ABCD"
ORDERS = ("ABCD", "BCDA", "CDAB", "DABC")
"""Of the options, by the number of the row; rows count from 1."""
OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
PROMPT = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD."
)
STEPS = " Think step by step before answering."


class GpqaTask(BaseTask[Gpqa]):
    name = "gpqa"
    groups = ("domain",)
    shows_prompts = False

    def __init__(self, config: Gpqa):
        super().__init__(config, _read(config), label="GPQA-D", runs=8)

    def extract(self, problem: Problem, answer: str) -> str | None:
        return TEXT[self.config.extract](answer)

    def target(self, problem: Problem) -> ChoiceTarget:
        return ChoiceTarget(self.entry(problem).material, LETTERS)

    def identity(self) -> dict[str, str | int]:
        return super().identity() | {"answers": self.hash_materials()}


def _read(config: Gpqa) -> Iterator[Entry]:
    opening = PROMPT + (STEPS if config.prompt == "step_by_step" else "")
    for number, row in enumerate(_rows(Path(config.path)), start=1):
        options = [row.text(name) for name in OPTIONS]
        shown = [options[LETTERS.index(letter)] for letter in ORDERS[number % 4]]
        lines = [f"{letter}) {option}" for letter, option in zip(LETTERS, shown, strict=True)]
        text = "\n".join([opening, "", row.text("Question"), "", *lines])
        tags = {"domain": str(row.values["High-level domain"])} if row.values.get("High-level domain") else {}
        answer = LETTERS[ORDERS[number % 4].index("A")]
        name = row.text("Record ID") if "Record ID" in row.values else f"{number:03d}"
        yield Entry(Problem(name, user(text), tags), row.place, answer)


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV file, by the names of its first line."""
    csv.field_size_limit(1 << 24)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for values in reader:
                values.pop(None, None)
                yield Row(f"{path}:{reader.line_num}", values)
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror or error}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise TaskError(f"{path} is not a CSV file in UTF-8: {error}") from None
