"""Training examples: the exact ids that the student has before it when it writes, and whose each token is.

An example is one assistant message with everything before it:

    the prompt as in synthesis and serving, thinking.open included  +  the message's own text  +  end of turn

The message is tokenised once; a token belongs to the part in which its first byte lies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int8, Int32

from tessy_jax.data.fields import CONVERSATION_FIELDS, PROMPT_FIELDS, RESPONSE_FIELDS, TRAIN_FLAGS, FieldCounts
from tessy_jax.data.inputs import Reject, is_record, read_record, row_object
from tessy_jax.data.messages import kind, present, read_turns, why, with_system_field
from tessy_jax.data.records import Message, Record
from tessy_jax.data.sources import BadRow, RawRow
from tessy_jax.text.chat import Chat, Messages, Thinking, with_system

PARTS = ("context", "style", "capability", "answer", "assistant")
"""What a token is; its code is its index.

`context`: the prompt, never trained. `style`: thinking that the student wrote; `capability`: thinking that the teacher
wrote. `answer`: the student's answer, what stands between thinking and answer, and the token that ends the turn.
`assistant`: an assistant's text of an author who is not known (foreign data).
"""

CONTEXT, STYLE, CAPABILITY, ANSWER, ASSISTANT = range(len(PARTS))

Turns = Literal["last", "all"]
"""Train on the last assistant message of a conversation, or make an example of each."""

_ELSEWHERE = ("reasoning_content", "reasoning", "thinking", "tool_calls")


@dataclass(frozen=True, eq=False)
class Example:
    """One assistant message to learn.

    Attributes:
        id: names it in messages: id#sample of a record; the row's id, or file:line; then @index of the message where
            each is an example.
        problem: the first user message; all examples of a problem are held out together.
        tokens: ids of the whole text.
        parts: what each token is, by its code in `PARTS`.
        ends: byte of `content` at which each token ends: the prompt's where it does (behind thinking.open), the end of
            the turn at the last one.
        before: the messages before it, without the system message of the configuration.
        content: the message.
        record: the record of ours that it stands in, None for others.
    """

    id: str
    problem: str
    tokens: Int32[np.ndarray, " T"]
    parts: Int8[np.ndarray, " T"]
    ends: Int32[np.ndarray, " T"]
    before: Sequence[Message]
    content: str
    record: Record | None = None


def examples(
    row: RawRow,
    chat: Chat,
    system: str | None = None,
    turns: Turns = "last",
    counts: FieldCounts | None = None,
) -> Iterator[Example | Reject]:
    """The examples of one row: a record of ours, or `messages`, `dialogs`, `conversations`, or a prompt and a response.

    A message with `"loss": false` (or another of `fields.TRAIN_FLAGS`) gives none. An answer that was cut off by its
    budget has no end of turn: the student never ended it.

    Args:
        row: as `data.sources.rows` reads it; one that cannot be used becomes a `Reject`.
        chat: of the student.
        system: a system message put before rows that bring none, as in synthesis.
        turns: which assistant messages.
        counts: where fields that nothing reads are counted.
    """
    identity = None
    try:
        value = row_object(row)
        identity = _identity(value, row)
        record = read_record(value)
        messages = _conversation(value)
        if record is None:
            (counts or FieldCounts()).check(value, messages, "training")
        targets = _targets(messages, turns)
        problem = next((m["content"] for m in messages if m["role"] == "user"), "")
    except Exception as error:
        yield Reject.of(row, identity, why(error))
        return
    for index in targets:
        content = messages[index]["content"]
        try:
            if not any(message["role"] == "user" for message in messages[:index]):
                raise BadRow("it answers nobody: no user message stands before it")
            ours = record if index == len(messages) - 1 else None
            text = _written_by_us(ours, chat.thinking) if ours else _foreign(content, chat.thinking)
            arrays = _tokenise(chat, with_system(system, messages[:index]), content, text)
        except Exception as error:  # whatever a template or a tokenizer raises: the other rows go on
            yield Reject.of(row, identity, f"messages[{index}]: {why(error)}")
        else:
            name = identity if turns == "last" else f"{identity}@{index}"
            yield Example(name, problem, *arrays, messages[:index], content, ours)


# -- rows ----------------------------------------------------------------------------------------------------------


def _identity(value: dict[str, Any], row: RawRow) -> str:
    for field in ("id", "id_ddm"):
        if isinstance(value.get(field), str | int):
            sample = value.get("sample_index")
            return f"{value[field]}" if sample is None else f"{value[field]}#{sample}"
    return f"{row.file.name}:{row.line}"


def _conversation(value: dict[str, Any]) -> list[Message]:
    field = next((name for name in PROMPT_FIELDS if value.get(name) is not None), None)
    if field is None:
        raise BadRow(f"no conversation: expected a field {', '.join(PROMPT_FIELDS)}; {present(value)}")
    messages = read_turns(value[field], field, "user")
    other = next((name for name in PROMPT_FIELDS if name != field and value.get(name)), None)
    if not messages and other is not None:
        raise BadRow(f"field '{field}' is empty, and '{other}' is not read beside it: remove the empty field")
    messages = messages if is_record(value) else with_system_field(value, messages, field)
    if field in CONVERSATION_FIELDS:
        return messages
    response = next((name for name in RESPONSE_FIELDS if value.get(name) is not None), None)
    if response is not None:
        return messages + read_turns(value[response], response, "assistant", f"{response}.content")
    if messages and messages[-1]["role"] == "assistant":
        return messages
    raise BadRow(f"no answer to '{field}': expected a field {', '.join(RESPONSE_FIELDS)}; {present(value)}")


def _targets(messages: Sequence[Message], turns: Turns) -> list[int]:
    """Which messages are trained on."""
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise BadRow("no assistant message to learn")
    unlearned = {index: _unlearned(message, f"messages[{index}]") for index, message in enumerate(messages)}
    targets = [index for index in (answers if turns == "all" else answers[-1:]) if unlearned[index] is None]
    if not targets:
        raise BadRow(f"nothing to learn: {unlearned[answers[-1]]} in its assistant messages")
    for index in targets:
        if elsewhere := [name for name in _ELSEWHERE if messages[index].get(name)]:
            raise BadRow(f"messages[{index}].{elsewhere[0]} would be lost: write all that is to be learned as content")
        if not messages[index]["content"].strip():
            raise BadRow(f"messages[{index}] is empty")
    return targets


def _unlearned(message: Message, place: str) -> str | None:
    """Which of its flags says that a message is not learned: "'loss' is false"; None where it is.

    Raises:
        BadRow: a flag is neither yes nor no, or says that a message of another role is learned.
    """
    flags = {name: message[name] for name in TRAIN_FLAGS if message.get(name) is not None}
    for name, flag in flags.items():
        number = name in ("weight", "loss_scale")
        if number and flag not in (0, 1):
            raise BadRow(f"{place}.{name} is {flag!r}: only 1 (learned) and 0 (not) are known; remove it")
        if not number and not isinstance(flag, bool):
            raise BadRow(f"{place}.{name} must be true or false, not {kind(flag)}")
        if flag is True and message["role"] != "assistant":
            raise BadRow(f"{place}.{name} is true in a {message['role']} message: only the assistant's are learned")
    off = next((name for name, flag in flags.items() if not flag), None)
    return None if off is None else f"'{off}' is {'false' if isinstance(flags[off], bool) else 0}"


# -- tokens --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Text:
    """How an assistant's message is made up.

    Attributes:
        start: the character after the opening.
        marker: the character at which the marker begins; None where there is no thinking.
        borders: where parts end, in characters, and which; the last ends with the message.
        ended: whether its author ended the turn.
    """

    start: int
    marker: int | None
    borders: Sequence[tuple[int, int]]
    ended: bool = True


def _written_by_us(record: Record, thinking: Thinking) -> _Text:
    """The spans of a record say where its thinking ends: the marker's letters may also stand in the trace itself."""
    content, at = record.content, len(thinking.open)
    if not content.startswith(thinking.open):
        raise BadRow(f"does not begin with thinking.open, {thinking.open!r}: give thinking as in the run that wrote it")
    borders = []
    for span in record.spans:
        if span.phase == "think":
            if span.start != at or not isinstance(span.end, int) or not at < span.end <= len(content):
                raise BadRow(f"span {span.start}..{span.end} should begin at {at} and end within {len(content)}")
            at = span.end
            borders.append((at, STYLE if span.by == "student" else CAPABILITY))
    close = thinking.before + thinking.marker + thinking.after
    if not content.startswith(close, at):
        raise BadRow(f"has no {close!r} where its thinking ends: give thinking as in the run that wrote it")
    borders.append((len(content), ANSWER))
    return _Text(len(thinking.open), at + len(thinking.before), borders, ended=record.finish.answer != "length")


