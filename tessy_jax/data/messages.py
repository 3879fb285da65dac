"""Messages from the usual shapes of conversations: {"role", "content"}, ShareGPT's {"from", "value"}, lists of text
parts, and JSON in a string.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tessy_jax.data.fields import CONVERSATION_FIELDS, SYSTEM_FIELDS
from tessy_jax.data.records import Message
from tessy_jax.data.sources import BadRow
from tessy_jax.errors import UserError

_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
_TEXT_PARTS = ("text", "input_text", "output_text")
_ENCODED = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")
"""How a list of messages begins that was written into a string."""


def why(error: Exception) -> str:
    """Why a row cannot be used, in one line, from whatever was raised for it."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BadRow | UserError) else f"{type(error).__name__}: {text}"


def read_turns(found: Any, field: str, role: str, place: str | None = None) -> list[Message]:
    """The messages of a field: a list of turns, the same as JSON in a string, or one text.

    Args:
        field: names the field in errors.
        role: who says a text that stands for itself.
        place: names such a text in errors; the field by default.

    Raises:
        BadRow: it is none of these.
    """
    if isinstance(found, str):
        turns = decoded(found, field)
        if turns is None:
            return [{"role": role, "content": checked_text(found, place or field)}]
        found = turns
    if isinstance(found, list):
        return [read_message(turn, f"{field}[{index}]") for index, turn in enumerate(found)]
    raise BadRow(f"field '{field}' must be a string or a list of messages, not {kind(found)}")


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
    said = turn.get(content)
    if isinstance(said, list):
        said = "".join(_part(part, f"{place}.{content}[{index}]") for index, part in enumerate(said))
    if not isinstance(turn.get(role), str):
        raise BadRow(f"{place}.{role} must be a string, not {kind(turn.get(role))}")
    if not isinstance(said, str):
        raise BadRow(f"{place}.{content} must be a string, not {kind(said)}")
    if turn[role] not in _ROLES:
        raise BadRow(f"{place}.{role} is '{turn[role]}', expected one of {', '.join(_ROLES)}")
    others = {key: inner for key, inner in turn.items() if key not in (role, content) and inner is not None}
    return {"role": _ROLES[turn[role]], "content": checked_text(said, f"{place}.{content}")} | others


def with_system_field(value: Mapping[str, Any], messages: Sequence[Message], field: str) -> list[Message]:
    """The messages of a row, with the system message that it has in a field of its own put first.

    Raises:
        BadRow: that field is no string, or there are two system messages that differ.
    """
    found = {name: value[name] for name in SYSTEM_FIELDS if name != field and value.get(name) not in (None, "")}
    if messages and messages[0]["role"] == "system":
        found[f"{field}[0]"] = messages[0]["content"]
    for name, text in found.items():
        if not isinstance(text, str):
            raise BadRow(f"field '{name}' must be a string, the system message, not {kind(text)}")
    if len({text.strip() for text in found.values()}) > 1:
        raise BadRow(f"it has several system messages ({', '.join(found)}): keep one")
    if not found or f"{field}[0]" in found:
        return list(messages)
    name, text = next(iter(found.items()))
    return [{"role": "system", "content": checked_text(text, name)}, *messages]


def checked_text(value: str, place: str) -> str:
    """A string that is text in UTF-8; raises BadRow where it is none."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        wrong = ord(value[error.start])
        raise BadRow(f"'{place}' is not text: lone surrogate \\u{wrong:04x} at character {error.start + 1}") from None
    return value


def present(value: dict[str, Any]) -> str:
    """The fields that a row has, in words."""
    return f"the row has {', '.join(map(str, value)) or 'no fields'}"


def kind(value: Any) -> str:
    """What a value of JSON is, in words: "a list"."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _part(part: Any, place: str) -> str:
    """The text of one part of a content: "a" or {"type": "text", "text": "a"}  ->  "a"."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type") in (None, *_TEXT_PARTS):
        return str(part["text"])
    what = f"a part of type {part['type']!r}" if isinstance(part, dict) and part.get("type") else kind(part)
    raise BadRow(f"{place} is {what}: only parts of text are read; remove it, or leave the row out")


def decoded(text: str, field: str) -> list[Any] | None:
    """The conversation that a string holds as JSON; None: it is a text.

    Raises:
        BadRow: it looks like a conversation and cannot be read as one.
    """
    if not _ENCODED.match(text):
        if field in CONVERSATION_FIELDS and re.match(r"\s*\{\s*[\"']", text):
            raise BadRow(f"field '{field}' holds an object in a string: store a list of messages, or its JSON")
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if field not in CONVERSATION_FIELDS and not text.rstrip().endswith("]"):
            return None  # a text that begins with an example of a conversation
        raise BadRow(
            f"field '{field}' looks like messages in a string that is not JSON ({error}): store a list, or its JSON"
        ) from None
    turns = all(isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in found)
    return found if turns or field in CONVERSATION_FIELDS else None
