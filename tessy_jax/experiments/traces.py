"""What the records of a run say of it: who wrote how much, what was rolled back, what was rejected."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.records import Record


@dataclass(frozen=True)
class TraceCounts:
    """Totals of one run directory.

    Attributes:
        rejected: rows without a record.
        switches: from one author to the other, of all records.
        kept, rolled_back: tokens by author, each in the author's own tokens.
        thinking_tokens, thinking_characters: of what is kept of the thinking, by author.
        answer_tokens: of what is kept of the answers, by author.
    """

    records: int
    rejected: int
    switches: int
    kept: dict[str, int]
    rolled_back: dict[str, int]
    thinking_tokens: dict[str, int]
    thinking_characters: dict[str, int]
    answer_tokens: dict[str, int]


def count_traces(folder: Path) -> TraceCounts:
    """Of a run directory of synthesize, read a record at a time."""
    records = switches = 0
    counts: dict[str, Counter[str]] = {
        name: Counter() for name in ("kept", "rolled_back", "thinking_tokens", "thinking_characters", "answer_tokens")
    }
    for row in _rows(folder, "data/part-*.jsonl"):
        record = Record.from_row(row)
        records, switches = records + 1, switches + record.switches
        for span in record.spans:
            counts["kept"][span.by] += span.n_tokens
            counts["rolled_back"][span.by] += span.dropped_tokens
            if span.phase == "think":
                counts["thinking_tokens"][span.by] += span.n_tokens
                counts["thinking_characters"][span.by] += span.end - span.start
            else:
                counts["answer_tokens"][span.by] += span.n_tokens
    rejected = sum(1 for _ in _rows(folder, "rejects*.jsonl"))
    by_author = {name: dict(sorted(found.items())) for name, found in counts.items()}
    return TraceCounts(records, rejected, switches, **by_author)


def _rows(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob(pattern)):
        for _, row in read_objects(file):
            if row is not None:
                yield row
