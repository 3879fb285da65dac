"""What stands in the data twice, and what of it stands in a benchmark: overlaps of word n-grams."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tessy_jax.analysis.traces import DataSet, Trace
from tessy_jax.data.inputs import Reject, read
from tessy_jax.data.records import Message

SHINGLE = 5
"""Words of the pieces by which near-duplicates are found."""

ALIKE = 0.8
"""Jaccard similarity of the pieces from which on two responses are near-duplicates."""

GRAM = 13
"""Words of the pieces that data and a benchmark must not share (as in GPT-3's report, Brown et al. 2020)."""

_BLOCK = 256


class Pair(NamedTuple):
    """Two responses that are nearly the same: their numbers in the data set, and how alike they are."""

    first: int
    second: int
    similarity: float


def near_duplicates(texts: Sequence[str]) -> list[Pair]:
    """Pairs of texts whose five-word pieces overlap by 80 % (Jaccard), the first of equals with each later one."""
    from scipy.sparse import csr_matrix

    names: dict[tuple[str, ...], int] = {}
    sets = [{names.setdefault(gram, len(names)) for gram in grams(text, SHINGLE)} for text in texts]
    sizes = np.array([len(one) for one in sets])
    if not names:
        return []
    columns = np.fromiter((i for one in sets for i in one), np.int64, int(sizes.sum()))
    rows = np.repeat(np.arange(len(sets)), sizes)
    matrix = csr_matrix((np.ones(len(columns)), (rows, columns)), (len(sets), len(names)))
    found: list[Pair] = []
    for start in range(0, len(sets), _BLOCK):  # not all pairs are in memory at once
        shared = (matrix[start : start + _BLOCK] @ matrix.T).tocoo()
        first, second = shared.row + start, shared.col
        union = sizes[first] + sizes[second] - shared.data
        alike = np.divide(shared.data, union, out=np.zeros(len(union)), where=union > 0)
        for at in np.flatnonzero((alike >= ALIKE) & (first < second)):
            found.append(Pair(int(first[at]), int(second[at]), float(alike[at])))
    return sorted(found)


def duplicates_summary(data: DataSet) -> dict[str, Any]:
    """How many responses have a near-duplicate, and some of them by id."""
    traces = data.traces
    pairs = near_duplicates([trace.content for trace in traces])
    ids = [(traces[a].example.id, traces[b].example.id, alike) for a, b, alike in pairs]
    return {"traces": len({n for pair in pairs for n in pair[:2]}), "pairs": len(pairs), "examples": ids[:20]}


def contamination(data: DataSet, benchmark: Path) -> dict[str, Any]:
    """Problems of a benchmark that share 13 words in a row with the data, or are whole in it where they are shorter.

    Raises:
        InputError: the file cannot be read.
    """
    places: dict[tuple[str, ...], set[str]] = defaultdict(set)
    problems = unreadable = 0
    for problem in read(benchmark):
        if isinstance(problem, Reject):
            unreadable += 1
            continue
        problems += 1
        for gram in grams(_said(problem.messages), GRAM, whole=True):
            places[gram].add(problem.id)
    sizes = sorted({len(gram) for gram in places}, reverse=True)
    hits: list[tuple[str, str, str]] = []
    for trace in data.traces:
        text = _text(trace)
        for size in sizes:
            hits += [(name, trace.example.id, " ".join(g)) for g in grams(text, size) for name in places.get(g, ())]
    first = {(name, row): piece for name, row, piece in reversed(hits)}
    return {
        "problems": problems,
        "unreadable": unreadable,
        "problems_found": len({name for name, _ in first}),
        "traces_hit": len({row for _, row in first}),
        "examples": [
            {"problem": name, "trace": row, "words": piece} for (name, row), piece in sorted(first.items())[:20]
        ],
    }


def grams(text: str, size: int, whole: bool = False) -> Iterator[tuple[str, ...]]:
    """Pieces of so many words in a row; of a shorter text nothing, or all of it where it has at least five words."""
    words = list(_tokens(text))
    if whole and SHINGLE <= len(words) < size:
        yield tuple(words)
    for start in range(len(words) - size + 1):
        yield tuple(words[start : start + size])


def _tokens(text: str) -> Iterator[str]:
    """Words and numbers, in lower case."""
    for piece in text.lower().split():
        if word := "".join(c for c in piece if c.isalnum()):
            yield word


def _text(trace: Trace) -> str:
    return f"{_said(trace.example.before)}\n{trace.content}"


def _said(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages)
