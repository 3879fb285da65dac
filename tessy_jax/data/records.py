"""What goes in, what comes out and what is in flight: problems, records and row states, and their JSON.

A record on disk is one JSON line:

    {"id", "sample_index", "messages": [..., {"role": "assistant", "content"}],
     "spans": [{"by", "phase", "start", "end", "n_tokens", "dropped_tokens"}],
     "n_tokens": {"student", "teacher", "answer", "rolled_back"}, "switches", "finish": {"think", "answer"}, "seed",
     "dropped_text": [{"by", "at", "n_tokens", "text"}],        only of runs with `keep_dropped`
     "word_scores": [[start, end, P(style)]],                   only of runs with `keep_scores`
     ... the problem's other fields}

Fields of the problem that have the name of one of these are kept under "input".
"""

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

Author = Literal["student", "teacher"]
Phase = Literal["think", "answer"]
Message = dict[str, Any]

_OWN_FIELDS = (
    "id",
    "sample_index",
    "messages",
    "spans",
    "n_tokens",
    "switches",
    "finish",
    "seed",
    "dropped_text",
    "word_scores",
    "input",
)
_KEPT = ("dropped_text", "word_scores")  # what only some runs keep
# Characters that UTF-8 cannot hold (lone surrogates) or that some readers take for the end of a line.
_ESCAPED = re.compile("[\ud800-\udfff\u0085\u2028\u2029]")


@dataclass(frozen=True)
class Problem:
    """One row of the input.

    Attributes:
        id: unique within a run.
        messages: everything before the answer, ending with a user message.
        extra: the row's other fields, which pass through to the record.
        line: line of the input file, or row of a table, from 1.
        file: name of the input file.
    """

    id: str
    messages: list[Message]
    extra: dict[str, Any] = field(default_factory=dict)
    line: int = 0
    file: str = ""


@dataclass(frozen=True)
class Span:
    """What one model wrote in a row.

    Attributes:
        start, end: half-open range: characters of the assistant's content in a record, bytes of the text in a row
            state.
        n_tokens: tokens kept, in the author's tokenizer.
        dropped_tokens: tokens generated after the cut and rolled back.
    """

    by: Author
    phase: Phase
    start: int
    end: int
    n_tokens: int
    dropped_tokens: int


@dataclass(frozen=True)
class DroppedText:
    """What one model wrote behind a cut, and what was rolled back there.

    Attributes:
        at: where the cut is; characters or bytes as in `Span`.
        n_tokens: tokens rolled back; the first may begin before the cut.
        text: from the cut on. A character of which only a part was written is U+FFFD.
    """

    by: Author
    at: int
    n_tokens: int
    text: str


class WordScore(NamedTuple):
    """What the author's boundary predictor said of a word that it judged.

    Attributes:
        start, end: of a word that was kept; characters or bytes as in `Span`. Of one that was rejected both are where
            the span was cut before it.
        style: P(style) of the token that decided, rounded to four places: the first that is not of the author's kind,
            or, where the word was kept, the one that is least sure of it.
    """

    start: int
    end: int
    style: float


@dataclass(frozen=True)
class TokenCounts:
    """Tokens by use: thinking kept of each author, the answer, and generated but rolled back."""

    student: int = 0
    teacher: int = 0
    answer: int = 0
    rolled_back: int = 0

    @classmethod
    def of(cls, spans: Iterable[Span]) -> "TokenCounts":
        """Those of a trace with these spans, any that kept nothing included."""
        spans = list(spans)
        thought = [span for span in spans if span.phase == "think"]
        return cls(
            student=sum(span.n_tokens for span in thought if span.by == "student"),
            teacher=sum(span.n_tokens for span in thought if span.by == "teacher"),
            answer=sum(span.n_tokens for span in spans if span.phase == "answer"),
            rolled_back=sum(span.dropped_tokens for span in thought),
        )


@dataclass(frozen=True)
class FinishReason:
    """Why thinking ended ("end": the marker, "eos", "channel", "length": the budget, "loop"), and the answer ("stop",
    "length").
    """

    think: str
    answer: str


