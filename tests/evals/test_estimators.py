"""pass@k and maj@k against enumeration of all draws."""

from collections import Counter
from itertools import combinations, product

import pytest

from tessy_jax.evals.estimators import majority_at_k, pass_at_k


def test_pass_at_k_is_the_share_of_draws_with_a_right_one():
    for n in range(1, 9):
        for c in range(n + 1):
            passed = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                draws = list(combinations(passed, k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_majority_is_the_share_of_draws_whose_most_frequent_answer_is_right():
    for n in range(1, 6):
        for answers in product(("1", "2", "3", None), repeat=n):
            for k in range(1, n + 1):
                draws = list(combinations(answers, k))
                expected = sum(_right(draw) for draw in draws) / len(draws)
                assert majority_at_k(answers, "1".__eq__, k) == pytest.approx(expected), (answers, k)


def _right(draw):
    counts = Counter(answer for answer in draw if answer is not None)
    most = [answer for answer, count in counts.items() if count == max(counts.values())]
    return ("1" in most) / len(most) if most else 0.0


@pytest.mark.parametrize(("n", "c", "k"), [(1, 0, 2), (3, 4, 1), (3, 1, 0)])
def test_what_cannot_be_is_refused(n, c, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, c, k)
