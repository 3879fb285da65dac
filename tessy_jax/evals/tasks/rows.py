"""Rows of benchmarks' files: read one by one, their fields checked, and errors that name file, line and field."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from tessy_jax.data import sources
from tessy_jax.errors import UserError


class TaskError(UserError, ValueError):
    """A benchmark's data is not what it should be, or is missing."""


@dataclass(frozen=True)
class Row:
    """The fields of a row, and where it stands: "test5.jsonl:3"."""

    place: str
    values: Mapping[str, Any]

    def fail(self, problem: str) -> NoReturn:
        raise TaskError(f"{self.place}: {problem}")

    def text(self, *names: str, empty: bool = False) -> str:
        """The text in the first of these fields that is there; not empty, unless that may be."""
        name = self.name_of(*names)
        value = self.values[name]
        if not isinstance(value, str) or not (value.strip() or empty):
            self.fail(f"field '{name}' must hold {'a' if empty else 'some'} text, not {_shown(value)}")
        return value

    def id(self, *names: str) -> str:
        """Text or a whole number, as text."""
        value = self.values[self.name_of(*names)]
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(*names)

    def one_of(self, name: str, allowed: Collection[str]) -> str:
        value = self.text(name)
        if value not in allowed:
            self.fail(f"field '{name}' must be one of {', '.join(allowed)}, not {_shown(value)}")
        return value

    def list_of_texts(self, name: str) -> tuple[str, ...]:
        value = self.values[self.name_of(name)]
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.fail(f"field '{name}' must hold a list of texts, not {_shown(value)}")
        return tuple(value)

    def json(self, name: str) -> Any:
        """The value of a field that holds JSON in a text."""
        text = self.text(name)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            self.fail(f"field '{name}' must hold JSON: {error}")

    def name_of(self, *names: str) -> str:
        """The first of these fields that is there."""
        for name in names:
            if name in self.values:
                return name
        has = ", ".join(map(str, self.values)) or "no fields"
        self.fail(f"there is no field {' or '.join(repr(name) for name in names)}; the row has {has}")

    def inner(self, place: str, value: Any) -> "Row":
        """A part of the row that has fields of its own."""
        if not isinstance(value, Mapping):
            self.fail(f"{place} must have fields, not be {_shown(value)}")
        return Row(f"{self.place}: {place}", value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file or folder: JSON lines (also gzip), Parquet, Arrow, or one JSON list.

    Raises:
        TaskError: there is no such file, or a row cannot be read.
    """
    if path.suffix.lower() == ".json":
        yield from _json_list(path)
        return
    try:
        stream = sources.rows(path)
    except sources.InputError as error:
        raise TaskError(str(error)) from None
    for raw in stream:
        place = f"{raw.file}:{raw.line}"
        if raw.problem is not None:
            raise TaskError(f"{place}: {raw.problem}")
        yield _row(place, raw.value)


def _json_list(path: Path) -> Iterator[Row]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, list):
        raise TaskError(f"{path} must hold a list of rows")
    for number, value in enumerate(values, start=1):
        yield _row(f"{path}, row {number}", value)


def _row(place: str, value: Any) -> Row:
    if not isinstance(value, Mapping):
        raise TaskError(f"{place}: a row must have fields, not be {_shown(value)}")
    return Row(place, value)


EntryT = TypeVar("EntryT")


def unique(entries: Iterable[EntryT], key: Callable[[EntryT], tuple[str, str]]) -> dict[str, EntryT]:
    """Entries by their ids.

    Args:
        key: the id of an entry, and where it stands.

    Raises:
        TaskError: two have the same id.
    """
    found: dict[str, EntryT] = {}
    places: dict[str, str] = {}
    for entry in entries:
        name, place = key(entry)
        if name in found:
            raise TaskError(f"{place}: the id {_shown(name)} has stood at {places[name]}: ids must be unique")
        found[name], places[name] = entry, place
    return found


def read_yaml(path: Path) -> Row:
    """The keys of a YAML file; tags that make Python objects are refused.

    Raises:
        TaskError: it cannot be read.
    """
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise TaskError(f"cannot read {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TaskError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    return _row(str(path), value)
