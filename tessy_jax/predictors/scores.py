"""How good a predictor is, in numbers: NumPy on P(style) of labelled tokens. Style is the positive class.

All intervals are percentile bootstraps over responses (Efron & Tibshirani, 1993): tokens of one response are alike, so
it is responses that are drawn.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real

Rates = dict[str, Any]
"""{"style": {"precision", "recall", "f1"}, "capability": {…}, "accuracy"}; numbers, or arrays of them."""

THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.05), 2)
FAR = 10
"""Boundaries farther away than this (tokens or words) are counted together."""
_DRAWS = 1000
_BINS = 10
_PHRASES = 25


Numbers = np.ndarray | np.float64
"""An array of numbers, or one number as NumPy takes it out of an array."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Labelled tokens, in the order of their texts.

    Attributes:
        style: the labels.
        segment, response: which each belongs to.
        word: number of its word in the segment; -1: white space.
        starts, ends: its characters in the segment's text.
        texts: of the segments.
    """

    style: Bool[np.ndarray, " N"]
    segment: Int[np.ndarray, " N"]
    response: Int[np.ndarray, " N"]
    word: Int[np.ndarray, " N"]
    starts: Int[np.ndarray, " N"]
    ends: Int[np.ndarray, " N"]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.style)

    @cached_property
    def word_starts(self) -> Int[np.ndarray, " W"]:
        """Index of each word's first token among `visible`."""
        segment, word = self.segment[self.visible], self.word[self.visible]
        return np.flatnonzero(np.concatenate([[True], (np.diff(segment) != 0) | (np.diff(word) != 0)]))

    @cached_property
    def visible(self) -> Int[np.ndarray, " M"]:
        """Index of the tokens that are not white space."""
        return np.flatnonzero(self.word >= 0)

    def lowest(self, values: np.ndarray) -> np.ndarray:
        """The lowest value of each word's tokens: a word is style if all its tokens are."""
        return np.minimum.reduceat(values[self.visible], self.word_starts)

    def select(self, mask: Bool[np.ndarray, " N"]) -> "Tokens":
        """Some of the tokens."""
        columns = {name: getattr(self, name)[mask] for name in ("segment", "response", "word", "starts", "ends")}
        return Tokens(style=self.style[mask], **columns, texts=self.texts)


def evaluate(
    tokens: Tokens,
    p: Float[np.ndarray, " N"],
    threshold: float,
    baseline: Float[np.ndarray, " N"] | None = None,
) -> dict[str, Any]:
    """All numbers of a report, ready for JSON.

    Args:
        p: P(style) of each token.
        threshold: a token is style if P is at least this.
        baseline: P(style) of a simpler predictor; it gets the threshold that suits it best here.
    """
    said = p >= threshold
    counts = by_response(tokens, said)
    draws = draw(len(counts))
    style_words = tokens.lowest(tokens.style.astype(int)) == 1
    word_segment = tokens.segment[tokens.visible][tokens.word_starts]
    out: dict[str, Any] = {
        "tokens": len(tokens),
        "style_tokens": int(tokens.style.sum()),
        "segments": len(np.unique(tokens.segment)),
        "responses": len(counts),
        "threshold": threshold,
        "scores": with_intervals(counts, draws),
        "sweep": [sweep(tokens, p, float(t)) for t in THRESHOLDS],
        "boundaries": {
            "tokens": boundaries(tokens.style, said, tokens.segment),
            "words": boundaries(style_words, tokens.lowest(p) >= threshold, word_segment),
        },
        "calibration": calibration(tokens.style, p),
        "false_phrases": phrases(tokens, said & ~tokens.style),
        "missed_phrases": phrases(tokens, ~said & tokens.style),
    }
    if baseline is not None:
        best = best_threshold(tokens.style, baseline)
        other = by_response(tokens, baseline >= best)
        ours, theirs = (rates(draws @ c)["style"]["f1"] for c in (counts, other))
        out["baseline"] = {
            "threshold": best,
            "scores": with_intervals(other, draws),
            "f1_gain": _interval(
                rates(counts.sum(axis=0))["style"]["f1"] - rates(other.sum(axis=0))["style"]["f1"], ours - theirs
            ),
        }
    return out


