"""Intervals over seeds and problems: against the formula in plain Python, and what they are in cases that are known."""

import itertools
import random
from statistics import mean, variance

import pytest
from scipy.stats import t as student_t

from tessy_jax.evals.scores import ScoreError, mean_score
from tessy_jax.evals.seeds import difference_over_seeds, score_over_seeds


def table(seeds: int, problems: int, number: int = 0) -> list[dict[str, float]]:
    rng = random.Random(number)
    return [{f"p{p}": rng.choice((0.0, 0.25, 0.5, 1.0)) for p in range(problems)} for _ in range(seeds)]


def plain(x: list[dict[str, float]], groups: dict[str, str]) -> tuple[float, float, float]:
    """Mean and interval in percent, term by term."""
    names = sorted(groups)
    parts = [[name for name in names if groups[name] == value] for value in sorted(set(groups.values()))]
    count, weight = len(x), 1 / len(parts) ** 2
    means = [mean(mean(one[name] for name in part) for part in parts) for one in x]
    v_s = variance(means) / count
    below = v_s**2 / (count - 1)
    v_p = v_r = 0.0
    for part in parts:
        own = weight * variance([mean(one[name] for one in x) for name in part]) / len(part)
        below += own**2 / (len(part) - 1)
        v_p += own
        of_seed = [mean(one[name] for name in part) for one in x]
        of_problem = {name: mean(one[name] for one in x) for name in part}
        squares = sum(
            (one[name] - of_problem[name] - of_seed[s] + mean(of_seed)) ** 2
            for (s, one), name in itertools.product(enumerate(x), part)
        )
        v_r += weight * squares / ((count - 1) * (len(part) - 1)) / (count * len(part))
    v = max(v_s + v_p - v_r, v_s, v_p)
    half = float(student_t.ppf(0.975, v**2 / below)) * v**0.5
    return 100 * mean(means), 100 * (mean(means) - half), 100 * (mean(means) + half)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("seeds", "problems"), [(2, 5), (5, 7), (3, 30)])
def test_a_score_is_that_of_plain_python(seeds, problems, grouped):
    x = table(seeds, problems, seeds)
    groups = {f"p{p}": "hard" if grouped and p % 3 == 0 else "easy" for p in range(problems)}
    found = score_over_seeds(x, groups if grouped else None)
    assert (found.value, found.low, found.high) == pytest.approx(plain(x, groups))
    assert (found.seeds, found.problems) == (seeds, problems)


def test_a_difference_is_paired_by_seed_and_problem():
    before, after = table(3, 6, 1), table(3, 6, 2)
    found = difference_over_seeds(dict(enumerate(before)), dict(enumerate(after)))
    x = [{name: b[name] - a[name] for name in a} for a, b in zip(before, after, strict=True)]
    assert (found.value, found.low, found.high) == pytest.approx(plain(x, dict.fromkeys(x[0], "")))

    # What seed and problem do to both models alike is in no difference.
    shifted = [{name: value + 0.1 * s for name, value in one.items()} for s, one in enumerate(before)]
    found = difference_over_seeds(
        dict(enumerate(before)), {s: {n: v + 0.5 for n, v in before[s].items()} for s in range(3)}
    )
    assert (found.value, found.low, found.high) == pytest.approx((50.0, 50.0, 50.0))
    assert difference_over_seeds(dict(enumerate(before)), dict(enumerate(shifted))).high > 10


def test_only_what_both_have_counts():
    before, after = dict(enumerate(table(3, 6, 1))), dict(enumerate(table(3, 6, 2)))
    whole = difference_over_seeds(before, after)
    found = difference_over_seeds({**before, 7: before[0]}, {**after, 8: after[0]})
    assert found == whole
    del before[1]["p2"]
    assert difference_over_seeds(before, after).problems == 5
    with pytest.raises(ScoreError, match="no seed"):
        difference_over_seeds({1: before[0]}, {2: after[0]})
    with pytest.raises(ScoreError, match="no problem"):
        score_over_seeds([{"a": 1.0}, {"b": 1.0}])


def test_one_seed_is_the_interval_over_problems():
    [x] = table(1, 9)
    known = mean_score(list(x.values()))
    found = score_over_seeds([x])
    half = float(student_t.ppf(0.975, 8)) * known.error
    assert (found.value, found.low, found.high) == pytest.approx((known.value, known.value - half, known.value + half))
    assert score_over_seeds([{"p": 1.0}]).low is None
    assert score_over_seeds([{"p": 1.0}, {"p": 0.0}]).low == pytest.approx(50 - 100 * 12.7062 * 0.5, abs=0.01)


def test_intervals_hold_what_they_promise():
    """Seeds and problems drawn anew: about 95 of 100 intervals hold the mean of all. Over problems alone far fewer."""
    rng = random.Random(3)
    held = alone = 0
    for _ in range(400):
        of_seed = [rng.gauss(0, 0.15) for _ in range(5)]
        of_problem = [rng.gauss(0.5, 0.2) for _ in range(20)]
        x = [{f"p{p}": s + b + rng.gauss(0, 0.2) for p, b in enumerate(of_problem)} for s in of_seed]
        found = score_over_seeds(x)
        held += found.low <= 50 <= found.high
        one = score_over_seeds([{name: mean(seed[name] for seed in x) for name in x[0]}])
        alone += one.low <= 50 <= one.high
    assert 0.92 < held / 400 <= 0.99
    assert alone / 400 < 0.85
