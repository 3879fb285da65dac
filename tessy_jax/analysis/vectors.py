"""Responses as vectors of the student's tokens: TF-IDF, its principal components, similarities (paper, Fig. 8 and 14).

Everything is scikit-learn's, on the same counts for all data sets.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tessy_jax.analysis.traces import DataSet
from tessy_jax.errors import UserError

_DRAWN = 500
"""Points of a data set in the figure."""


class MissingPackage(UserError):
    """A package that only the analysis needs is not installed."""


class Vectors(NamedTuple):
    """The responses of all data sets.

    Attributes:
        tfidf: a sparse matrix of [responses, tokens that occur], rows of length 1.
        points: their first two principal components.
        explained: shares of the variance that these explain.
        owner: the data set of each response.
    """

    tfidf: Any
    points: Float[np.ndarray, "N 2"]
    explained: Float[np.ndarray, " 2"]
    owner: Int[np.ndarray, " N"]


def require_sklearn() -> None:
    """Raises MissingPackage, with what to install."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise MissingPackage("analyse needs scikit-learn: pip install 'tessy-jax[analysis]'") from None


def vectors(sets: Sequence[DataSet]) -> Vectors:
    """TF-IDF over the learned tokens of all responses together, and their PCA."""
    from sklearn.decomposition import PCA
    from sklearn.feature_extraction.text import TfidfTransformer

    tokens = [trace.example.tokens[trace.learned] for one in sets for trace in one.traces]
    owner = np.repeat(np.arange(len(sets)), [len(one.traces) for one in sets])
    tfidf = TfidfTransformer().fit_transform(count_tokens(tokens))
    points, explained = np.zeros((len(tokens), 2)), np.zeros(2)
    size = min(2, *(length - 1 for length in tfidf.shape))  # fewer responses or tokens have fewer directions
    apart = (tfidf.max(axis=0) - tfidf.min(axis=0)).max()  # 0: all responses are the same, and ARPACK has no direction
    if size > 0 and apart > 0:
        pca = PCA(size, svd_solver="arpack", random_state=0)
        points[:, :size] = pca.fit_transform(tfidf)
        explained[:size] = np.nan_to_num(pca.explained_variance_ratio_)
    return Vectors(tfidf, points, explained, owner)


def count_tokens(tokens: Sequence[Int[np.ndarray, " T"]]) -> Any:
    """A sparse matrix of how often each response has each token that occurs anywhere."""
    from scipy.sparse import csr_matrix

    kinds, places = np.unique(np.concatenate(tokens), return_inverse=True)
    rows = np.repeat(np.arange(len(tokens)), [len(one) for one in tokens])
    return csr_matrix((np.ones(len(places)), (rows, places)), (len(tokens), len(kinds)))


def similarities(found: Vectors, sets: Sequence[DataSet]) -> list[list[dict[str, float | None]]]:
    """How alike each two data sets are, as cosines of TF-IDF.

    Returns:
        [of one][to the other]: "mean": over all pairs of responses. "centres": of the mean vectors, which says which
        words are used and not which are used together. "same_problem": the mean over responses to the same problem,
        None where they have none in common.
    """
    from sklearn.metrics.pairwise import cosine_similarity

    centres = np.vstack([np.asarray(found.tfidf[found.owner == n].mean(axis=0)) for n in range(len(sets))])
    norms = np.linalg.norm(centres, axis=1)
    means, cosines = centres @ centres.T, cosine_similarity(centres)
    problems = [_by_problem(found, one, n) for n, one in enumerate(sets)]
    return [
        [
            {
                "mean": float(means[a, b]),
                "centres": float(cosines[a, b]) if norms[a] and norms[b] else None,
                "same_problem": None if a == b else _same_problem(found, problems[a], problems[b]),
            }
            for b in range(len(sets))
        ]
        for a in range(len(sets))
    ]


def _by_problem(found: Vectors, one: DataSet, number: int) -> dict[str, list[int]]:
    first = int(np.searchsorted(found.owner, number))
    rows: dict[str, list[int]] = {}
    for at, trace in enumerate(one.traces, first):
        rows.setdefault(trace.example.problem, []).append(at)
    return rows


def _same_problem(found: Vectors, a: dict[str, list[int]], b: dict[str, list[int]]) -> float | None:
    pairs = [(x, y) for problem in a.keys() & b.keys() for x in a[problem] for y in b[problem]]
    if not pairs:
        return None
    left, right = map(list, zip(*sorted(pairs), strict=True))
    return float(np.mean(found.tfidf[left].multiply(found.tfidf[right]).sum(axis=1)))


def drawn(found: Vectors, number: int) -> Float[np.ndarray, "M 2"]:
    """The points of a data set that a figure shows: at most 500, evenly over its rows."""
    points = found.points[found.owner == number]
    return points[:: max(1, -(-len(points) // _DRAWN))]
