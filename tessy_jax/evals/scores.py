"""Scores from judgements, and how sure they are.

- pass@1 is the share of passed responses in each run, averaged over the runs (sample_index is the run).
- Its standard error comes from the problems, each with its mean over the runs: responses to one problem are not
  independent. With scores x of N problems it is sqrt(sum (x - mean)^2 / (N - 1) / N) (Miller 2024, arXiv 2411.00640,
  which calls it clustered).
- pass@k is 1 - C(n-c, k) / C(n, k), averaged over problems (Chen et al. 2021, arXiv 2107.03374, eq. 1).
- maj@k is the chance that the most frequent answer of k responses is right; equally frequent ones share it.
- Two models are compared on the same problems, by the differences of each: the interval is a bootstrap over problems.

Judgements that failed are no answers: scoring is refused while there are any, or they are left out and counted.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tessy_jax.data.hashing import hash_text
from tessy_jax.errors import UserError
from tessy_jax.evals.estimators import majority_at_k, pass_at_k
from tessy_jax.evals.judges.math import tidy
from tessy_jax.evals.records import Judgement, Problem, Verdict

IE = Verdict.JUDGE_ERROR
RESAMPLES, SEED = 10_000, 0
"""Of the bootstrap."""
OF_PROBLEMS = frozenset({"cpu_seconds", "wall_seconds", "memory_mib", "output_mib", "checker", "checker_args"})
"""What a judge says of itself that depends on the problem."""
_TEXTS = frozenset({"math", "choice"})
"""Judges of formulas and letters, of which equal ones can be counted."""


class ScoreError(UserError):
    """Judgements that make no score: some are missing, failed, or of different judges."""


@dataclass(frozen=True)
class Score:
    """A mean in percent, its standard error over problems, and of how many."""

    value: float
    error: float
    problems: int


@dataclass(frozen=True)
class Scores:
    """All about one model on one benchmark.

    Attributes:
        score: the headline: the mean pass@1, or the plain mean of groups' where the benchmark has it so.
        runs: pass@1 of each run, in percent.
        std: standard deviation of the runs; 0 for one run.
        pass_at: by k, in percent.
        majority_at: by k, in percent; of answers that are not programs.
        groups: pass@1 by tag and its value: groups["difficulty"]["easy"].
        verdicts: how many of each.
        judge_errors: responses that were left out because their judge failed.
        judge: what judged, and the benchmark's identity: as `check_comparable` wants it.
    """

    score: Score
    runs: tuple[float, ...]
    std: float
    pass_at: dict[int, float]
    groups: dict[str, dict[str, Score]]
    verdicts: dict[str, int]
    majority_at: dict[int, float] = field(default_factory=dict)
    judge_errors: int = 0
    judge: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Of two models on the same problems: the second's score less the first's, in points.

    Attributes:
        low, high: of the 95 % interval, by a bootstrap over problems.
        better, worse: problems of which the second passes more, or fewer, responses.
    """

    value: float
    low: float
    high: float
    problems: int
    better: int
    worse: int


