"""Two annotations of the same segments, compared."""

import math

import numpy as np
import pytest

from tessy_jax.annotation import agreement
from tessy_jax.data.segments import Annotated, Segment, StyleSpan
from tessy_jax.data.sources import InputError


def rows(*spans_of_segments: list[tuple[int, int]], text: str = "Okay, so the sum is 12. Hmm, so what?"):
    return {
        ("r", 0, i): Annotated(Segment("r", 0, i, None, text), [StyleSpan(a, b) for a, b in spans])
        for i, spans in enumerate(spans_of_segments)
    }


def test_agreement_counts_spans_words_and_characters():
    found = agreement.compare(rows([(0, 8), (24, 28)], [], [(0, 5)]), rows([(0, 5), (24, 28)], []))
    assert (found.segments, found.only_a, found.only_b) == (2, 1, 0)
    assert (found.spans_a, found.spans_b, found.exact) == (2, 2, 1)
    assert (found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5)
    assert found.missed == {"okay, so": 1}
    assert found.added == {"okay,": 1}
    # "Okay," "so" "Hmm," against "Okay," "Hmm,": 9 words in each of two segments.
    words = found.words
    assert (words.both, words.only_a, words.only_b, words.neither) == (2, 1, 0, 15)
    assert words.kappa == pytest.approx((17 / 18 - (3 * 2 + 15 * 16) / 18**2) / (1 - (3 * 2 + 15 * 16) / 18**2))
    same = agreement.compare(rows([(0, 8)]), rows([(0, 8)]))
    assert (same.f1, same.characters.kappa) == (1.0, 1.0)


def test_agreement_of_nothing_is_no_number():
    found = agreement.compare(rows([]), rows([]))
    assert all(map(math.isnan, (found.precision, found.recall, found.f1, found.words.kappa)))


def test_kappa_of_independent_labels_is_zero():
    confusion = agreement.Confusion()
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    confusion.count(a, b)
    assert confusion.kappa == 0.0


def test_runs_over_other_segments_cannot_be_compared():
    with pytest.raises(InputError, match=r"segment 0 of 'r' .sample 0. has different texts in the two runs"):
        agreement.compare(rows([]), rows([], text="Another."))
