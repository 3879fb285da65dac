"""Annotated segments in colour; with brackets where there is no colour."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from tessy_jax.console.messages import visible


def show_segment(row: Mapping[str, Any], console: Console) -> None:
    """Prints a row of the output: its name and its text, style in colour, in brackets where there is no colour."""
    name = f"{row['id']} #{row['sample_index']} segment {row['segment']}  {row['annotator']}"
    console.print(Text(visible(name), "bold"), soft_wrap=True)
    console.print(Text.assemble(*_parts(row, console.color_system is not None)), soft_wrap=True)


def _parts(row: Mapping[str, Any], colour: bool) -> Iterator[Text]:
    text, at = row["text"], 0
    for span in row["spans"]:
        style = visible(text[span["start"] : span["end"]])
        yield Text(visible(text[at : span["start"]]))
        yield Text(style, "cyan") if colour else Text(f"⟦{style}⟧")
        at = span["end"]
    yield Text(visible(text[at:]))