def score(
    problems: Sequence[Problem],
    judgements: Iterable[Judgement],
    *,
    runs: int,
    groups: Sequence[str] = (),
    ks: Sequence[int] = (),
    mean_over: str | None = None,
    allow_judge_errors: bool = False,
    identity: Mapping[str, Any] | None = None,
) -> Scores:
    """The scores of a model.

    Args:
        problems: all of the benchmark, judged or not.
        runs: responses that each problem should have.
        groups: tags by which scores are divided.
        ks: for pass@k and maj@k; those above the number of runs are refused.
        mean_over: a tag: the headline is the plain mean of its values' scores.
        allow_judge_errors: leaves out responses whose judge failed, instead of an error.
        identity: the benchmark's, to be kept with the scores.

    Raises:
        ScoreError: responses are missing or double, the judge failed, or judges differ.
    """
    by_problem = _complete(problems, _what_counts(judgements), runs)
    failed = [one for found in by_problem.values() for one in found if one.verdict is IE]
    if failed and not allow_judge_errors:
        some = "; ".join(f"{one.problem_id}, run {one.sample_index}: {one.detail}" for one in failed[:3])
        raise ScoreError(
            f"the judge failed on {len(failed)} responses ({some}): judge them again, or allow judge errors, which "
            "leaves them out"
        )
    if ks and max(ks) > runs:
        raise ScoreError(f"pass@{max(ks)} needs {max(ks)} responses a problem: there are {runs}")

    judged = {name: [one for one in found if one.verdict is not IE] for name, found in by_problem.items()}
    judged = {name: found for name, found in judged.items() if found}
    if not judged:
        raise ScoreError("the judge failed on every response")
    means = {name: float(np.mean([one.passed for one in found])) for name, found in judged.items()}
    by_run: dict[int, list[bool]] = defaultdict(list)
    for found in judged.values():
        for one in found:
            by_run[one.sample_index].append(one.passed)
    per_run = tuple(100 * float(np.mean(by_run[run])) for run in sorted(by_run))
    divided = {
        tag: _by_tag(problems, means, tag) for tag in dict.fromkeys([*groups, *([mean_over] if mean_over else [])])
    }

    headline = mean_score(list(means.values()))
    if mean_over is not None:
        parts = list(divided[mean_over].values())
        error = math.sqrt(sum(part.error**2 for part in parts)) / len(parts)
        headline = Score(sum(part.value for part in parts) / len(parts), error, len(means))
    counts = [(len(found), sum(one.passed for one in found)) for found in judged.values()]
    verdicts = Counter(str(one.verdict) for found in by_problem.values() for one in found)
    return Scores(
        score=headline,
        runs=per_run,
        std=float(np.std(per_run, ddof=1)) if len(per_run) > 1 else 0.0,
        pass_at={k: 100 * float(np.mean([pass_at_k(n, c, k) for n, c in counts if n >= k])) for k in ks},
        groups=divided,
        verdicts=dict(verdicts.most_common()),
        majority_at={k: 100 * _majority(judged, k) for k in ks} if _are_texts(judged) else {},
        judge_errors=len(failed),
        judge={"judges": judges(one for found in judged.values() for one in found), **(identity or {}), "runs": runs},
    )


def _what_counts(judgements: Iterable[Judgement]) -> Iterator[Judgement]:
    """Judgements as they come, without what no score depends on: programs and details are kilobytes each."""
    known: dict[str, dict[str, Any]] = {}
    for one in judgements:
        judge = known.setdefault(json.dumps(one.judge, sort_keys=True, default=str), one.judge)
        answer = one.extracted if judge.get("name") in _TEXTS else None
        detail = one.detail[:80] if one.verdict is IE else ""
        yield replace(one, judge=judge, extracted=answer and tidy(answer), detail=detail)


def _complete(problems: Sequence[Problem], judgements: Iterable[Judgement], runs: int) -> dict[str, list[Judgement]]:
    """The judgements of each problem; ScoreError where they are not exactly one a run."""
    found: dict[str, dict[int, Judgement]] = {problem.id: {} for problem in problems}
    for one in judgements:
        if one.problem_id not in found:
            raise ScoreError(f"a judgement is of problem {one.problem_id!r}, which the benchmark does not have")
        if one.sample_index in found[one.problem_id]:
            raise ScoreError(f"problem {one.problem_id!r} has two judgements for run {one.sample_index}")
        found[one.problem_id][one.sample_index] = one
    if not found:
        raise ScoreError("there are no problems")
    wanted = set(range(runs))
    missing = {name: sorted(wanted - set(of)) for name, of in found.items() if wanted - set(of)}
    if missing:
        some = "; ".join(
            f"{name}: run {', '.join(map(str, numbers[:5]))}" for name, numbers in list(missing.items())[:3]
        )
        total = sum(len(numbers) for numbers in missing.values())
        raise ScoreError(f"{total} of {runs * len(found)} judgements are missing ({some}): judge all responses first")
    if more := [name for name, of in found.items() if set(of) - wanted]:
        raise ScoreError(f"problem {more[0]!r} has more than {runs} runs")
    return {name: [of[run] for run in sorted(of)] for name, of in found.items()}


