"""Scores of a model that was made anew with several seeds: how sure they are, over the seeds and over the problems.

Each seed is a model of its own that answers the same problems. So seeds and problems are crossed random effects, as are
the people and the words of an experiment in psychology (Judd, Westfall, Kenny 2012, "Treating stimuli as a random
factor", doi 10.1037/a0028347): with x the mean pass of S seeds on P problems,

    v_s = variance of the seeds' means / S        v_p = variance of the problems' means / P
    v_r = mean square of the rest / (S P), which both contain
    v   = v_s + v_p - v_r, and never less than the greater of v_s and v_p

    95 % interval: mean ± t sqrt(v), with (v^2) / (v_s^2 / (S - 1) + v_p^2 / (P - 1)) degrees of freedom (Satterthwaite)

A difference of two models is one of the same problem and the same seed: x is then the difference. With one seed it is
v_p alone, which says nothing of what another seed would give. Where a benchmark's score is the mean of its groups'
(`Task.mean_over`), v_p and v_r are those of each group, added up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student_t

from tessy_jax.evals.scores import ScoreError

Passes = Mapping[str, float]
"""By problem, the share of responses that passed."""


@dataclass(frozen=True)
class Interval:
    """A score, or a difference of two, in percent or points.

    Attributes:
        low, high: of the 95 % interval; None where a single problem says nothing of how sure it is.
        seeds, problems: of how many.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int
    problems: int


def score_over_seeds(passes: Sequence[Passes], groups: Mapping[str, str] | None = None) -> Interval:
    """The mean score over seeds.

    Args:
        passes: of each seed.
        groups: by problem, where the score is the mean of groups' scores; None: there is one.

    Raises:
        ScoreError: there are no seeds, or none has a problem that all have.
    """
    names = _common(passes)
    return _interval(np.array([[one[name] for name in names] for one in passes]), _numbers(names, groups))


def difference_over_seeds(
    first: Mapping[int, Passes], second: Mapping[int, Passes], groups: Mapping[str, str] | None = None
) -> Interval:
    """The second model's score less the first's, paired by seed and problem.

    Args:
        first, second: by seed; seeds that only one of them has are left out.

    Raises:
        ScoreError: they have no seed, or no problem, in common.
    """
    pairs = [(first[seed], second[seed]) for seed in second if seed in first]
    names = _common([one for pair in pairs for one in pair])
    return _interval(
        np.array([[after[name] - before[name] for name in names] for before, after in pairs]), _numbers(names, groups)
    )


def mean_over_seeds(values: Sequence[float]) -> Interval:
    """The mean of a number that each seed has one of, in its own unit, with its 95 % interval (Student's t)."""
    value, seeds = float(np.mean(values)), len(values)
    if seeds == 1:
        return Interval(value, None, None, 1, 1)
    half = float(student_t.ppf(0.975, seeds - 1) * np.std(values, ddof=1)) / math.sqrt(seeds)
    return Interval(value, value - half, value + half, seeds, 1)


def _common(passes: Sequence[Passes]) -> list[str]:
    """The problems that all have: where the judge failed on all responses to a problem, that is left out."""
    if not passes:
        raise ScoreError("there is no seed that both models have")
    names = sorted(set.intersection(*(set(one) for one in passes)))
    if not names:
        raise ScoreError("there is no problem that was judged with every seed")
    return names


def _numbers(names: Sequence[str], groups: Mapping[str, str] | None) -> Int[np.ndarray, " P"]:
    """The number of each problem's group."""
    values = [groups.get(name, "") if groups else "" for name in names]
    order = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.array([order[value] for value in values])


def _interval(x: Float[np.ndarray, "S P"], group: Int[np.ndarray, " P"]) -> Interval:
    seeds, problems = x.shape
    parts = [x[:, group == number] for number in range(group.max() + 1)]
    means = np.mean([part.mean(axis=1) for part in parts], axis=0)  # of each seed
    of_seeds = float(np.var(means, ddof=1)) / seeds if seeds > 1 else 0.0
    freedom = of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0
    of_problems = rest = 0.0
    for part in parts:
        count = part.shape[1]
        if count > 1:
            own = float(np.var(part.mean(axis=0), ddof=1)) / count / len(parts) ** 2
            of_problems += own
            freedom += own**2 / (count - 1)
        if count > 1 and seeds > 1:
            left = part - part.mean(axis=0) - part.mean(axis=1, keepdims=True) + part.mean()
            rest += float((left**2).sum()) / ((seeds - 1) * (count - 1)) / (seeds * count) / len(parts) ** 2
    variance = max(of_seeds + of_problems - rest, of_seeds, of_problems)
    value = 100 * float(means.mean())
    if seeds * problems == 1:
        return Interval(value, None, None, seeds, problems)
    half = 0.0
    if variance > 0:
        half = 100 * float(student_t.ppf(0.975, variance**2 / freedom)) * math.sqrt(variance)
    return Interval(value, value - half, value + half, seeds, problems)
