"""Thinking text from rows: records of ours, conversations of others, and annotated segments of the released format."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tessy_jax.annotation.segments import Thoughts
from tessy_jax.config.annotate import ThoughtsConfig
from tessy_jax.data.fields import CONVERSATION_FIELDS, RESPONSE_FIELDS
from tessy_jax.data.inputs import BadRow, Reject, kind, present, read_record, row_object, why
from tessy_jax.data.messages import decoded
from tessy_jax.data.released import ReleasedSegments, is_released
from tessy_jax.data.segments import Annotated
from tessy_jax.data.sources import RawRow, data_path, rows

THINKING_FIELDS = ("think_text", "reasoning_content", "reasoning", "thinking")
_CONVERSATIONS = (*CONVERSATION_FIELDS, "prompt")


def read_thoughts(path: Path, form: ThoughtsConfig) -> Iterator[Thoughts | Annotated | Reject]:
    """Every row of a run directory, file or dataset folder: its thinking text, its annotation, or why it has none.

    A record of ours says by its spans where its thinking is. In other rows it is a field of `THINKING_FIELDS`, of the
    row or of the last assistant message, or what stands in that message before the end-of-thinking marker. Rows
    without an id get a hash of their text; further rows of one id are further samples.

    Raises:
        InputError: at the call, where the path is missing, unreadable, of an unknown kind or empty.
    """
    return _convert(rows(data_path(path)), form)


def _convert(source: Iterator[RawRow], form: ThoughtsConfig) -> Iterator[Thoughts | Annotated | Reject]:
    samples: Counter[str] = Counter()
    released = ReleasedSegments()
    seen: set[tuple[str, int]] = set()
    for row in source:
        identity: str | None = None
        try:
            value = row_object(row)
            identity = _id(value)
            if is_released(value):
                yield released.take(value, identity)
                continue
            text = _thinking(value, form)
            identity = identity or _hash(text)
            sample = value.get("sample_index")
            if not isinstance(sample, int) or isinstance(sample, bool):
                sample = samples[identity]
            if (identity, sample) in seen:
                raise BadRow(f"duplicate: sample {sample} of id '{identity}' came before")
        except Exception as problem:
            yield Reject.of(row, identity, why(problem))
            continue
        seen.add((identity, sample))
        samples[identity] = max(samples[identity], sample) + 1
        yield Thoughts(identity, sample, text)


def _id(value: dict[str, Any]) -> str | None:
    for field in ("id", "id_ddm"):
        found = value.get(field)
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return str(found)
        if found is not None:
            raise BadRow(f"field '{field}' must be a string or an integer, not {kind(found)}")
    return None


def _thinking(value: dict[str, Any], form: ThoughtsConfig) -> str:
    """The thinking text of a row; raises BadRow where there is none."""
    record = read_record(value)
    found = _field(value) if record is None else record.thinking
    if found is None:
        message = _answer(value)
        found = _field(message) or _before_marker(message.get("content"), form)
    text = found.strip()
    if not text:
        raise BadRow("its thinking is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = ord(text[error.start])
        raise BadRow(f"its thinking is not text: lone surrogate \\u{wrong:04x}") from None
    return text


def _field(value: dict[str, Any]) -> str | None:
    return next((value[name] for name in THINKING_FIELDS if isinstance(value.get(name), str)), None)


def _answer(value: dict[str, Any]) -> dict[str, Any]:
    """The last assistant message of a row."""
    for field in _CONVERSATIONS:
        turns = value.get(field)
        turns = decoded(turns, field) if isinstance(turns, str) else turns
        if isinstance(turns, list):
            for turn in reversed(turns):
                if isinstance(turn, dict) and (turn.get("role") or turn.get("from")) in ("assistant", "gpt"):
                    return turn if "content" in turn else {**turn, "content": turn.get("value")}
    for field in RESPONSE_FIELDS:
        if isinstance(value.get(field), str):
            return {"content": value[field]}
    raise BadRow(f"no thinking: expected {', '.join(THINKING_FIELDS)} or an assistant's message; {present(value)}")


def _before_marker(content: Any, form: ThoughtsConfig) -> str:
    if not isinstance(content, str):
        raise BadRow(f"the assistant's content must be a string, not {kind(content)}")
    text, marker, _ = content.partition(form.marker)
    if not marker:
        raise BadRow(f"no {form.marker} in the assistant's message: what is thinking and what is answer cannot be told")
    return text.lstrip().removeprefix(form.open)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