@dataclass(frozen=True)
class Record:
    """A finished trace.

    Attributes:
        content: the assistant's whole message, both thinking tags included.
        dropped_text: what was rolled back, in the order in which it was written; None where the run did not keep it.
        word_scores: of all words that were judged, in the order of the text; None where the run did not keep them.
    """

    problem: Problem
    sample_index: int
    content: str
    spans: tuple[Span, ...]
    n_tokens: TokenCounts
    switches: int
    finish: FinishReason
    seed: int
    dropped_text: tuple[DroppedText, ...] | None = None
    word_scores: tuple[WordScore, ...] | None = None

    def to_row(self) -> dict[str, Any]:
        """The record as it stands in the output."""
        extra = self.problem.extra
        row = {
            "id": self.problem.id,
            "sample_index": self.sample_index,
            "messages": [*self.problem.messages, {"role": "assistant", "content": self.content}],
            "spans": [asdict(span) for span in self.spans],
            "n_tokens": asdict(self.n_tokens),
            "switches": self.switches,
            "finish": asdict(self.finish),
            "seed": self.seed,
        }
        if self.dropped_text is not None:
            row["dropped_text"] = [asdict(dropped) for dropped in self.dropped_text]
        if self.word_scores is not None:
            row["word_scores"] = [list(score) for score in self.word_scores]
        row |= {name: value for name, value in extra.items() if name not in _OWN_FIELDS}
        if clashes := {name: extra[name] for name in _OWN_FIELDS if name in extra}:
            row["input"] = clashes
        return row

    @property
    def thinking(self) -> str:
        """The thinking text, without its tags: what the spans of the thinking cover together."""
        spans = [span for span in self.spans if span.phase == "think"]
        return self.content[spans[0].start : spans[-1].end] if spans else ""

    @property
    def answer(self) -> str:
        """What stands behind the thinking."""
        return "".join(self.content[span.start : span.end] for span in self.spans if span.phase == "answer")

    def to_json(self) -> str:
        """One line of the output, without the line end."""
        return dump_line(self.to_row())

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """The inverse of `to_row` (the problem's line apart); raises ValueError where a field is missing or wrong."""
        try:
            extra = {name: value for name, value in row.items() if name not in _OWN_FIELDS} | row.get("input", {})
            dropped, scores = row.get("dropped_text"), row.get("word_scores")
            return cls(
                problem=Problem(row["id"], row["messages"][:-1], extra),
                sample_index=row["sample_index"],
                content=row["messages"][-1]["content"],
                spans=tuple(Span(**span) for span in row["spans"]),
                n_tokens=TokenCounts(**row["n_tokens"]),
                switches=row["switches"],
                finish=FinishReason(**row["finish"]),
                seed=row["seed"],
                dropped_text=None if dropped is None else tuple(DroppedText(**each) for each in dropped),
                word_scores=None if scores is None else tuple(WordScore(*each) for each in scores),
            )
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"not a record: {error!r}") from error


@dataclass(frozen=True)
class RowState:
    """A row in flight, as the journal keeps it: enough to continue after an interruption.

    Attributes:
        text: UTF-8 bytes of the trace so far; they may end within a character.
        spans: finished spans, in bytes.
        role, phase: whose turn it is and what is being written.
        span_start: byte at which the current span starts.
        kept: bytes of the text that are final.
        span_tokens: tokens sampled in the current span, in the author's tokenizer.
        span_ends: byte at which each of them ends.
        event: structural event met in the current span; 0: none.
        counters: running totals, by name.
        finish_think: why thinking ended; None while it goes on.
        span_style: P(style) of each token of the span where the predictor is a probe; else empty.
        dropped_text, word_scores: those of the record so far, in bytes; a line of the journal has them only if there
            are some.
    """

    id: str
    sample_index: int
    text: bytes
    spans: tuple[Span, ...]
    role: Author
    phase: Phase
    span_start: int
    kept: int
    span_tokens: tuple[int, ...]
    span_ends: tuple[int, ...]
    event: int
    counters: dict[str, int]
    finish_think: str | None
    span_style: tuple[float, ...] = ()
    dropped_text: tuple[DroppedText, ...] = ()
    word_scores: tuple[WordScore, ...] = ()

    def to_json(self) -> str:
        """One line of the journal, without the line end."""
        values = asdict(self) | {"text": base64.b64encode(self.text).decode("ascii")}
        return dump_line({name: value for name, value in values.items() if value or name not in _KEPT})

    @classmethod
    def from_json(cls, line: str) -> "RowState":
        """The inverse of `to_json`; raises ValueError where the line is not a row state."""
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or {*values, *_KEPT} != {one.name for one in fields(cls)}:
                raise ValueError("its fields are not those of a row state")
            values["text"] = base64.b64decode(values["text"], validate=True)
            values["spans"] = tuple(Span(**span) for span in values["spans"])
            values["dropped_text"] = tuple(DroppedText(**each) for each in values.get("dropped_text", ()))
            values["word_scores"] = tuple(WordScore(*each) for each in values.get("word_scores", ()))
            values |= {name: tuple(values[name]) for name in ("span_tokens", "span_ends", "span_style")}
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"not a row state: {error}") from error


def dump_line(row: Mapping[str, Any]) -> str:
    """One line of JSON that any reader takes for one line.

    Characters are written as they are, except those that UTF-8 cannot hold or that look like a line end: these are
    escaped. JSON has no NaN or infinity: they become null. Bytes become base64, other foreign values their text.
    """
    text = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
