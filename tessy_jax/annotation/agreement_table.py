"""Two annotations compared, as a table for people."""

import math
from collections import Counter

from rich.table import Table

from tessy_jax.annotation.agreement import Agreement
from tessy_jax.console.messages import visible

_PHRASES = 8
"""The phrases listed that only one annotation has."""


def agreement_table(agreement: Agreement) -> Table:
    """The numbers of a comparison, and the phrases that most often are in one annotation only."""
    segments = agreement.segments
    table = Table("", "A", "B", "both", "agreement", title="agreement of two annotations, A as the reference")
    table.add_row("segments", str(segments + agreement.only_a), str(segments + agreement.only_b), str(segments), "")
    precision, recall, f1 = map(_number, (agreement.precision, agreement.recall, agreement.f1))
    table.add_row(
        "phrases",
        str(agreement.spans_a),
        str(agreement.spans_b),
        str(agreement.exact),
        f"precision {precision}, recall {recall}, F1 {f1}",
    )
    for name, confusion in (("words", agreement.words), ("characters", agreement.characters)):
        a, b = confusion.both + confusion.only_a, confusion.both + confusion.only_b
        kappa = f"kappa {_number(confusion.kappa)} over {confusion.total}"
        table.add_row(name, str(a), str(b), str(confusion.both), kappa)
    table.add_row("only A's", _most_frequent(agreement.missed))
    table.add_row("only B's", "", _most_frequent(agreement.added))
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _most_frequent(phrases: Counter[str]) -> str:
    ranked = sorted(phrases.items(), key=lambda item: (-item[1], item[0]))[:_PHRASES]
    return "\n".join(f"{count} {' '.join(visible(phrase).split())}" for phrase, count in ranked)
