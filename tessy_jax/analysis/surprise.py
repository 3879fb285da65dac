"""Where the student's surprise is: by author, by phase, by position, and the tokens and phrases that cost most."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from tessy_jax.analysis.traces import Trace
from tessy_jax.train.data.batches import Weights
from tessy_jax.train.data.examples import ANSWER, ASSISTANT, CAPABILITY, CONTEXT, PARTS, STYLE

AUTHORS = {"student": STYLE, "teacher": CAPABILITY}
_THINK, _ANSWER = "thinking", "answer"
_POSITIONS = 10
_PHRASE = 3
"""Words of a phrase."""

_WORD = re.compile(r"\s*\S+")


class Cost(NamedTuple):
    """What a token or phrase costs.

    Attributes:
        text: as it stands in the traces.
        times: how often.
        total: nats, over all its places.
    """

    text: str
    times: int
    total: float

    def to_row(self) -> dict[str, Any]:
        return {"text": self.text, "count": self.times, "nats": self.total, "mean": self.total / self.times}


def summary(traces: Sequence[Trace]) -> dict[str, Any]:
    """Means of -log p in nats per token, with the tokens that they are over, and the first loss of `sft`."""
    nll = np.concatenate([trace.nll for trace in traces]).astype(np.float64)
    parts = np.concatenate([trace.example.parts for trace in traces])
    learned = parts != CONTEXT
    worth = Weights().table()[parts]
    groups = {name: np.isin(parts, codes) for name, codes in _groups(parts).items()}
    per_trace = np.array([trace.novelty for trace in traces])
    return {
        "all": _mean(nll, learned),
        "step_0_loss": float((worth * nll).sum() / worth.sum()) if worth.any() else None,
        "perplexity": float(np.exp(nll[learned].mean())),
        "by_part": {PARTS[code]: _mean(nll, parts == code) for code in np.unique(parts[learned])},
        "by_phase": {name: _mean(nll, mask) for name, mask in groups.items() if mask.any()},
        "by_position": _by_position(traces),
        "after_switch": _after_switch(traces),
        "quantiles": {str(q): float(np.quantile(nll[learned], q)) for q in (0.5, 0.9, 0.99)},
        "traces": {str(q): float(np.quantile(per_trace, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        "standard_error": float(per_trace.std(ddof=1) / len(per_trace) ** 0.5) if len(per_trace) > 1 else None,
    }


def _groups(parts: Int[np.ndarray, " T"]) -> dict[str, list[int]]:
    return {_THINK: [STYLE, CAPABILITY], _ANSWER: [ANSWER], "unknown": [ASSISTANT]}


def _mean(nll: Float64[np.ndarray, " T"], mask: Bool[np.ndarray, " T"]) -> dict[str, Any]:
    count = int(mask.sum())
    return {"nats": float(nll[mask].mean()) if count else None, "tokens": count}


def _by_position(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Means over tenths of each response, the first to the last."""
    sums, counts = np.zeros(_POSITIONS), np.zeros(_POSITIONS, int)
    for trace in traces:
        values = trace.nll[trace.learned]
        tenth = np.arange(len(values)) * _POSITIONS // max(1, len(values))
        sums += np.bincount(tenth, values, _POSITIONS)
        counts += np.bincount(tenth, minlength=_POSITIONS)
    return [
        {"from": n / _POSITIONS, "nats": float(total / count) if count else None, "tokens": int(count)}
        for n, (total, count) in enumerate(zip(sums, counts, strict=True))
    ]


def _after_switch(traces: Sequence[Trace], reach: int = 8) -> dict[str, list[float | None]]:
    """Means over the first tokens behind a change of author, by who takes over."""
    found: dict[str, list[float | None]] = {}
    for name, code in AUTHORS.items():
        sums, counts = np.zeros(reach), np.zeros(reach, int)
        for trace in traces:
            parts = trace.example.parts
            other = np.isin(parts[:-1], [STYLE, CAPABILITY]) & (parts[:-1] != code)
            for start in 1 + np.flatnonzero((parts[1:] == code) & other):
                run = parts[start : start + reach] == code
                size = len(run) if run.all() else int(run.argmin())
                sums[:size] += trace.nll[start : start + size]
                counts[:size] += 1
        if counts[0]:
            found[name] = [float(s / c) if c else None for s, c in zip(sums, counts, strict=True)]
    return found


# -- what costs most ---------------------------------------------------------------------------------------------------


def dearest_tokens(traces: Sequence[Trace], text_of: Callable[[int], str], count: int = 25) -> list[Cost]:
    """The tokens whose places cost most together; `text_of` gives a token's text."""
    ids = np.concatenate([trace.example.tokens[trace.learned] for trace in traces])
    nll = np.concatenate([trace.nll[trace.learned] for trace in traces]).astype(np.float64)
    kinds, places, counts = np.unique(ids, return_inverse=True, return_counts=True)
    totals = np.bincount(places, nll, len(kinds))
    order = np.argsort(-totals, kind="stable")[:count]
    return [Cost(text_of(int(kinds[i])), int(counts[i]), float(totals[i])) for i in order]


def dearest_phrases(traces: Sequence[Trace], count: int = 25, times: int = 2) -> list[Cost]:
    """The phrases of three words, said at least so many times, whose words cost most together."""
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for trace in traces:
        words = list(word_costs(trace))
        for start in range(len(words) - _PHRASE + 1):
            chosen = words[start : start + _PHRASE]
            entry = totals[" ".join(word.strip() for word, _ in chosen)]
            entry[0] += 1
            entry[1] += sum(cost for _, cost in chosen)
    found = [Cost(text, int(n), total) for text, (n, total) in totals.items() if n >= times]
    return sorted(found, key=lambda cost: (-cost.total, cost.text))[:count]


def word_costs(trace: Trace) -> Iterator[tuple[str, float]]:
    """The words of a response with what their tokens cost; a token belongs to the word in which it ends."""
    learned = trace.learned
    ends, words = [], []
    data = 0
    for match in _WORD.finditer(trace.content):
        words.append(match.group())
        data += len(match.group().encode())
        ends.append(data)
    places = np.searchsorted(ends, trace.example.ends[learned], side="left")
    inside = places < len(words)  # behind the last word: white space
    costs = np.bincount(places[inside], trace.nll[learned][inside], len(words))
    seen = int(places[inside].max()) + 1 if inside.any() else 0
    yield from zip(words[:seen], costs[:seen].tolist(), strict=True)
