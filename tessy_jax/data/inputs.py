"""Problems from files of any of the usual shapes; a bad row becomes a `Reject` and the reading goes on.

A row holds its prompt in the first of `PROMPT_FIELDS` that is present: a string, a list of messages {"role", "content"}
or a list of ShareGPT turns {"from", "value"}. Answers at its end are left out: the prompt is what stands before them.
The id is the field `id`, else `id_ddm`, else a hash of the prompt. All other fields pass through.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tessy_jax.config.sections import Columns
from tessy_jax.data.fields import PROMPT_FIELDS
from tessy_jax.data.records import Message, Problem, Record, dump_line
from tessy_jax.data.sources import InputError, RawRow, rows

__all__ = [
    "BadRow",
    "Columns",
    "InputError",
    "Reject",
    "kind",
    "present",
    "read",
    "read_message",
    "read_problems",
    "read_record",
    "read_rows",
    "row_object",
]

ID_FIELDS = ("id", "id_ddm")
_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
_MAX_RAW = 2000
"""Characters of a bad row kept in the rejects."""

_MAX_DEPTH = 100
"""Levels of nesting that a row may have."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reject:
    """An input row that cannot be used.

    Attributes:
        id: of the row, where it could be read.
        file, line: where the row stands; lines count from 1.
        reason: what is wrong, for the user.
        raw: the beginning of the row.
    """

    id: str | None
    file: str
    line: int
    reason: str
    raw: str

    @classmethod
    def of(cls, row: RawRow, identity: str | None, reason: str) -> "Reject":
        """The reject of a row that was read."""
        raw = row.raw or dump_line({"row": row.value})
        return cls(identity, row.file.name, row.line, reason, raw[:_MAX_RAW])

    def to_row(self) -> dict[str, Any]:
        """The reject as it stands in `rejects.jsonl`."""
        return asdict(self)


def read(path: Path, columns: Columns | None = None) -> Iterator[Problem | Reject]:
    """Every row of the input, in order, as a problem or a reject.

    Args:
        path: `.jsonl`, `.jsonl.gz`, `.parquet`, `.arrow` or a folder of these (one split).
        columns: names of the fields, where they should not be detected.

    Raises:
        InputError: at the call, where the input is missing, unreadable, of an unknown kind or empty.
    """
    return _convert(rows(path.expanduser()), columns or Columns())


def read_rows(path: str | Path, columns: Columns | None = None, limit: int | None = None) -> list[Problem | Reject]:
    """The first `limit` rows that `read` gives, None: all of them; raises what it raises."""
    return list(itertools.islice(read(Path(path), columns), limit))


def read_problems(path: str | Path, columns: Columns | None = None) -> Iterator[Problem]:
    """The problems of an input of which every row can be used.

    Args:
        path, columns: as for `read`.

    Raises:
        InputError: at the call as `read` does, and at a row that cannot be used, with its file, line and what is wrong.
    """
    return map(_problem, read(Path(path), columns))


def _problem(row: Problem | Reject) -> Problem:
    if isinstance(row, Reject):
        raise InputError(f"{row.file}:{row.line}: {row.reason}")
    return row


class BadRow(Exception):
    """A row cannot be used; the text says why, for the user."""


def _convert(source: Iterator[RawRow], columns: Columns) -> Iterator[Problem | Reject]:
    seen: dict[str, RawRow] = {}
    answered = 0
    for row in source:
        identity: str | None = None
        try:
            value = row_object(row)
            id_field, identity = _id(value, columns)
            field, messages, dropped = _prompt(value, columns)
            identity = identity or _hash(messages)
            if identity in seen:
                raise BadRow(_duplicate(identity, id_field, row, seen[identity]))
        except BadRow as problem:
            yield Reject.of(row, identity, str(problem))
            continue
        seen[identity] = row._replace(value=None, raw="")
        extra = {name: inner for name, inner in value.items() if name != field and (name, id_field) != ("id", "id")}
        if dropped:
            answered += 1
            extra["dropped_turns"] = dropped
        yield Problem(identity, messages, extra, row.line)
    if answered:
        logger.warning("%d rows ended with answers: these were left out ('dropped_turns' counts them)", answered)


def row_object(row: RawRow) -> dict[str, Any]:
    """The fields of a row; raises BadRow where there are none."""
    if row.problem is not None:
        raise BadRow(row.problem)
    if not isinstance(row.value, dict):
        raise BadRow(f"not a JSON object but {kind(row.value)}")
    if _depth(row.value) > _MAX_DEPTH:
        raise BadRow(f"nested more than {_MAX_DEPTH} levels deep")
    return row.value


