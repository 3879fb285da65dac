"""Problems from files of any of the usual shapes; a bad row becomes a `Reject` and the reading goes on.

A row holds its prompt in the first of `PROMPT_FIELDS` that is present: a string, or a conversation as `messages.py`
reads it. Answers at its end are left out: the prompt is what stands before them. The id is the field `id`, else
`id_ddm`, else a hash of the prompt. `fields.py` says what becomes of all other fields.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tessy_jax.config.sections import Columns
from tessy_jax.data.fields import PROMPT_FIELDS, SYSTEM_FIELDS, FieldCounts
from tessy_jax.data.messages import (
    checked_text,
    kind,
    present,
    read_message,
    read_turns,
    why,
    with_system_field,
)
from tessy_jax.data.records import Message, Problem, Record, dump_line
from tessy_jax.data.sources import BadRow, InputError, RawRow, rows
from tessy_jax.storage.paths import as_path

__all__ = [
    "BadRow",
    "Columns",
    "FieldCounts",
    "InputError",
    "Reject",
    "kind",
    "present",
    "prompt_id",
    "read",
    "read_message",
    "read_problems",
    "read_record",
    "read_rows",
    "row_object",
    "why",
]

ID_FIELDS = ("id", "id_ddm")
_OTHER_PROMPTS = ("problem", "instruction", "query", "input")
"""Fields that are often the prompt, and often something else."""

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
        printable = reason.encode("utf-8", "backslashreplace").decode()  # names of fields may be no text
        return cls(identity, row.file.name, row.line, printable, raw[:_MAX_RAW])

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
    return _read(path, columns)


def _read(path: Path, columns: Columns | None) -> Generator[Problem | Reject, None, None]:
    return _convert(rows(path.expanduser()), columns or Columns())


def read_rows(path: str | Path, columns: Columns | None = None, limit: int | None = None) -> list[Problem | Reject]:
    """The first `limit` rows that `read` gives, None: all of them; raises what it raises."""
    with closing(_read(as_path(path), columns)) as found:  # closed, it says what it saw, even before the end
        return list(itertools.islice(found, limit))


def read_problems(path: str | Path, columns: Columns | None = None) -> Iterator[Problem]:
    """The problems of an input of which every row can be used.

    Args:
        path, columns: as for `read`.

    Raises:
        InputError: at the call as `read` does, and at a row that cannot be used, with its file, line and what is wrong.
    """
    return map(_problem, read(as_path(path), columns))


def _problem(row: Problem | Reject) -> Problem:
    if isinstance(row, Reject):
        raise InputError(f"{row.file}:{row.line}: {row.reason}")
    return row


def _convert(source: Iterator[RawRow], columns: Columns) -> Generator[Problem | Reject, None, None]:
    seen: dict[str, RawRow] = {}
    counts = FieldCounts()
    answered = 0
    try:
        for row in source:
            identity: str | None = None
            try:
                value = row_object(row)
                id_field, identity = _id(value, columns)
                name, messages, dropped = _prompt(value, columns)
                if not is_record(value):
                    messages = with_system_field(value, messages, name)
                    counts.check(value, messages, "prompts", skip=(name, id_field))
                identity = identity or prompt_id(messages)
                if identity in seen:
                    raise BadRow(_duplicate(identity, id_field, row, seen[identity]))
                extra = _extra(value, {name, *(["id"] if id_field == "id" else [])})
            except Exception as problem:
                yield Reject.of(row, identity, why(problem))
                continue
            seen[identity] = row._replace(value=None, raw="")
            if dropped:
                answered += 1
                extra["dropped_turns"] = dropped
            yield Problem(identity, messages, extra, row.line, row.file.name)
    finally:
        if answered:
            logger.warning("%d rows ended with answers: these were left out ('dropped_turns' counts them)", answered)
        if counts.rows:
            logger.warning("fields that nothing here reads, and that pass through to the records: %s", counts)


def _extra(value: dict[str, Any], used: set[str]) -> dict[str, Any]:
    """The fields that pass through: those that are not used in another place."""
    used = used if is_record(value) else used | {name for name in SYSTEM_FIELDS if value.get(name)}
    return {name: inner for name, inner in value.items() if name not in used}


def row_object(row: RawRow) -> dict[str, Any]:
    """The fields of a row; raises BadRow where there are none."""
    if row.problem is not None:
        raise BadRow(row.problem)
    if not isinstance(row.value, dict):
        several = isinstance(row.value, list) and any(isinstance(one, dict) for one in row.value)
        hint = " of objects: write each as a row on a line of its own" if several else ""
        raise BadRow(f"not a JSON object but {kind(row.value)}{hint}")
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
            return field, checked_text(found, field)
        if found is not None:
            whole = isinstance(found, float) and found.is_integer()
            hint = f": write {found} without its fraction (pandas: astype('Int64'))" if whole else ""
            raise BadRow(f"field '{field}' must be a string or an integer, not {kind(found)}{hint}")
    if columns.id:
        raise BadRow(f"no field '{columns.id}', which columns.id names; {present(value)}")
    return None, None


def _prompt(value: dict[str, Any], columns: Columns) -> tuple[str, list[Message], int]:
    """The field of the prompt, its messages up to the last user's, and the number of turns left out after that."""
    candidates = (columns.prompt,) if columns.prompt else PROMPT_FIELDS
    field = next((name for name in candidates if value.get(name) is not None), None)
    if field is None:
        wanted = f"'{columns.prompt}', which columns.prompt names" if columns.prompt else ", ".join(PROMPT_FIELDS)
        other = None if columns.prompt else next((name for name in _OTHER_PROMPTS if value.get(name)), None)
        hint = f"; if '{other}' is the prompt, give columns.prompt={other}" if other else ""
        raise BadRow(f"no prompt: expected a field {wanted}; {present(value)}{hint}")
    messages = read_turns(value[field], field, "user")
    end = len(messages)
    while end and messages[end - 1]["role"] == "assistant":
        end -= 1
    if not end or messages[end - 1]["role"] != "user":
        raise BadRow(f"no user message at the end of '{field}'" if messages else _empty(value, field, candidates))
    if not messages[end - 1]["content"].strip():
        raise BadRow(_empty(value, field, candidates))
    return field, messages[:end], len(messages) - end


