"""A finished trace in colour, by author; with brackets where there is no colour."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from tessy_jax.console.messages import visible

_STYLES = {"student": "cyan", "teacher": "yellow", "answer": "green", "marker": "bold magenta"}
_LETTERS = {"student": "S", "teacher": "T", "answer": "A", "marker": "M"}


def show(record: Mapping[str, Any], console: Console) -> None:
    """Prints a record (a row of the output): header, legend, prompt and the trace, each part in its author's colour.

    Raises:
        ValueError: the record has no messages or spans, or its spans overlap or leave the text.
    """
    try:
        *prompt, answer = record["messages"]
        parts = list(_parts(answer["content"], record["spans"]))
        header, legend = _header(record), Text("  ").join(_styled(kind, kind, console) for kind in _STYLES)
        question = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot show record {record.get('id')!r}: {error!r}") from error
    trace = Text.assemble(*(_styled(kind, text, console) for kind, text in parts))
    for block in (Text(visible(header), "bold"), legend, Text(visible(question), "dim"), trace):
        console.print(block, soft_wrap=True)


def _parts(content: str, spans: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Kinds and texts that make up the content, in order; text of no span is a marker."""
    position = 0
    for span in [*spans, {"start": len(content), "end": len(content), "phase": "end", "by": ""}]:
        start, end = span["start"], span["end"]
        if not position <= start <= end <= len(content):
            raise ValueError(f"span {start}..{end} overlaps another or leaves the text of {len(content)} characters")
        if start > position:
            yield "marker", content[position:start]
        if end > start:
            yield ("answer" if span["phase"] == "answer" else span["by"]), content[start:end]
        position = end


def _styled(kind: str, text: str, console: Console) -> Text:
    text = visible(text)
    if console.color_system is None:
        return Text(f"⟦{_LETTERS[kind]} {text}⟧")
    return Text(text, _STYLES[kind])


def _header(record: Mapping[str, Any]) -> str:
    tokens = ", ".join(f"{name} {count}" for name, count in record["n_tokens"].items())
    finish = ", ".join(f"{phase}: {how}" for phase, how in record["finish"].items())
    return f"{record['id']} #{record['sample_index']}  finish {finish}  switches {record['switches']}  tokens {tokens}"
