"""How far two annotations of the same segments agree."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from tessy_jax.data.segments import Annotated, SegmentKey
from tessy_jax.data.sources import InputError

_WORD = re.compile(r"\S+")


@dataclass
class Confusion:
    """How often two annotators call the same thing style."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    neither: int = 0

    def count(self, a: Bool[np.ndarray, " N"], b: Bool[np.ndarray, " N"]) -> None:
        """Adds N words or characters: whether A calls each style, and whether B does."""
        self.both += int((a & b).sum())
        self.only_a += int((a & ~b).sum())
        self.only_b += int((~a & b).sum())
        self.neither += int((~a & ~b).sum())

    @property
    def total(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def kappa(self) -> float:
        """Cohen's kappa: (observed - expected) / (1 - expected) agreement; nan where all are of one kind.

        https://en.wikipedia.org/wiki/Cohen%27s_kappa
        """
        if not self.total:
            return math.nan
        a, b = (self.both + self.only_a) / self.total, (self.both + self.only_b) / self.total
        observed, expected = (self.both + self.neither) / self.total, a * b + (1 - a) * (1 - b)
        return (observed - expected) / (1 - expected) if expected < 1 else math.nan


@dataclass
class Agreement:
    """Two annotations compared; A is the reference for precision and recall.

    Attributes:
        segments: how many both annotated.
        only_a, only_b: segments that only one has.
        spans_a, spans_b: phrases in the common segments.
        exact: phrases that both have, from the same character to the same character.
        characters: all that are not white space.
        words: separated by white space; a word is style where at least half of its characters are.
        missed, added: phrases of A that B does not have, and the reverse, in lower case.
    """

    segments: int = 0
    only_a: int = 0
    only_b: int = 0
    spans_a: int = 0
    spans_b: int = 0
    exact: int = 0
    characters: Confusion = field(default_factory=Confusion)
    words: Confusion = field(default_factory=Confusion)
    missed: Counter[str] = field(default_factory=Counter)
    added: Counter[str] = field(default_factory=Counter)

    @property
    def precision(self) -> float:
        return self.exact / self.spans_b if self.spans_b else math.nan

    @property
    def recall(self) -> float:
        return self.exact / self.spans_a if self.spans_a else math.nan

    @property
    def f1(self) -> float:
        both = self.spans_a + self.spans_b
        return 2 * self.exact / both if both else math.nan


def compare(a: Mapping[SegmentKey, Annotated], b: Mapping[SegmentKey, Annotated]) -> Agreement:
    """Compares annotated segments, by key.

    Raises:
        InputError: a segment has another text in the other annotation.
    """
    found = Agreement(only_a=len(a.keys() - b.keys()), only_b=len(b.keys() - a.keys()))
    for key in a.keys() & b.keys():
        text = a[key].segment.text
        if b[key].segment.text != text:
            raise InputError(
                "segment {2} of '{0}' (sample {1}) has different texts in the two runs: compare runs on the same input "
                "with the same segments.words and segments.seed".format(*key)
            )
        spans_a, spans_b = _spans(a[key]), _spans(b[key])
        found.segments += 1
        found.spans_a += len(spans_a)
        found.spans_b += len(spans_b)
        found.exact += len(spans_a & spans_b)
        found.missed.update(text[start:end].lower() for start, end in spans_a - spans_b)
        found.added.update(text[start:end].lower() for start, end in spans_b - spans_a)
        labels_a, labels_b = _labels(text, spans_a), _labels(text, spans_b)
        visible = np.array([not char.isspace() for char in text], bool)
        found.characters.count(labels_a[visible], labels_b[visible])
        words = [match.span() for match in _WORD.finditer(text)]
        found.words.count(_majority(labels_a, words), _majority(labels_b, words))
    return found


def _spans(annotated: Annotated) -> set[tuple[int, int]]:
    return {(span.start, span.end) for span in annotated.spans}


def _labels(text: str, spans: set[tuple[int, int]]) -> Bool[np.ndarray, " N"]:
    labels = np.zeros(len(text), bool)
    for start, end in spans:
        labels[start:end] = True
    return labels


def _majority(labels: Bool[np.ndarray, " N"], words: list[tuple[int, int]]) -> Bool[np.ndarray, " M"]:
    return np.array([2 * labels[start:end].sum() >= end - start for start, end in words], bool)
