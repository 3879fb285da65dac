"""What the records of a run say of it: who wrote how much, what was rolled back or left out, what was rejected."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessy_jax.data.jsonl import read_objects
from tessy_jax.data.records import Record

AUTHORS = ("student", "teacher")


@dataclass
class TraceCounts:
    """Totals of one run directory. Tokens are by author, each in the author's own.

    Attributes:
        rejected: rows without a record.
        switches: from one author to the other.
        thinking, answers: tokens of the records.
        thinking_characters: of the records.
        generated: all tokens, of records, of what was rolled back, and of texts that are in no record, such as
            candidates that were not chosen.
        rolled_back: of these, what was cut off.
        unattributed: what was rolled back in turns that kept nothing, where both models wrote: a record does not say
            whose. It is in none of the others.
    """

    records: int = 0
    rejected: int = 0
    switches: int = 0
    thinking: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    thinking_characters: Counter[str] = field(default_factory=Counter)
    generated: Counter[str] = field(default_factory=Counter)
    rolled_back: Counter[str] = field(default_factory=Counter)
    unattributed: int = 0

    @property
    def kept(self) -> Counter[str]:
        """Tokens of the records."""
        return self.thinking + self.answers


def count_traces(folder: Path) -> TraceCounts:
    """Of a run directory of synthesize, read a record at a time.

    A method in several steps has run directories of its steps in it. A record that is a text of such a step was
    generated there, once.
    """
    counts = TraceCounts(rejected=sum(1 for _ in _rows(folder, "rejects*.jsonl")))
    written: set[tuple[str, int]] = set()
    for step in sorted({file.parents[1] for file in folder.glob("*/data/part-*.jsonl")}):
        cost = _Cost(counts)
        for record in _records(step):
            cost.add(record)
            written.add(_key(record))
        cost.end()
    cost = _Cost(counts)
    for record in _records(folder):
        if _key(record) not in written:
            cost.add(record)
        counts.records += 1
        counts.switches += record.switches
        counts.thinking.update({author: getattr(record.n_tokens, author) for author in AUTHORS})
        counts.answers.update({_answers(record): record.n_tokens.answer})
        for span in record.spans:
            if span.phase == "think":
                counts.thinking_characters[span.by] += span.end - span.start
    cost.end()
    return counts


class _Cost:
    """What it took to write the texts of one run directory.

    Spans say whose the tokens are that were rolled back in turns that kept something. Of all other turns a record has
    the sum alone: it is its author's, where no record has two, and else nobody's.
    """

    def __init__(self, counts: TraceCounts):
        """`counts`: where it is added."""
        self._counts = counts
        self._rest: Counter[tuple[str, ...]] = Counter()  # of turns that kept nothing, by who thinks in the record

    def add(self, record: Record) -> None:
        counts, tokens, dropped = self._counts, record.n_tokens, Counter[str]()
        for span in record.spans:
            dropped[span.by] += span.dropped_tokens
        counts.rolled_back.update(dropped)
        counts.generated.update(dropped)
        counts.generated.update({author: getattr(tokens, author) for author in AUTHORS})
        counts.generated.update({_answers(record): tokens.answer})
        of_spans = sum(span.dropped_tokens for span in record.spans if span.phase == "think")
        self._rest[tuple(author for author in AUTHORS if getattr(tokens, author))] += tokens.rolled_back - of_spans

    def end(self) -> None:
        """After all records."""
        authors = {author for key in self._rest for author in key}
        alone = all(len(key) < 2 for key in self._rest)
        for key, rest in self._rest.items():
            owners = key or tuple(authors)
            if alone and len(owners) == 1:
                self._counts.rolled_back[owners[0]] += rest
                self._counts.generated[owners[0]] += rest
            else:
                self._counts.unattributed += rest


def _answers(record: Record) -> str:
    """Who wrote the answer; the student, where there is none."""
    return next((span.by for span in record.spans if span.phase == "answer"), "student")


def _key(record: Record) -> tuple[str, int]:
    return record.problem.id, hash(record.content)


def _records(folder: Path) -> Iterator[Record]:
    return map(Record.from_row, _rows(folder, "data/part-*.jsonl"))


def _rows(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob(pattern)):
        for _, row in read_objects(file):
            if row is not None:
                yield row