def _empty(value: dict[str, Any], field: str, candidates: Sequence[str]) -> str:
    """Why a row with an empty prompt cannot be used."""
    other = next((name for name in candidates if name != field and value.get(name)), None)
    hint = "" if other is None else f": remove the field, or give columns.prompt={other} to read '{other}' instead"
    return f"empty prompt in '{field}'{hint}"


def is_record(value: Mapping[str, Any]) -> bool:
    """Whether a row has the fields of a record of `synthesize` or `sample`: its messages are whole."""
    return {"spans", "sample_index", "finish"} <= value.keys()


def read_record(value: dict[str, Any]) -> Record | None:
    """The record that a row of `synthesize` or `sample` is, None for a row of others.

    Raises:
        BadRow: it has the fields of a record, and one of them is wrong.
    """
    if not is_record(value):
        return None
    try:
        return Record.from_row(value)
    except ValueError as error:
        raise BadRow(f"{error} (it has spans, sample_index and finish)") from error


def prompt_id(messages: Sequence[Message]) -> str:
    """The id of a prompt that brings none: a hash of it."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _duplicate(identity: str, id_field: str | None, row: RawRow, first: RawRow) -> str:
    place = f"line {first.line}" + (f" of {first.file.name}" if first.file != row.file else "")
    if id_field is None:
        return f"duplicate prompt (rows without an id): first at {place}; for several traces per prompt set samples"
    counted = identity.isdecimal() and first.file != row.file
    hint = "; where ids count anew in each file, name a field that is unique as columns.id" if counted else ""
    return f"duplicate id '{identity}': first at {place}{hint}"


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [inner for one in level if isinstance(one, dict | list) for inner in _children(one)]:
        depth += 1
    return depth


def _children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
