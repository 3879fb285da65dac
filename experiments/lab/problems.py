"""The laboratory's problems, and how each writer writes: chains of +, - and * modulo 10, worked out from left to right.

    3 + 4 * 7     student      Okay , let me see . First 3 + 4 = 7 . Next 7 * 7 = 9 . That is it .
                  teacher, 0   We compute : thus 3 + 4 = 7 ; hence 7 * 7 = 9 ; done ;
                  teacher, 1   We compute : from 3 by plus 4 to 7 ; from 7 by times 7 to 9 ; done ;
                  teacher, 2   We compute : plan plus 4 , times 7 ; from 3 by plus 4 to 7 , keep 7 ;
                               from 7 by times 7 to 49 , keep 9 ; done ;

The numbers are the degrees to which the teacher's style is entangled with its skill: 0, other words between equal
steps; 1, another layout of each step; 2, another granularity and order as well (a plan first, each step in two).

Words are separated by single spaces, and a word alone says what it is: digits, operators and their names are
capability, all others style. So the labels are true by construction, and a table of words is a perfect predictor.
"""

import hashlib
import operator
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

DEGREES = (0, 1, 2)
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
NAMES = {"+": "plus", "-": "minus", "*": "times"}
CAPABILITY = frozenset([*OPERATIONS, *NAMES.values(), "=", *map(str, range(-9, 82))])
EASY, HARD = range(2, 5), range(5, 9)
"""Steps of easy and hard problems."""

STUDENT_OPENINGS = ("Okay , let me see .", "Hmm , let me go slowly .", "Alright , I try .", "So , I begin .")
STUDENT_STEPS = ("Now", "Next", "Then", "Hmm , then", "And so")
STUDENT_ENDS = (".", ".", ", good .", ", fine .")
STUDENT_CLOSINGS = ("That is it .", "I am done .", "So there we are .")
TEACHER_OPENINGS = ("We compute :", "Evaluating :", "Solution :")
TEACHER_STEPS = ("hence", "thus", "whence", "consequently")
TEACHER_CLOSINGS = ("done ;", "which completes it ;")

SPLITS = {"test": 1, "dev": 1, "synthesis": 3}
"""Twentieths of all problems that a split may draw from; "base", which the models learn from, has the others."""


class Step(NamedTuple):
    """left operation right = full, of which the last digit goes on."""

    left: int
    operation: str
    right: int

    @property
    def full(self) -> int:
        return int(OPERATIONS[self.operation](self.left, self.right))


class Worked(NamedTuple):
    """A step as somebody worked it out."""

    step: Step
    result: int


@dataclass(frozen=True)
class Problem:
    """A chain: where it begins, and the operations with their right sides."""

    first: int
    rest: tuple[tuple[str, int], ...]

    @property
    def prompt(self) -> str:
        return " ".join([str(self.first), *(f"{operation} {right}" for operation, right in self.rest)])

    @property
    def split(self) -> str:
        """Which split it belongs to, by a hash of its prompt: no problem is in two."""
        part = hashlib.blake2b(self.prompt.encode()).digest()[0] % 20
        for name, share in SPLITS.items():
            if part < share:
                return name
            part -= share
        return "base"

    @property
    def answer(self) -> int:
        return self.steps()[-1].result

    def steps(self, unknown: frozenset[Step] = frozenset(), draw: random.Random | None = None) -> list[Worked]:
        """The steps to the answer; the result of an unknown one is drawn at random, and worked on with."""
        steps, value = [], self.first
        for operation, right in self.rest:
            step = Step(value, operation, right)
            value = draw.randrange(10) if draw and step in unknown else step.full % 10
            steps.append(Worked(step, value))
        return steps


def problems(split: str, count: int, seed: int, lengths: range = range(2, 9)) -> list[Problem]:
    """Different problems of a split, of so many steps each."""
    draw, found = random.Random(f"{split} {seed} {lengths}"), dict[Problem, None]()
    while len(found) < count:
        rest = tuple((draw.choice("+-*"), draw.randrange(10)) for _ in range(draw.choice(lengths)))
        problem = Problem(draw.randrange(10), rest)
        if problem.split == split:
            found[problem] = None
    return list(found)


def unknown_facts(share: float) -> frozenset[Step]:
    """The products that the student does not know: this share of the 100, the same ones always."""
    facts = [Step(left, "*", right) for left in range(10) for right in range(10)]
    return frozenset(random.Random("unknown").sample(facts, round(share * len(facts))))


# -- writing -------------------------------------------------------------------------------------------------------


def student_text(steps: list[Worked], draw: random.Random) -> str:
    """A thought in the student's style."""
    words = [draw.choice(STUDENT_OPENINGS)]
    for number, ((left, operation, right), result) in enumerate(steps):
        words.append(draw.choice(STUDENT_STEPS) if number else "First")
        words.append(f"{left} {operation} {right} = {result} {draw.choice(STUDENT_ENDS)}")
    return " ".join([*words, draw.choice(STUDENT_CLOSINGS)])


def teacher_text(steps: list[Worked], degree: int, draw: random.Random) -> str:
    """A thought in the teacher's style, entangled with its skill to this degree."""
    words = [draw.choice(TEACHER_OPENINGS)]
    if degree == 2:
        words.append("plan " + " , ".join(f"{NAMES[one.step.operation]} {one.step.right}" for one in steps) + " ;")
    for step, result in steps:
        named = f"from {step.left} by {NAMES[step.operation]} {step.right} to"
        if degree == 0:
            words.append(f"{draw.choice(TEACHER_STEPS)} {step.left} {step.operation} {step.right} = {result} ;")
        elif degree == 1:
            words.append(f"{named} {result} ;")
        else:
            words.append(f"{named} {step.full} , keep {result} ;")
    return " ".join([*words, draw.choice(TEACHER_CLOSINGS)])


def final_answer(value: int) -> str:
    """How both writers answer."""
    return f"\\boxed{{{value}}}"


# -- true labels ---------------------------------------------------------------------------------------------------


class Labelled(NamedTuple):
    """Characters start..end of a thought, all style or all capability."""

    start: int
    end: int
    style: bool


def labels(text: str) -> list[Labelled]:
    """True labels of every character: runs of words of one kind, the space belonging to the word behind it."""
    runs: list[Labelled] = []
    for start, end, word in _words(text):
        style = word not in CAPABILITY
        if runs and runs[-1].style == style:
            runs[-1] = Labelled(runs[-1].start, end, style)
        else:
            runs.append(Labelled(start, end, style))
    return runs


def _words(text: str) -> Iterator[tuple[int, int, str]]:
    at = 0
    while at < len(text):
        end = text.find(" ", at + 1)
        end = len(text) if end < 0 else end
        yield at, end, text[at:end].strip()
        at = end