def judges(judgements: Iterable[Judgement]) -> list[dict[str, Any]]:
    """What judged, each once. Limits and checkers belong to a problem: they may differ between problems only.

    Raises:
        ScoreError: judgements of one language, or of one problem, come from different judges, tools or limits.
    """
    found: dict[str, dict[str, Any]] = {}
    limits: dict[str, dict[str, Any]] = {}
    for one in judgements:
        if not one.judge:  # nobody judges where there is no answer, and what the benchmark skips
            continue
        judge = {key: value for key, value in one.judge.items() if key not in OF_PROBLEMS}
        own = {key: value for key, value in one.judge.items() if key in OF_PROBLEMS}
        kind = f"{judge.get('name')} {judge.get('language', '')}"
        for known, place, new in ((found, kind, judge), (limits, one.problem_id, own)):
            if known.setdefault(place, new) != new:
                raise ScoreError(
                    f"judgements of different judges are never averaged ({one.problem_id}, run {one.sample_index}): "
                    f"{_differing(known[place], new)}"
                )
    if not any(limits.values()):
        return [found[kind] for kind in sorted(found)]
    kinds = {json.dumps(own, sort_keys=True, default=str): own for own in limits.values()}
    several = {"limits_of_problems": hash_text(json.dumps(limits, sort_keys=True, default=str))[:16]}
    return [*(found[kind] for kind in sorted(found)), *kinds.values()] if len(kinds) < 4 else [*found.values(), several]


def _are_texts(judged: Mapping[str, Sequence[Judgement]]) -> bool:
    """Whether answers are formulas or letters, of which equal ones can be counted."""
    names = {one.judge.get("name") for found in judged.values() for one in found if one.judge}
    return bool(names) and names <= _TEXTS


def _majority(judged: Mapping[str, Sequence[Judgement]], k: int) -> float:
    """maj@k, over the problems that have k responses."""
    chances = []
    for found in judged.values():
        answers = [one.extracted for one in found]
        right = {answer for answer, one in zip(answers, found, strict=True) if one.passed and answer is not None}
        if len(answers) >= k:
            chances.append(majority_at_k(answers, right.__contains__, k))
    return float(np.mean(chances))


def check_comparable(scores: Mapping[str, Scores]) -> None:
    """Raises ScoreError, with what differs, where scores of a column are of different judges, options or problems."""
    (first, one), *others = scores.items()
    for name, other in others:
        if one.judge != other.judge:
            raise ScoreError(f"{first} and {name} cannot be compared: {_differing(one.judge, other.judge)}")
        if one.score.problems != other.score.problems:
            raise ScoreError(
                f"{first} and {name} cannot be compared: {one.score.problems} and {other.score.problems} problems"
            )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    return "; ".join(f"{key} is {_shown(one.get(key))} and {_shown(other.get(key))}" for key in keys)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:200]


def _by_tag(problems: Sequence[Problem], means: Mapping[str, float], tag: str) -> dict[str, Score]:
    values: dict[str, list[float]] = defaultdict(list)
    for problem in problems:
        if problem.id in means:
            values[problem.tags.get(tag, "(none)")].append(means[problem.id])
    return {value: mean_score(found) for value, found in values.items()}


# -- estimators --------------------------------------------------------------------------------------------------------


def mean_score(means: Sequence[float]) -> Score:
    """Of problems' means from 0 to 1: in percent, with the standard error over problems (0 for a single one)."""
    count = len(means)
    error = float(np.std(means, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return Score(100 * float(np.mean(means)), 100 * error, count)


def compare_models(first: Mapping[str, Sequence[bool]], second: Mapping[str, Sequence[bool]]) -> Difference:
    """The difference of two models' pass@1 on the same problems.

    Args:
        first, second: by problem, whether each response passed. Numbers of responses may differ.

    Raises:
        ScoreError: the problems are not the same.
    """
    if set(first) != set(second):
        odd = sorted(set(first) ^ set(second))
        raise ScoreError(f"two models are compared on the same problems: {odd[0]!r} is of one only ({len(odd)} in all)")
    if not first:
        raise ScoreError("there are no problems to compare two models on")
    names = sorted(first)
    differences = np.array([float(np.mean(second[name])) - float(np.mean(first[name])) for name in names])
    random = np.random.default_rng(SEED)
    # A hundred samples at a time: all of them, of thousands of problems, would take much memory.
    samples = (random.integers(len(names), size=(100, len(names))) for _ in range(RESAMPLES // 100))
    means = np.concatenate([differences[sample].mean(axis=1) for sample in samples])
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(
        value=100 * float(differences.mean()),
        low=100 * float(low),
        high=100 * float(high),
        problems=len(names),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
    )


def passes(judgements: Iterable[Judgement]) -> dict[str, list[bool]]:
    """By problem, whether each response passed; those whose judge failed are left out."""
    found: dict[str, list[bool]] = defaultdict(list)
    for one in judgements:
        if one.verdict is not IE:
            found[one.problem_id].append(one.passed)
    return dict(found)
