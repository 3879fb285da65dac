"""All numbers of the report, as `report.json` has them: means over seeds, differences, lengths, authors, cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from tessy_jax.evals.seeds import Passes, difference_over_seeds, mean_over_seeds, score_over_seeds
from tessy_jax.experiments.results import Arm, Results, Training
from tessy_jax.experiments.traces import AUTHORS, TraceCounts


def numbers(results: Results) -> dict[str, Any]:
    """Of a report."""
    config = results.config
    return {
        "title": f"Experiment {config.output.name}",
        "seeds": list(config.seeds),
        "control": config.control,
        "arms": {arm.name: arm.source for arm in results.arms},
        "notes": results.notes,
        "stages": {"all": results.stages, "unfinished": [asdict(one) for one in results.unfinished]},
        "benchmarks": [_benchmark(results, label) for label in results.labels],
        "training_loss": _of_arms(results, lambda arm: arm.trainings, _losses),
        "accuracy_by_epoch": _of_arms(results, lambda arm: arm.trainings, _accuracy),
        "lengths": _lengths(results),
        "authors": _of_arms(results, lambda arm: arm.traces, _authors),
        "cost": _of_arms(results, lambda arm: arm.traces, _cost),
        "training": _of_arms(results, lambda arm: arm.trainings, _training),
        "held_out": _of_arms(results, _held_out_runs, _held_out),
        "seconds": {arm.name: {name: round(s, 1) for name, s in arm.seconds.items()} for arm in results.arms},
    }


def _of_arms(
    results: Results, of: Callable[[Arm], dict[int, Any]], numbers_of: Callable[[list[Any]], dict[str, Any]]
) -> dict[str, Any]:
    """By arm, what its seeds give together; arms without any are left out."""
    found = {arm.name: list(of(arm).values()) for arm in results.arms}
    return {name: {"seeds": len(seeds), **numbers_of(seeds)} for name, seeds in found.items() if seeds}


# -- scores ------------------------------------------------------------------------------------------------------------


def _benchmark(results: Results, label: str) -> dict[str, Any]:
    rows = [_score(results, label, arm) for arm in results.arms if arm.evaluations]
    return {"label": label, "problems": max((row["score"]["problems"] for row in rows), default=0), "rows": rows}


def _score(results: Results, label: str, arm: Arm) -> dict[str, Any]:
    """An arm on a benchmark: its score, and how far it is from the base model and from the control."""
    groups, control = results.groups.get(label), results.config.control
    others = {"less_base": results.base} | ({} if control is None else {"less_control": results.arm(control)})
    after = _passes(results, arm, label)
    return {
        "arm": arm.name,
        "score": asdict(score_over_seeds([one[label].passes for one in arm.evaluations.values()], groups)),
        "by_seed": {str(seed): one[label].score for seed, one in arm.evaluations.items()},
        **{
            name: None if other is arm else _difference(_passes(results, other, label), after, groups)
            for name, other in others.items()
        },
    }


def _passes(results: Results, arm: Arm, label: str) -> dict[int, Passes]:
    """By seed; a greedy base model answers with all seeds alike, and was asked once."""
    found: dict[int, Passes] = {seed: one[label].passes for seed, one in arm.evaluations.items()}
    if arm is results.base and results.base_is_greedy and found:
        [once] = found.values()
        return dict.fromkeys(results.config.seeds, once)
    return found


def _difference(
    before: Mapping[int, Passes], after: Mapping[int, Passes], groups: Mapping[str, str] | None
) -> dict[str, Any] | None:
    """On the seeds of both; None where there are none yet."""
    return asdict(difference_over_seeds(before, after, groups)) if set(before) & set(after) else None


# -- training ----------------------------------------------------------------------------------------------------------


def _losses(seeds: Sequence[Training]) -> dict[str, Any]:
    """The mean loss of each step that every seed has; seeds pack their examples differently, so runs end apart."""
    steps = sorted(set.intersection(*(set(one.losses) for one in seeds)))
    return {"steps": steps, "mean": [mean(one.losses[step] for one in seeds) for step in steps]}


def _accuracy(seeds: Sequence[Training]) -> dict[str, Any]:
    """By benchmark, the mean accuracy in percent after each number of evaluations, and the epochs then."""
    labels = dict.fromkeys(label for one in seeds for label in one.accuracy)
    found: dict[str, list[dict[str, float]]] = {}
    for label in labels:
        curves = [one.accuracy[label] for one in seeds if label in one.accuracy]
        found[label] = [
            {"epochs": mean(p.epochs for p in points), "accuracy": mean(p.accuracy for p in points)}
            for points in zip(*curves, strict=False)
        ]
    return {"benchmarks": found}


def _training(seeds: Sequence[Training]) -> dict[str, Any]:
    return {
        "steps": sum(len(one.losses) for one in seeds),
        "tokens": sum(one.trained_tokens for one in seeds),
        "rejected": sum(one.rejected for one in seeds),
        "first_loss": mean(one.losses[min(one.losses)] for one in seeds),
        "last_loss": mean(one.losses[max(one.losses)] for one in seeds),
    }


def _held_out_runs(arm: Arm) -> dict[int, Training]:
    return {seed: one for seed, one in arm.trainings.items() if one.held_out}


def _held_out(seeds: Sequence[Training]) -> dict[str, Any]:
    """The loss on what was held out, before the first step and after the last, and how far it moved."""
    before = [one.held_out[min(one.held_out)] for one in seeds]
    after = [one.held_out[max(one.held_out)] for one in seeds]
    change = mean_over_seeds([b - a for a, b in zip(before, after, strict=True)])
    return {"before": mean(before), "after": mean(after), "change": asdict(change)}


# -- texts -------------------------------------------------------------------------------------------------------------


def _lengths(results: Results) -> dict[str, Any]:
    """By arm: mean tokens of a trace that it is trained on, and by benchmark, of a response; base is "before"."""
    found = {}
    for arm in results.arms:
        traces = results.arm(results.config.source(arm.name)).traces if arm is not results.base else {}
        responses = {}
        for label in results.labels if arm.evaluations else ():
            seeds = [one[label] for one in arm.evaluations.values()]
            tokens = [one.mean_tokens for one in seeds if one.mean_tokens is not None]
            responses[label] = {
                "tokens": mean(tokens) if tokens else None,
                "truncated": mean(one.truncated for one in seeds),
            }
        kept = [sum(one.kept.values()) / one.records for one in traces.values() if one.records]
        if responses or kept:
            found[arm.name] = {"trace_tokens": mean(kept) if kept else None, "responses": responses}
    return found


def _authors(seeds: Sequence[TraceCounts]) -> dict[str, Any]:
    """Shares of the thinking by author, and switches."""
    records = max(1, sum(one.records for one in seeds))
    return {
        "thinking_tokens": _shares([one.thinking for one in seeds]),
        "thinking_characters": _shares([one.thinking_characters for one in seeds]),
        "answer_tokens": _shares([one.answers for one in seeds]),
        "switches_per_record": sum(one.switches for one in seeds) / records,
    }


def _cost(seeds: Sequence[TraceCounts]) -> dict[str, Any]:
    """Tokens by model, of all seeds together and by record. What is generated is kept, rolled back or left out: no
    record has a candidate that was not chosen, or a reference.
    """
    records = sum(one.records for one in seeds)
    by_model = {}
    for author in AUTHORS:
        generated, kept, rolled_back = (
            sum(getattr(one, name)[author] for one in seeds) for name in ("generated", "kept", "rolled_back")
        )
        by_model[author] = {
            "generated": generated,
            "kept": kept,
            "rolled_back": rolled_back,
            "left_out": generated - kept - rolled_back,
            "generated_per_record": generated / max(1, records),
        }
    return {
        "records": records,
        "rejected": sum(one.rejected for one in seeds),
        "models": by_model,
        "rolled_back_by_either": sum(one.unattributed for one in seeds),
    }


def _shares(counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    totals = {author: sum(one.get(author, 0) for one in counts) for author in AUTHORS}
    return {author: total / max(1, sum(totals.values())) for author, total in totals.items()}
