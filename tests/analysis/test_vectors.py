"""TF-IDF, principal components and similarities are those that scikit-learn has of the same counts."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from tessy_jax.analysis.vectors import similarities, vectors
from tests.kit.traces import data_set, trace

STUDENT = data_set(
    "student",
    trace("a", [("student", "okay so let me see the sum is nine")], "nine"),
    trace("b", [("student", "okay wait let me see")], "four"),
    trace("c", [("student", "hmm okay so the rest is one")], "one"),
)
TEACHER = data_set(
    "teacher",
    trace("a", [("teacher", "we compute the sum hence nine")], "nine"),
    trace("x", [("teacher", "we compute thus the product")], "six"),
)


def test_everything_is_scikit_learns():
    sets = [STUDENT, TEACHER]
    found = vectors(sets)
    texts = [one.example.tokens[one.learned].tolist() for part in sets for one in part.traces]
    expected = TfidfVectorizer(analyzer=lambda tokens: tokens).fit_transform(texts)
    assert expected.shape == found.tfidf.shape
    np.testing.assert_allclose(found.tfidf.toarray(), expected.toarray(), rtol=1e-12)

    pca = PCA(2, svd_solver="full").fit(expected.toarray())
    np.testing.assert_allclose(np.abs(found.points), np.abs(pca.transform(expected.toarray())), atol=1e-9)
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, rtol=1e-9)

    [[own, other], [back, _]] = similarities(found, sets)
    pairs = cosine_similarity(expected)
    np.testing.assert_allclose(own["mean"], pairs[:3, :3].mean())
    np.testing.assert_allclose(other["mean"], pairs[:3, 3:].mean())
    centres = [np.asarray(expected[part].mean(axis=0)) for part in (slice(0, 3), slice(3, 5))]
    np.testing.assert_allclose(other["centres"], cosine_similarity(*centres)[0, 0])
    np.testing.assert_allclose(other["same_problem"], pairs[0, 3])  # a, and only a, is in both
    assert own["same_problem"] is None
    assert back == other


def test_of_one_response_there_are_no_directions():
    found = vectors([data_set("one", trace("a", [("student", "okay")], "nine"))])
    assert found.points.tolist() == [[0, 0]]
    assert found.explained.tolist() == [0, 0]


def test_responses_that_are_alike_are_one_point():
    """All of them, or all but for two kinds: PCA has no direction then, or one."""
    same = [trace(f"p{i}", [("student", "okay the sum is nine")], "nine") for i in range(3)]
    found = vectors([data_set("same", *same)])
    assert not found.points.any()
    assert not found.explained.any()
    other = [trace(f"q{i}", [("teacher", "hence four")], "four") for i in range(3)]
    found = vectors([data_set("same", *same), data_set("other", *other)])
    np.testing.assert_allclose(found.explained, [1, 0], atol=1e-9)
    assert len(np.unique(found.points.round(9), axis=0)) == 2