def _id(value: dict[str, Any], columns: Columns) -> tuple[str | None, str | None]:
    """Name of the field that holds the id, and the id; both None where the row has none."""
    for field in (columns.id,) if columns.id else ID_FIELDS:
        found = value.get(field)
        if isinstance(found, int) and not isinstance(found, bool):
            return field, str(found)
        if isinstance(found, str):
            if not found:
                raise BadRow(f"field '{field}' is empty")
            return field, _text(found, field)
        if found is not None:
            raise BadRow(f"field '{field}' must be a string or an integer, not {kind(found)}")
    if columns.id:
        raise BadRow(f"no field '{columns.id}', which columns.id names; {present(value)}")
    return None, None


def _prompt(value: dict[str, Any], columns: Columns) -> tuple[str, list[Message], int]:
    """The field of the prompt, its messages up to the last user's, and the number of turns left out after that."""
    candidates = (columns.prompt,) if columns.prompt else PROMPT_FIELDS
    field = next((name for name in candidates if value.get(name) is not None), None)
    if field is None:
        wanted = f"'{columns.prompt}', which columns.prompt names" if columns.prompt else ", ".join(PROMPT_FIELDS)
        raise BadRow(f"no prompt: expected a field {wanted}; {present(value)}")
    found = value[field]
    if isinstance(found, str):
        messages = [{"role": "user", "content": _text(found, field)}]
    elif isinstance(found, list):
        messages = [read_message(turn, f"{field}[{index}]") for index, turn in enumerate(found)]
    else:
        raise BadRow(f"field '{field}' must be a string or a list of messages, not {kind(found)}")
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end or messages[end - 1]["role"] != "user":
        raise BadRow(f"no user message at the end of '{field}'" if messages else f"empty prompt in '{field}'")
    if not messages[end - 1]["content"].strip():
        raise BadRow(f"empty prompt in '{field}'")
    return field, messages[:end], len(messages) - end


def read_message(turn: Any, place: str) -> Message:
    """One turn as a message: {"from": "human", "value": "2+2?"} -> {"role": "user", "content": "2+2?"}.

    Args:
        place: names the turn in errors: "messages[3]".

    Raises:
        BadRow: it is no turn of a known shape and role.
    """
    if not isinstance(turn, dict):
        raise BadRow(f"{place} must be an object with role and content, not {kind(turn)}")
    role, content = ("from", "value") if "from" in turn and turn.get("role") is None else ("role", "content")
    for key in (role, content):
        if not isinstance(turn.get(key), str):
            raise BadRow(f"{place}.{key} must be a string, not {kind(turn.get(key))}")
    if turn[role] not in _ROLES:
        raise BadRow(f"{place}.{role} is '{turn[role]}', expected one of {', '.join(_ROLES)}")
    others = {key: inner for key, inner in turn.items() if key not in (role, content) and inner is not None}
    return {"role": _ROLES[turn[role]], "content": _text(turn[content], f"{place}.{content}")} | others


def read_record(value: dict[str, Any]) -> Record | None:
    """The record that a row of `synthesize` or `sample` is, None for a row of others.

    Raises:
        BadRow: it has the fields of a record, and one of them is wrong.
    """
    if not {"spans", "sample_index", "finish"} <= value.keys():
        return None
    try:
        return Record.from_row(value)
    except ValueError as error:
        raise BadRow(f"{error} (it has spans, sample_index and finish)") from error


def _text(value: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        wrong = ord(value[error.start])
        raise BadRow(f"'{place}' is not text: lone surrogate \\u{wrong:04x} at character {error.start + 1}") from None
    return value


def _hash(messages: list[Message]) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _duplicate(identity: str, id_field: str | None, row: RawRow, first: RawRow) -> str:
    place = f"line {first.line}" + (f" of {first.file.name}" if first.file != row.file else "")
    if id_field is None:
        return f"duplicate prompt (rows without an id): first at {place}; for several traces per prompt set samples"
    return f"duplicate id '{identity}': first at {place}"


def present(value: dict[str, Any]) -> str:
    """The fields that a row has, in words."""
    return f"the row has {', '.join(map(str, value)) or 'no fields'}"


def kind(value: Any) -> str:
    """What a value of JSON is, in words: "a list"."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [inner for one in level if isinstance(one, dict | list) for inner in _children(one)]:
        depth += 1
    return depth


def _children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
