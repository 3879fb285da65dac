"""The list of phrases in a model's reply: a JSON array of strings, however it is wrapped."""

import json
import re
from dataclasses import dataclass

_DECODER = json.JSONDecoder(strict=False)
"""Not strict: a raw line end within a string is no reason to lose the reply."""
_SPACE = re.compile(r"\s*")
_LAST_FENCE = re.compile(r"`{3,}\s*$")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_KINDS = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}


class ReplyError(ValueError):
    """There is no list of phrases in the reply; the message says why."""


@dataclass(frozen=True)
class Reply:
    """The phrases of a reply. `truncated`: the reply ended within the list, and `phrases` are its complete items."""

    phrases: list[str]
    truncated: bool = False


def read_reply(text: str) -> Reply:
    """The first array of strings in a reply; text and code fences around it are passed over.

    An array may have a comma after its last item. A reply that was cut off within its only array gives the items that
    were complete. What a thinking model wrote before `</think>` is no part of its reply.

    Raises:
        ReplyError: there is no array, its items are not strings, or its JSON is malformed.
    """
    text = _LAST_FENCE.sub("", text.rpartition("</think>")[2])
    if not text.strip():
        raise ReplyError("the reply is empty")
    problem, cut_off, at = "", None, 0
    while (at := text.find("[", at)) >= 0:
        array = _array(text, at)
        if isinstance(array, _Broken):
            problem = problem or array.reason
        elif array.truncated:
            cut_off = cut_off or Reply(array.phrases, truncated=True)
        else:
            return Reply(array.phrases)
        at = array.end
    if cut_off is not None and cut_off.phrases:
        return cut_off
    if cut_off is not None:
        raise ReplyError("the reply was cut off before the end of its first item")
    raise ReplyError(problem or f"no JSON array in the reply: {_short(text)}")


@dataclass(frozen=True)
class _Array:
    phrases: list[str]
    end: int
    truncated: bool


@dataclass(frozen=True)
class _Broken:
    reason: str
    end: int


def _array(text: str, start: int) -> _Array | _Broken:
    """Reads the array that begins at `start`; `end` is where to go on looking for another."""
    items: list[str] = []
    at = _skip(text, start + 1)
    while at < len(text) and text[at] != "]":
        if text[at] == '"' and _STRING.match(text, at) is None:
            return _Array(items, start + 1, truncated=True)
        try:
            item, at = _DECODER.raw_decode(text, at)
        except ValueError:
            return _Broken(f"malformed JSON in the reply: {_short(text[start:])}", start + 1)
        except RecursionError:
            return _Broken("the reply's JSON is nested too deeply", len(text))
        if not isinstance(item, str):
            whole = _whole(text, start)
            return _Broken(f"item {len(items) + 1} of the list is {_KINDS[type(item)]}, not a string", whole)
        items.append(item)
        at = _skip(text, at)
        if at < len(text) and text[at] not in ",]":
            return _Broken(f"malformed JSON in the reply: {_short(text[start:])}", start + 1)
        if at < len(text) and text[at] == ",":
            at = _skip(text, at + 1)
    return _Array(items, at + 1, truncated=at >= len(text))


def _whole(text: str, start: int) -> int:
    """Where the array ends, so that arrays within it are not taken for the list."""
    try:
        return _DECODER.raw_decode(text, start)[1]
    except ValueError:
        return len(text)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:60] + "…")
