"""Annotated segments of thinking as token labels, in the tokens of whoever is to learn them.

A token is style (label 1) if the first of its bytes that is not white space lies in a style span, else capability
(label 0); a token of white space alone goes by its first byte. So " so" is labelled by its "s", and a token that is
only part of a character like the character. Tokens behind the point that the annotator reached have no label.

A prediction may stand at the token itself (`shift` 0) or at the token before it (`shift` 1, as in the released
predictors; nothing is predicted for the first token then).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Int8, Int32

from tessy_jax.data.annotated import convert_annotated
from tessy_jax.data.inputs import InputError, Reject
from tessy_jax.data.segments import Annotated, StyleSpan
from tessy_jax.data.split import held_out
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.train.data.batches import Weights
from tessy_jax.train.data.corpus import Document
from tessy_jax.train.data.examples import CAPABILITY, CONTEXT, PARTS, STYLE

LABELS = ("capability", "style")
"""Names of the labels in order: 1 is style, as in the released predictors."""


# -- reading -----------------------------------------------------------------------------------------------------------


# -- labelling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labelled:
    """A segment in tokens.

    Attributes:
        source: the segment with its spans.
        first: number of its first token in the text that was tokenised.
        tokens: its ids.
        classes: STYLE, CAPABILITY or, where nothing is known, CONTEXT: codes of `examples.PARTS`.
        starts: the character of the segment's text at which each token begins.
        ends: the character before which it ends.
        words: number of the word (between white space) that each token belongs to, from 0; -1: white space.
    """

    source: Annotated
    first: int
    tokens: Int32[np.ndarray, " T"]
    classes: Int8[np.ndarray, " T"]
    starts: Int32[np.ndarray, " T"]
    ends: Int32[np.ndarray, " T"]
    words: Int32[np.ndarray, " T"]

    @classmethod
    def of(cls, source: Annotated, tokenizer: ContentTokenizer, length: int | None = None) -> "Labelled":
        """Tokenises the segment alone; at most `length` tokens are kept."""
        data = source.segment.text.encode()
        ids, ends = tokenizer.encode(data)
        return cls.within(source, data, 0, ids[:length], ends[:length])

    @classmethod
    def within(cls, source: Annotated, data: bytes, begin: int, ids: Sequence[int], ends: Sequence[int]) -> "Labelled":
        """The segment's tokens among those of a longer text.

        Args:
            source: the segment with its spans.
            data: the longer text.
            begin: the byte of `data` at which the segment begins.
            ids: the tokens of `data`.
            ends: the bytes at which they end.
        """
        text = source.segment.text
        style, word = _by_byte(text, source.spans)
        char = np.cumsum([byte & 0xC0 != 0x80 for byte in text.encode()]) - 1  # the character of each byte
        known = max((s.end for s in source.spans), default=0) if source.truncated else len(text)
        found: list[tuple[int, ...]] = []
        first = start = end = 0
        for number, (token, stop) in enumerate(zip(ids, ends, strict=True)):
            if stop > end:  # else a further part of the same character
                start, end = end, stop
            blank = len(data[start:end]) - len(data[start:end].lstrip())
            at = start + (blank if blank < end - start else 0) - begin
            if not 0 <= at < len(char):
                continue
            first = first if found else number
            class_ = CONTEXT if char[at] >= known else STYLE if style[at] else CAPABILITY
            begins, last = max(start - begin, 0), min(end - begin, len(char)) - 1
            found.append((token, class_, char[begins], char[last] + 1, word[at]))
        columns = np.array(found, np.int32).reshape(-1, 5).T
        return cls(source, first, columns[0], columns[1].astype(np.int8), columns[2], columns[3], columns[4])


def _by_byte(text: str, spans: Iterable[StyleSpan]) -> tuple[np.ndarray, np.ndarray]:
    """For each byte of a text: whether its character lies in a span, and the number of its word (-1: white space).

    "so 16" with a span 0..2 gives True True False False False and 0 0 -1 1 1.
    """
    style = np.zeros(len(text), bool)
    for span in spans:
        style[span.start : span.end] = True
    space = np.array([char.isspace() for char in text], bool)
    first = ~space & np.concatenate([[True], space[:-1]])
    word = np.where(space, -1, np.cumsum(first) - 1)
    width = [len(char.encode()) for char in text]
    return np.repeat(style, width), np.repeat(word, width)


# -- a set of segments -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Segments:
    """Labelled segments to learn from: they are `batches.Documents` whose targets are labels.

    Attributes:
        items: the segments.
        shift: where a token's prediction stands: 0: at the token, 1: at the token before it.
        rejects: rows that could not be used.
        cut: segments that were longer than a row and lost their end.
    """

    items: list[Labelled]
    shift: Literal[0, 1]
    rejects: list[Reject]
    cut: int = 0

    @classmethod
    def read(cls, paths: Iterable[Path], tokenizer: ContentTokenizer, length: int, shift: Literal[0, 1]) -> "Segments":
        """Reads, tokenises and labels the segments of some sources.

        Args:
            paths: run directories of `annotate`, or files of its or the released format.
            tokenizer: of the predictor.
            length: tokens that are kept of a segment.
            shift: see `Segments`.

        Raises:
            InputError: a source cannot be read, or has nothing to learn in it.
        """
        items, rejects, cut = [], [], 0
        for item in convert_annotated(paths, lambda found: Labelled.of(found, tokenizer, length)):
            if isinstance(item, Reject):
                rejects.append(item)
                continue
            cut += len(item.ends) == length and int(item.ends[-1]) < len(item.source.segment.text)
            items.append(item)
        segments = cls(items, shift, rejects, cut)
        if not segments.counts.any():
            first = f"; the first: {rejects[0].file}:{rejects[0].line}: {rejects[0].reason}" if rejects else ""
            raise InputError(f"no segment to learn from: {len(rejects)} rows cannot be used{first}")
        missing = [name for name in LABELS if not segments.counts[:, PARTS.index(name)].any()]
        if missing:
            raise InputError(f"no token of the {len(items)} segments is {missing[0]}: there is nothing to tell apart")
        return segments

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def lengths(self) -> Int32[np.ndarray, " N"]:
        """Tokens of each segment."""
        return np.array([len(item.tokens) for item in self.items], np.int32)

    @cached_property
    def counts(self) -> Int32[np.ndarray, "N P"]:
        """Labels to predict in each segment, by code of the class in `PARTS`."""
        found = [np.bincount(self.document(i).parts, minlength=len(PARTS)) for i in range(len(self))]
        counts = np.array(found, np.int32).reshape(-1, len(PARTS))
        counts[:, CONTEXT] = 0
        return counts

    def document(self, i: int) -> Document:
        """Segment `i`; its targets are labels, and its parts say which there are."""
        item = self.items[i]
        classes = item.classes if self.shift == 0 else np.append(item.classes[1:], np.int8(CONTEXT))
        return Document(item.tokens, (classes == STYLE).astype(np.int32), classes)

    def names(self, which: Iterable[int]) -> list[str]:
        """id#sample/segment, for messages."""
        segments = (self.items[i].source.segment for i in which)
        return [f"{s.id}#{s.sample_index}/{s.index}" for s in segments]

    def split(self, share: float) -> tuple["Segments", "Segments"]:
        """Segments to train on, and those of a share of the prompts held out; 0 holds out none. See `held_out`."""
        held = held_out([item.source.segment.id for item in self.items], share)
        sides = ([item for item, out in zip(self.items, held, strict=True) if out == side] for side in (False, True))
        train, rest = (replace(self, items=side, rejects=[], cut=0) for side in sides)
        return train, rest


def class_weights(how: str | Sequence[float] | None, counts: Int[np.ndarray, "N P"]) -> Weights:
    """Weights of the classes, as those of torch's CrossEntropyLoss.

    Args:
        how: None: 1 each; "balanced": labels / (2 x labels of the class); or two numbers, for capability and style.
        counts: labels by class, see `Segments.counts`.
    """
    if how is None:
        return Weights()
    if isinstance(how, str):
        capability, style = (int(counts[:, code].sum()) for code in (CAPABILITY, STYLE))
        total = capability + style
        how = (total / (2 * max(1, capability)), total / (2 * max(1, style)))
    return Weights(capability=how[0], style=how[1])