def _foreign(content: str, thinking: Thinking) -> _Text:
    """White space around the tags may be any; what stands before the opening belongs to the prompt."""
    opening, marker = thinking.open.strip(), content.find(thinking.marker)
    borders = [(len(content), ASSISTANT)]
    lead = len(content) - len(content.lstrip())
    if opening and content.startswith(opening, lead):
        start = lead + len(thinking.open if content.startswith(thinking.open, lead) else opening)
        if marker < start:
            raise BadRow(f"begins with {opening} and has no {thinking.marker}")
        return _Text(start, marker, borders)
    if marker < 0:
        return _Text(0, None, borders)
    if opening:
        raise BadRow(f"has {thinking.marker} and does not begin with {opening}")
    return _Text(0, marker, borders)


def _tokenise(
    chat: Chat, before: Messages, content: str, text: _Text
) -> tuple[Int32[np.ndarray, " T"], Int8[np.ndarray, " T"], Int32[np.ndarray, " T"]]:
    """Ids, parts and ends of an assistant's message and of what stands before it, see `Example`."""
    if text.marker is None:
        prompt = chat.bare_prompt_ids(before)
        ids, ends = chat.tokenizer.encode(content.encode())
    else:
        prompt = chat.prompt_ids(before)
        after = text.marker + len(chat.thinking.marker)
        ids, ends = chat.written_ids(content[text.start : text.marker].encode(), content[after:].encode())
    starts = [text.start, *(end for end, _ in text.borders[:-1])]
    widths = [len(content[a:b].encode()) for a, (b, _) in zip(starts, text.borders, strict=True)]
    # A token that ends within a character is given that character's end, so the next one may seem to be empty: it
    # begins in the same character.
    first = np.minimum([0, *ends[:-1]], np.array(ends) - 1)
    codes = np.array([code for _, code in text.borders], np.int8)
    parts = codes[np.searchsorted(np.cumsum(widths), first, side="right")]
    end = [chat.end_of_turn] if text.ended else []
    tokens = np.array([*prompt, *ids, *end], np.int32)
    context = np.full(len(prompt), CONTEXT, np.int8)
    parts = np.concatenate([context, parts, codes[-1:].repeat(len(end))])
    opening, size = len(content[: text.start].encode()), len(content.encode())
    places = np.array([*[opening] * len(prompt), *(opening + at for at in ends), *[size] * len(end)], np.int32)
    return tokens, parts, places
