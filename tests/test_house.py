"""The rules of the house: where things stand, and which way imports go (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from tessy_jax.console.app import Command
from tests.kit import ROOT

PACKAGE = ROOT / "tessy_jax"
LEVELS = (
    ("commands",),
    ("experiments",),
    ("planning",),
    ("analysis",),
    ("train",),
    ("evals", "baselines", "serving", "annotation"),
    ("engine",),
    ("cooperate",),
    ("predictors",),
    ("text_jax", "models", "data", "console", "devices"),
    ("config", "text", "storage", "errors"),
)
"""A package imports itself and lower levels; in the last two, others of its level too, where no cycle arises."""
LEVEL = {room: number for number, level in enumerate(LEVELS) for room in level}
FREE = len(LEVELS) - 2
COMMANDS = sorted(file for file in PACKAGE.glob("*.py") if file.stem not in ("__init__", "__main__", "errors"))
FILES = sorted(file for room in PACKAGE.iterdir() if room.is_dir() for file in room.resolve().rglob("*.py"))


class Import(NamedTuple):
    place: str
    room: str
    imported: str


def room_of(module: str) -> str:
    """The package of `tessy_jax.a.b`: "a"; of a command, "commands"."""
    name = module.split(".")[1]
    return "commands" if any(name == command.stem for command in COMMANDS) else name


def imports() -> Iterator[Import]:
    """Every import of one room of the package by another, wherever in a file it stands."""
    for file in (*COMMANDS, *FILES):
        path = file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else ROOT)
        room = "commands" if file in COMMANDS else path.parts[0]
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" if node.module == "tessy_jax" else str(node.module) for name in names]
            for imported in {room_of(name) for name in names if name.startswith("tessy_jax.")} - {room}:
                yield Import(f"{path}:{node.lineno}", room, imported)


def test_imports_go_down():
    up = [found for found in imports() if LEVEL[found.imported] < LEVEL[found.room]]
    aside = [found for found in imports() if LEVEL[found.imported] == LEVEL[found.room] < FREE]
    assert not up + aside, "\n".join(f"{found.place} imports {found.imported}" for found in up + aside)


def test_rooms_of_a_level_import_each_other_without_a_cycle():
    graph: dict[str, set[str]] = {}
    for found in imports():
        if LEVEL[found.room] == LEVEL[found.imported]:
            graph.setdefault(found.room, set()).add(found.imported)
    TopologicalSorter(graph).prepare()  # CycleError names the rooms of a cycle


def test_only_commands_stand_at_the_top():
    others = {entry.name for entry in PACKAGE.iterdir() if not entry.name.startswith("__") and not entry.is_dir()}
    assert others == {command.name for command in COMMANDS} | {"errors.py"}
    for command in COMMANDS:
        assert isinstance(import_module(f"tessy_jax.{command.stem}").main, Command), command.name


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.stem)
def test_commands_are_short(command: Path):
    lines = command.read_text("utf-8").count("\n")
    assert lines <= 40, "the work belongs in a package"


def test_commands_and_packages_have_different_names():
    rooms = {room.name for room in PACKAGE.iterdir() if room.is_dir()}
    assert not rooms & {command.stem for command in COMMANDS}


def test_files_hold_one_idea():
    long = [str(file) for file in FILES if file.read_text("utf-8").count("\n") > 400]
    assert not long, ", ".join(long)


def test_text_refers_to_what_is_in_the_repository():
    absent = ("trace.md", "design §")
    tests = sorted((ROOT / "tests").rglob("*.py"))
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in (*COMMANDS, *FILES, *tests)
        if file != Path(__file__)
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if any(name in line for name in absent)
    ]
    assert not found, "\n".join(found)
