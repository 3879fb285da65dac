"""AIME 2024 and 2025: 30 problems each, whose answers are whole numbers from 0 to 999.

Files of OpenCompass (https://github.com/open-compass/opencompass, Apache-2.0) and of Hugging Face
(Maxwell-Jia/AIME_2024, math-ai/aime25). Their rows, with a problem of ours:

    {"origin_prompt": "How many divisors has 12?", "gold_answer": "6"}    data/aime.jsonl
    {"question": "How many divisors has 12?", "answer": "006"}            data/aime2025/aime2025.jsonl
    {"ID": "2024-I-0", "Problem": "How many divisors has 12?", "Solution": "1, 2, ...", "Answer": 6}
    {"problem": "How many divisors has 12?", "answer": "6", "id": "0"}
"""

from collections.abc import Iterator
from pathlib import Path

from tessy_jax.config.benchmarks import Aime
from tessy_jax.evals.extract import boxed
from tessy_jax.evals.judges.math import whole_number
from tessy_jax.evals.records import Problem
from tessy_jax.evals.targets import MathTarget
from tessy_jax.evals.tasks.base import BaseTask, Entry, user
from tessy_jax.evals.tasks.rows import Row, read_rows

QUESTION = ("origin_prompt", "question", "Problem", "problem")
ANSWER = ("gold_answer", "answer", "Answer")


class AimeTask(BaseTask[Aime]):
    name = "aime"

    def __init__(self, config: Aime):
        super().__init__(config, _read(config), label=f"AIME{config.year}", runs=32)

    def extract(self, problem: Problem, answer: str) -> str | None:
        return boxed(answer)

    def target(self, problem: Problem) -> MathTarget:
        return MathTarget((str(self.entry(problem).material),), integer=True)

    def identity(self) -> dict[str, str | int]:
        return super().identity() | {"extract": "boxed", "answers": self.hash_materials()}


def _read(config: Aime) -> Iterator[Entry]:
    for number, row in enumerate(read_rows(Path(config.path)), start=1):
        text = f"{row.text(*QUESTION)}\nRemember to put your final answer within \\boxed{{}}."
        yield Entry(Problem(f"{config.year}-{number:02d}", user(text)), row.place, _answer(row))


def _answer(row: Row) -> int:
    name = row.name_of(*ANSWER)
    number = whole_number(row.id(name))
    if number is None or not 0 <= number <= 999:
        row.fail(f"field '{name}' must hold a whole number from 0 to 999, not {row.values[name]!r}")
    return number
