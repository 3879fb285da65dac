"""How data sets are built: lengths, shares of the authors, spans, switches, ends, words, repetition."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Num

from tessy_jax.analysis.flags import FLAGS, split
from tessy_jax.analysis.traces import DataSet, Trace
from tessy_jax.data.records import Record
from tessy_jax.text.thinking import Thinking

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_GRAM = 4
"""Words of the pieces by which repetition is measured."""


def summary(data: DataSet, thinking: Thinking) -> dict[str, Any]:
    """Counts of a data set. Lengths and shares are in the student's tokens, spans in those of their authors."""
    traces = data.traces
    records = [trace.example.record for trace in traces]
    known = [record for record in records if record is not None]
    judged = [trace.correct for trace in traces if trace.correct is not None]
    return {
        "traces": len(traces),
        "rejected": len(data.rejects),
        "cut_off": data.cut,
        "unread_fields": data.unread,
        "tokens": data.parts(),
        "lengths": spread([trace.n_tokens for trace in traces]),
        "prompt_lengths": spread([len(trace.example.tokens) - trace.n_tokens for trace in traces]),
        "correct": {"judged": len(judged), "share": sum(judged) / len(judged) if judged else None},
        "authors": authors(known),
        "spans": {by: spread([s.n_tokens for r in known for s in r.spans if _thinks(s, by)]) for by in _authors(known)},
        "switches_per_1k_tokens": _rate(sum(r.switches for r in known), _thinking_tokens(known)),
        "rolled_back_per_kept": _ratio(known),
        "finish": {
            "think": dict(Counter(record.finish.think for record in known)),
            "answer": dict(Counter(record.finish.answer for record in known)),
        },
        "repetition": spread([repetition(trace.content) for trace in traces]),
        "flags": {name: sum(name in trace.marks for trace in traces) for name in FLAGS},
        "words": {by: frequent(texts) for by, texts in texts_by_author(traces, thinking).items()},
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """How many, their mean and quantiles; all None of nothing."""
    array: Num[np.ndarray, " N"] = np.array(values)
    quantiles = {str(q): float(np.quantile(array, q)) if len(array) else None for q in _QUANTILES}
    return {"count": len(values), "mean": float(array.mean()) if len(array) else None} | quantiles


def authors(records: Iterable[Record]) -> dict[str, Any]:
    """Tokens of the thinking by author and of the answer, and the authors' shares of the thinking (Fig. 17)."""
    counts = Counter[str]()
    for record in records:
        for span in record.spans:
            counts[span.by if span.phase == "think" else "answer"] += span.n_tokens
    thinking = counts["student"] + counts["teacher"]
    shares = {by: counts[by] / thinking for by in ("student", "teacher")} if thinking else {}
    return {"tokens": dict(counts), "shares": shares}


def repetition(text: str) -> float:
    """Share of a text's four-word pieces that it has said before: 0 says nothing twice."""
    words = text.split()
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def frequent(texts: Iterable[str], count: int = 20) -> list[dict[str, Any]]:
    """The most frequent words, in lower case, with how many of 1,000 words they are (Fig. 16)."""
    counts = Counter(word for text in texts for word in words_of(text))
    total = max(1, counts.total())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:count]
    return [{"word": word, "count": n, "per_1k": 1000 * n / total} for word, n in ordered]


def words_of(text: str) -> Iterator[str]:
    """The words of a text in lower case, without numbers and signs."""
    return (match.group().lower() for match in _WORD.finditer(text))


def texts_by_author(traces: Iterable[Trace], thinking: Thinking) -> dict[str, list[str]]:
    """What each author thought; of responses by unknown authors, the thinking, or the whole where there is none."""
    found: dict[str, list[str]] = {}
    for trace in traces:
        record = trace.example.record
        if record is None:
            thought, answer = split(trace, thinking)
            found.setdefault("unknown", []).append(answer if thought is None else thought)
            continue
        for span in record.spans:
            if span.phase == "think":
                found.setdefault(span.by, []).append(record.content[span.start : span.end])
    return found


def _authors(records: Sequence[Record]) -> list[str]:
    return sorted({span.by for record in records for span in record.spans if span.phase == "think"})


def _thinks(span: Any, by: str) -> bool:
    return span.phase == "think" and span.by == by


def _thinking_tokens(records: Iterable[Record]) -> int:
    return sum(span.n_tokens for record in records for span in record.spans if span.phase == "think")


def _rate(number: int, tokens: int) -> float | None:
    return 1000 * number / tokens if tokens else None


def _ratio(records: Sequence[Record]) -> float | None:
    kept = sum(r.n_tokens.student + r.n_tokens.teacher + r.n_tokens.answer for r in records)
    return sum(r.n_tokens.rolled_back for r in records) / kept if kept else None