# -- counts and rates --------------------------------------------------------------------------------------------------


def by_response(tokens: Tokens, said: Bool[np.ndarray, " N"]) -> Int[np.ndarray, "R 4"]:
    """(style found, capability taken for style, style taken for capability, capability found) of each response."""
    _, index = np.unique(tokens.response, return_inverse=True)
    counts = np.zeros((index.max(initial=-1) + 1, 4), np.int64)
    np.add.at(counts, (index, np.where(tokens.style, np.where(said, 0, 2), np.where(said, 1, 3))), 1)
    return counts


def rates(counts: Real[np.ndarray, "... 4"]) -> Rates:
    """Precision, recall and F1 of both classes, and accuracy; 0 where there is nothing to divide by."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)

    def one(right: Numbers, wrong: Numbers, missed: Numbers) -> dict[str, Numbers]:
        return {
            "precision": _ratio(right, right + wrong),
            "recall": _ratio(right, right + missed),
            "f1": _ratio(2 * right, 2 * right + wrong + missed),
        }

    return {
        "style": one(tp, fp, fn),
        "capability": one(tn, fn, fp),
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
    }


def draw(responses: int, seed: int = 0) -> Int[np.ndarray, "S R"]:
    """How often each response is in each sample of the bootstrap."""
    return np.random.default_rng(seed).multinomial(responses, np.full(responses, 1 / responses), size=_DRAWS)


def with_intervals(counts: Int[np.ndarray, "R 4"], draws: Int[np.ndarray, "S R"]) -> dict[str, Any]:
    """The rates as {"value", "low", "high"}: 95 % intervals."""

    def both(value: Any, drawn: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: both(inner, drawn[name]) for name, inner in value.items()}
        return _interval(value, drawn)

    return both(rates(counts.sum(axis=0)), rates(draws @ counts))


def best_threshold(style: Bool[np.ndarray, " N"], p: Float[np.ndarray, " N"]) -> float:
    """The one of THRESHOLDS with the highest F1 of style; the lowest of them where several are."""
    return float(THRESHOLDS[int(np.argmax([f1(style, p >= t) for t in THRESHOLDS]))])


def f1(style: Bool[np.ndarray, " N"], said: Bool[np.ndarray, " N"]) -> float:
    """F1 of style."""
    return float(rates(_counts(style, said))["style"]["f1"])


def _counts(style: Bool[np.ndarray, " N"], said: Bool[np.ndarray, " N"]) -> Int[np.ndarray, " 4"]:
    return np.array([(style & said).sum(), (~style & said).sum(), (style & ~said).sum(), (~style & ~said).sum()])


def _interval(value: Any, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _ratio(a: Any, b: Any) -> Any:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


# -- what it does to text ----------------------------------------------------------------------------------------------


def sweep(tokens: Tokens, p: Float[np.ndarray, " N"], threshold: float) -> dict[str, float]:
    """Rates at a threshold, and what the words would be: switches of kind per 1,000 tokens, and how many words of a
    kind stand together (a segment's end ends them too). A word is style if all its tokens are.
    """
    found = rates(_counts(tokens.style, p >= threshold))
    said = tokens.lowest(p) >= threshold
    segment = tokens.segment[tokens.visible][tokens.word_starts]
    same = np.diff(segment) == 0
    switch = (np.diff(said) != 0) & same
    begins = np.concatenate([[True], switch | ~same])
    runs = said[begins]

    def mean_words(kind: bool) -> float:
        return float((said == kind).sum() / max(1, (runs == kind).sum()))

    return {
        "threshold": threshold,
        **{f"style_{name}": float(value) for name, value in found["style"].items()},
        "capability_f1": float(found["capability"]["f1"]),
        "switches_per_1k_tokens": 1000 * float(switch.sum()) / len(tokens),
        "style_span_words": mean_words(True),
        "capability_span_words": mean_words(False),
    }


def boundaries(
    style: Bool[np.ndarray, " N"], said: Bool[np.ndarray, " N"], segment: Int[np.ndarray, " N"]
) -> dict[str, Any]:
    """How far the predicted boundaries are from the true ones.

    A boundary stands where the kind changes within a segment; it is compared with the nearest predicted one of the
    same direction in that segment. `offsets` counts by distance, positive where the prediction comes late, from -FAR
    to FAR (ends include what is farther); `missed` has no predicted one, `invented` counts predicted boundaries that
    are nobody's nearest.
    """
    same = np.diff(segment) == 0
    offsets: list[np.ndarray] = []
    missed = invented = 0
    for up in (True, False):
        true, found = (np.flatnonzero(same & (values[1:] == up) & (values[:-1] != up)) + 1 for values in (style, said))
        if not len(found):
            missed += len(true)
            continue
        right = np.searchsorted(found, true)
        near = np.stack([found[np.maximum(right - 1, 0)], found[np.minimum(right, len(found) - 1)]])
        distance = np.where(segment[near] == segment[true], np.abs(near - true), np.iinfo(np.int64).max)
        which = np.argmin(distance, axis=0)
        chosen = near[which, np.arange(len(true))]
        there = segment[chosen] == segment[true]
        missed += int((~there).sum())
        invented += len(np.setdiff1d(found, chosen[there]))
        offsets.append((chosen - true)[there])
    every = np.concatenate([np.zeros(0, np.int64), *offsets])
    clipped = np.clip(every, -FAR, FAR)
    counts = {str(d): int((clipped == d).sum()) for d in range(-FAR, FAR + 1)}
    total = len(every) + missed
    return {
        "true": total,
        "exact": float((every == 0).sum() / max(1, total)),
        "mean_distance": float(np.abs(every).mean()) if len(every) else None,
        "missed": missed,
        "invented": invented,
        "offsets": counts,
    }


def calibration(style: Bool[np.ndarray, " N"], p: Float[np.ndarray, " N"]) -> dict[str, Any]:
    """Tokens by P(style) in bins of equal width, and the expected calibration error (Naeini et al., AAAI 2015)."""
    bins = np.clip((p * _BINS).astype(int), 0, _BINS - 1)
    count = np.bincount(bins, minlength=_BINS)
    said, true = (_ratio(np.bincount(bins, values, _BINS), count.astype(float)) for values in (p, style))
    rows = [
        {
            "from": b / _BINS,
            "to": (b + 1) / _BINS,
            "tokens": int(count[b]),
            "p": float(said[b]),
            "style": float(true[b]),
        }
        for b in range(_BINS)
    ]
    return {"ece": float((count / max(1, len(p)) * np.abs(said - true)).sum()), "bins": rows}


def phrases(tokens: Tokens, wrong: Bool[np.ndarray, " N"]) -> list[dict[str, Any]]:
    """The words that the most frequent stretches of wrong tokens touch, in lower case, with how often they occur."""
    before = np.concatenate([[False], wrong[:-1] & (np.diff(tokens.segment) == 0)])
    after = np.concatenate([before[1:] & wrong[1:], [False]])
    first, last = np.flatnonzero(wrong & ~before), np.flatnonzero(wrong & ~after)
    found = (
        _whole_words(tokens.texts[tokens.segment[a]], int(tokens.starts[a]), int(tokens.ends[b]))
        for a, b in zip(first, last, strict=True)
    )
    common = Counter(phrase for phrase in found if phrase).most_common()
    common.sort(key=lambda item: (-item[1], item[0]))
    return [{"phrase": phrase, "count": count} for phrase, count in common[:_PHRASES]]


def _whole_words(text: str, start: int, end: int) -> str:
    while start < end and text[start].isspace():
        start += 1
    while 0 < start < end and not text[start - 1].isspace():
        start -= 1
    while start < end < len(text) and not (text[end - 1].isspace() or text[end].isspace()):
        end += 1
    return " ".join(text[start:end].lower().split())
