"""Annotated segments of thinking as token labels, in the tokens of whoever is to learn them.

A token is style (label 1) if the first of its bytes that is not white space lies in a style span, else capability
(label 0); a token of white space alone goes by its first byte. So " so" is labelled by its "s", and a token that is
only part of a character like the character. Tokens behind the point that the annotator reached have no label.

A prediction may stand at the token itself (`shift` 0) or at the token before it (`shift` 1, as in the released
predictors; nothing is predicted for the first token then).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Int8, Int32

from tessy_jax.annotation.align import Span, merge
from tessy_jax.annotation.annotator import Annotated
from tessy_jax.annotation.released import from_released, is_released
from tessy_jax.annotation.segments import Segment
from tessy_jax.annotation.thoughts import data_path
from tessy_jax.data.inputs import BadRow, InputError, Reject, kind, present, row_object
from tessy_jax.data.sources import rows
from tessy_jax.text.tokenizer import ContentTokenizer
from tessy_jax.train.batches import Weights
from tessy_jax.train.corpus import Document
from tessy_jax.train.examples import CAPABILITY, CONTEXT, PARTS, STYLE

LABELS = ("capability", "style")
"""Names of the labels in order: 1 is style, as in the released predictors."""


# -- reading -----------------------------------------------------------------------------------------------------------


def read_annotated(paths: Iterable[Path]) -> Iterator[Annotated | Reject]:
    """Every row of run directories of `annotate`, or of files of its or the released format.

    Released rows name their response by `id_ddm`; one without it is a response of its own.

    Raises:
      InputError: a path is missing, unreadable, of an unknown kind or empty.
    """
    released: Counter[str] = Counter()
    for path in paths:
        for row in rows(data_path(path)):
            identity: str | None = None
            try:
                value = row_object(row)
                identity = str(value.get("id", value.get("id_ddm", ""))) or None
                if is_released(value):
                    name = identity or hashlib.sha256(str(value["think_text"]).encode()).hexdigest()[:16]
                    text, spans = from_released(value)
                    yield Annotated(Segment(name, 0, released[name], None, text), spans)
                    released[name] += 1
                else:
                    yield _ours(value)
            except BadRow as problem:
                yield Reject.of(row, identity, str(problem))


def _ours(value: dict[str, Any]) -> Annotated:
    wanted: dict[str, type] = {"id": str, "sample_index": int, "segment": int, "text": str, "spans": list}
    for name, of in wanted.items():
        if name not in value:
            raise BadRow(f"no field '{name}': not a line of annotate, nor of the released format; {present(value)}")
        if not isinstance(value[name], of):
            raise BadRow(f"field '{name}' is {kind(value[name])}, not what annotate writes")
    text = value["text"]
    spans = [_span(text, span, f"spans[{i}]") for i, span in enumerate(value["spans"])]
    segment = Segment(value["id"], value["sample_index"], value["segment"], value.get("offset"), text)
    if not text.strip():
        raise BadRow("field 'text' is empty")
    return Annotated(segment, merge(spans), bool(value.get("truncated", False)))


def _span(text: str, span: Any, place: str) -> Span:
    start, end = (span.get("start"), span.get("end")) if isinstance(span, dict) else (None, None)
    if not isinstance(start, int) or not isinstance(end, int):
        raise BadRow(f"{place} must be an object with the characters start and end")
    if not 0 <= start < end <= len(text):
        raise BadRow(f"{place}: {start}..{end} leaves the text of {len(text)} characters")
    return Span(start, end)


# -- labelling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labelled:
    """A segment in tokens.

    Attributes:
        source: the segment with its spans.
        first: number of its first token in the text that was tokenised.
        tokens: its ids.
        classes: STYLE, CAPABILITY or, where nothing is known, CONTEXT: codes of `train.examples.PARTS`.
        starts, ends: the characters of each token in the segment's text.
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
            data: the text, in which the segment begins at byte `begin`.
            ids: the tokens of the text. ends: the bytes at which they end.
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


def _by_byte(text: str, spans: Iterable[Span]) -> tuple[np.ndarray, np.ndarray]:
    """For each byte: whether its character lies in a span, and the number of its word, -1 for white space."""
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
    """Labelled segments to learn from: `train.batches.Documents`, with labels for targets.

    Attributes:
        items: the segments.
        shift: where a token's prediction stands.
        rejects: rows that could not be used. cut: segments that were longer than a row and lost their end.
    """

    items: list[Labelled]
    shift: Literal[0, 1]
    rejects: list[Reject]
    cut: int = 0

    @classmethod
    def read(cls, paths: Iterable[Path], tokenizer: ContentTokenizer, length: int, shift: Literal[0, 1]) -> "Segments":
        """Reads, tokenises and labels.

        Raises:
          InputError: a source cannot be read, or has nothing to learn in it.
        """
        items, rejects, cut = [], [], 0
        for found in read_annotated(paths):
            if isinstance(found, Reject):
                rejects.append(found)
                continue
            item = Labelled.of(found, tokenizer, length)
            cut += len(item.ends) == length and int(item.ends[-1]) < len(found.segment.text)
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


def held_out(ids: Sequence[str], share: float) -> list[bool]:
    """Whether each row is held out, decided by the id of its prompt alone: segments of one response, and responses to
    one prompt, are always on one side. At least one prompt is on each side; share 0 holds out nothing.

    Raises:
      InputError: there are fewer than two prompts.
    """
    if share == 0:
        return [False] * len(ids)
    number = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in set(ids)}
    ordered = sorted(number.values())
    if len(ordered) < 2:
        raise InputError("held_out: the segments are of one prompt only, which cannot be on both sides: annotate more")
    count = sum(value < share * 2**64 for value in ordered)
    border = ordered[min(max(count, 1), len(ordered) - 1)]
    return [number[name] < border for name in ids]


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
