"""Annotated segments in colour, and two annotations compared, for people."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tessy_jax.annotation.agreement import Agreement

_MOST = 8  # phrases listed


def show_segment(row: Mapping[str, Any], console: Console) -> None:
    """Prints a row of the output: its name and its text, style in colour, in brackets where there is no colour."""
    name = f"{row['id']} #{row['sample_index']} segment {row['segment']}  {row['annotator']}"
    console.print(Text(_visible(name), "bold"), soft_wrap=True)
    console.print(Text.assemble(*_parts(row, console.color_system is not None)), soft_wrap=True)


def _parts(row: Mapping[str, Any], colour: bool) -> Iterator[Text]:
    text, at = row["text"], 0
    for span in row["spans"]:
        style = _visible(text[span["start"] : span["end"]])
        yield Text(_visible(text[at : span["start"]]))
        yield Text(style, "cyan") if colour else Text(f"⟦{style}⟧")
        at = span["end"]
    yield Text(_visible(text[at:]))


def _visible(text: str) -> str:
    """Text that cannot command the terminal."""
    return text.replace("\x1b", "␛")


def agreement_table(found: Agreement) -> Table:
    """The numbers of a comparison."""
    table = Table("", "A", "B", "both", "agreement", title="agreement of two annotations, A as the reference")
    table.add_row(
        "segments", str(found.segments + found.only_a), str(found.segments + found.only_b), str(found.segments), ""
    )
    table.add_row(
        "phrases",
        str(found.spans_a),
        str(found.spans_b),
        str(found.exact),
        f"precision {_number(found.precision)}, recall {_number(found.recall)}, F1 {_number(found.f1)}",
    )
    for name, confusion in (("words", found.words), ("characters", found.characters)):
        a, b = confusion.both + confusion.only_a, confusion.both + confusion.only_b
        table.add_row(
            name, str(a), str(b), str(confusion.both), f"kappa {_number(confusion.kappa)} over {confusion.total}"
        )
    table.add_row("only A's", _most(found.missed))
    table.add_row("only B's", "", _most(found.added))
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _most(phrases: Counter[str]) -> str:
    ranked = sorted(phrases.items(), key=lambda item: (-item[1], item[0]))[:_MOST]
    return "\n".join(f"{count} {' '.join(_visible(phrase).split())}" for phrase, count in ranked)
