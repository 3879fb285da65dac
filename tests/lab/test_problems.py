"""The laboratory's problems and texts: answers right, styles of the same steps, labels of every character."""

import itertools
import json
import random
import re

import pytest

from experiments.lab.make_models import ask, write_tables
from experiments.lab.problems import (
    CAPABILITY,
    DEGREES,
    SPLITS,
    labels,
    problems,
    student_text,
    teacher_text,
    unknown_facts,
)

ASKED = problems("base", 60, 7)
NAMED = {"plus": "+", "minus": "-", "times": "*"}


def worked(text):
    """The calculations of a text in the student's layout or of degree 0: left, operation, right, result."""
    return [tuple(found) for found in re.findall(r"(\d) ([-+*]) (\d) = (\d)", text)]


def named(text):
    """Those of the layout of degrees 1 and 2; the result is what is kept, where something is."""
    found = re.findall(r"from (\d) by (\w+) (\d) to (-?\d+)(?: , keep (\d))?", text)
    return [(left, NAMED[name], right, keep or full) for left, name, right, full, keep in found]


def test_answers_are_those_of_python():
    for problem in ASKED:
        expression = str(problem.first)
        for operation, right in problem.rest:
            expression = f"({expression}) {operation} {right}"
        assert problem.answer == eval(expression) % 10
    assert {len(problem.rest) for problem in ASKED} == set(range(2, 9))


def test_no_problem_is_in_two_splits():
    drawn = {name: {one.prompt for one in problems(name, 40, 0)} for name in ("base", *SPLITS)}
    assert len(set.union(*drawn.values())) == 40 * len(drawn)
    ids = [ask(one)["id"] for one in problems("test", 40, 0)]
    assert len(set(ids)) == 40


def test_all_styles_say_the_same_steps():
    for problem in ASKED:
        steps = [(str(s.left), s.operation, str(s.right), str(result)) for s, result in problem.steps()]
        assert worked(student_text(problem.steps(), random.Random(1))) == steps
        for degree in DEGREES:
            text = teacher_text(problem.steps(), degree, random.Random(1))
            assert (named(text) if degree else worked(text)) == steps
            assert ("plan" in text) == (degree == 2)


def test_the_student_is_wrong_only_about_products_that_it_does_not_know():
    unknown = unknown_facts(0.4)
    assert len(unknown) == 40
    wrong = set()
    for problem in problems("base", 500, 8):
        for step, result in problem.steps(unknown, random.Random(2)):
            if result != step.full % 10:
                wrong.add(step)
    assert wrong
    assert wrong <= unknown


@pytest.mark.parametrize("degree", [None, *DEGREES])
def test_labels_cover_every_character_and_follow_from_the_word(degree):
    for problem in ASKED:
        draw = random.Random(3)
        text = student_text(problem.steps(), draw) if degree is None else teacher_text(problem.steps(), degree, draw)
        found = labels(text)
        assert [one.start for one in found] == [0, *(one.end for one in found[:-1])]
        assert found[-1].end == len(text)
        assert all(one.style != other.style for one, other in itertools.pairwise(found))
        for one in found:
            words = text[one.start : one.end].split()
            assert words
            assert all((word in CAPABILITY) != one.style for word in words)


def test_tables_have_the_share_of_wrong_words_that_they_say(tmp_path):
    write_tables(tmp_path)
    tables = {file.stem: json.loads(file.read_text())["words"] for file in tmp_path.iterdir()}
    perfect = tables.pop("perfect")
    assert all(p == (word not in CAPABILITY) for word, p in perfect.items())
    shares = {
        name: sum(p != perfect[word] for word, p in table.items()) / len(perfect) for name, table in tables.items()
    }
    assert shares == pytest.approx({"wrong10": 0.1, "wrong25": 0.25, "useless": 0.5}, abs=0.01)
