"""The report of an evaluation: `report.json` with all numbers, and `report.md` with the tables that people read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tessy_jax.data.jsonl import replace_file
from tessy_jax.evals.answers import find_answer
from tessy_jax.evals.published import COLUMNS, SOURCE, TABLE_1
from tessy_jax.evals.records import Response
from tessy_jax.evals.scores import Difference, Score, Scores, check_comparable
from tessy_jax.text.thinking import Thinking

_BINS = 30
"""Of the histogram of lengths."""
_UNFINISHED = {"fail": "not passed", "keep": "judged by their thinking", "forced": "judged by the answer asked for"}
"""What responses whose thinking was cut off count for, by `judge.on_truncated`."""


@dataclass(frozen=True)
class Lengths:
    """Of responses, in tokens; None where these were not counted.

    Attributes:
        responses: how many there are.
        truncated: how many did not end by themselves.
        percentiles: at 0, 10 ... 100 %.
        unfinished: of `truncated`, those whose thinking did not end by itself.
        histogram: responses in intervals of equal width, from 0 to the longest.
    """

    responses: int
    truncated: int
    mean: float | None = None
    percentiles: tuple[float, ...] = ()
    unfinished: int = 0
    histogram: tuple[int, ...] = ()


def lengths(responses: Iterable[Response], thinking: Thinking | None = None) -> Lengths:
    """Of these responses; `thinking`: its marks in text of a server or file."""
    counts: list[int] = []
    total = truncated = unfinished = 0
    for response in responses:
        open_ = find_answer(response, thinking, "fail") is None
        total += 1
        truncated += open_ or response.finish != "stop"
        unfinished += open_
        counts += [] if response.n_tokens is None else [response.n_tokens]
    if not counts:
        return Lengths(total, truncated, unfinished=unfinished)
    steps = np.percentile(counts, range(0, 101, 10))
    bins, _ = np.histogram(counts, bins=_BINS, range=(0, max(1, *counts, 1)))
    return Lengths(
        total,
        truncated,
        float(np.mean(counts)),
        tuple(float(step) for step in steps),
        unfinished,
        tuple(int(count) for count in bins),
    )


@dataclass(frozen=True)
class Result:
    """One model on one benchmark.

    Attributes:
        model: as it is called in tables.
        label: of the benchmark's column.
        settings: how the responses were made: {"temperature": 0.6, "max_tokens": 40960}.
        difference: to a model that it is compared with, and that model's name.
    """

    model: str
    label: str
    scores: Scores
    lengths: Lengths
    settings: Mapping[str, Any] = field(default_factory=dict)
    difference: tuple[str, Difference] | None = None


@dataclass(frozen=True)
class Report:
    """All results. Those of one benchmark stand in one column, so they must be comparable.

    Attributes:
        notes: what a reader must know: "Python programs ran on CPython, not on PyPy".
    """

    title: str
    results: Sequence[Result]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raises ScoreError where results of one benchmark cannot be compared."""
        for label in self.labels:
            check_comparable({one.model: one.scores for one in self.results if one.label == label})

    @property
    def labels(self) -> list[str]:
        """In the order of the paper's table; others behind."""
        found = dict.fromkeys(one.label for one in self.results)
        return [*(name for name in COLUMNS if name in found), *(name for name in found if name not in COLUMNS)]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(one.model for one in self.results))

    def of(self, model: str, label: str) -> Result | None:
        return next((one for one in self.results if (one.model, one.label) == (model, label)), None)


def write_report(folder: Path, report: Report) -> None:
    """Writes report.json and report.md."""
    numbers = json.dumps(to_json(report), indent=2, ensure_ascii=False) + "\n"
    for name, text in (("report.md", to_markdown(report)), ("report.json", numbers)):
        replace_file(folder / name, text.encode("utf-8", "backslashreplace"))  # \ud800: no text, but JSON can say it


def to_json(report: Report) -> dict[str, Any]:
    """All numbers, and the published ones apart from them."""
    return {
        "title": report.title,
        "notes": list(report.notes),
        "results": [asdict(one) for one in report.results],
        "published": {"source": SOURCE, "columns": COLUMNS, "rows": TABLE_1},
    }


def to_markdown(report: Report) -> str:
    """The tables, in Markdown."""
    parts = [f"# {_cell(report.title)}", *(f"> {_cell(note)}" for note in report.notes), _main_table(report)]
    for label in report.labels:
        results = [one for one in report.results if one.label == label]
        parts += [f"## {_cell(label)}", _conditions(results[0]), _details(results), *_groups(results)]
    return "\n\n".join(parts) + "\n"


def shown(score: Score) -> str:
    """A score and its standard error: "62.87 ± 3.74"."""
    return f"{score.value:.2f} ± {score.error:.2f}"


def share(part: int, whole: int) -> str:
    """In percent."""
    return f"{100 * part / max(1, whole):.1f} %"


def unfinished_in_words(result: Result) -> str:
    """How often thinking was cut off, and what that counted for."""
    found = result.lengths
    policy = str(result.scores.judge.get("on_truncated", "fail"))
    return (
        f"{result.model}: the thinking of {found.unfinished:,} of {found.responses:,} responses "
        f"({share(found.unfinished, found.responses)}) was cut off; these are {_UNFINISHED[policy]} "
        f"(on_truncated: {policy})."
    )


def published_rows(labels: Sequence[str]) -> dict[str, list[str]]:
    """Rows of the published table for these columns; none where it has none of them."""
    if not set(labels) & set(COLUMNS):
        return {}
    return {
        name: [f"{values[COLUMNS.index(label)]:.2f}" if label in COLUMNS else "" for label in labels]
        for name, values in TABLE_1.items()
    }


def conditions(result: Result) -> dict[str, str]:
    """What the scores of a column depend on, by name."""
    judge = {key: value for key, value in result.scores.judge.items() if key not in ("judges", "runs", "problems")}
    about = {"problems": str(result.scores.score.problems), "runs": str(len(result.scores.runs))}
    about |= {key: str(value) for key, value in (judge | dict(result.settings)).items()}
    judges = [
        ", ".join(f"{key} {value}" for key, value in one.items()) for one in result.scores.judge.get("judges", [])
    ]
    return about | ({"judge": "; ".join(judges)} if judges else {})


def _main_table(report: Report) -> str:
    labels = report.labels
    head = ["pass@1, %", *(f"{label} (N={_problems(report, label)})" for label in labels)]
    rows = [
        [model, *(shown(one.scores.score) if (one := report.of(model, label)) else "" for label in labels)]
        for model in report.models
    ]
    published = published_rows(labels)
    rows += [[f"*{name} (published)*", *values] for name, values in published.items()]
    below = f"\n\nPublished: {SOURCE}, other conditions; not results of this program." if published else ""
    return _table(head, rows) + "\n\n± is the standard error over problems." + below


def _problems(report: Report, label: str) -> int:
    return next(one.scores.score.problems for one in report.results if one.label == label)


def _conditions(result: Result) -> str:
    return "\n".join(f"- {_cell(key)}: {_cell(value)}" for key, value in conditions(result).items())


def _details(results: Sequence[Result]) -> str:
    ks = list(dict.fromkeys(k for one in results for k in one.scores.pass_at))
    verdicts = list(dict.fromkeys(name for one in results for name in one.scores.verdicts))
    majorities = list(dict.fromkeys(k for one in results for k in one.scores.majority_at))
    at_k = [*(f"pass@{k}" for k in ks), *(f"maj@{k}" for k in majorities)]
    head = ["model", "pass@1", "std of runs", *at_k, "mean tokens", "cut off", "in thinking", *verdicts]
    rows = [
        [
            one.model,
            shown(one.scores.score),
            f"{one.scores.std:.2f}" if len(one.scores.runs) > 1 else "",
            *(f"{one.scores.pass_at[k]:.2f}" if k in one.scores.pass_at else "" for k in ks),
            *(f"{one.scores.majority_at[k]:.2f}" if k in one.scores.majority_at else "" for k in majorities),
            "" if one.lengths.mean is None else f"{one.lengths.mean:,.0f}",
            share(one.lengths.truncated, one.lengths.responses),
            share(one.lengths.unfinished, one.lengths.responses),
            *(str(one.scores.verdicts.get(name, 0)) for name in verdicts),
        ]
        for one in results
    ]
    text = _table(head, rows)
    for one in results:
        if one.lengths.unfinished:
            text += f"\n\n{_cell(unfinished_in_words(one))}"
        if one.scores.judge_errors:
            text += (
                f"\n\n{_cell(one.model)}: the judge failed on {one.scores.judge_errors} responses, which are left out."
            )
        if one.difference:
            text += f"\n\n{_cell(difference_in_words(one))}"
    return text


def difference_in_words(result: Result) -> str:
    """What a comparison says."""
    assert result.difference
    name, one = result.difference
    return (
        f"{result.model} less {name}: {one.value:+.2f} points, 95 % interval {one.low:+.2f} to {one.high:+.2f}, on the "
        f"same {one.problems} problems (better on {one.better}, worse on {one.worse})."
    )


def _groups(results: Sequence[Result]) -> Iterable[str]:
    for tag in dict.fromkeys(tag for one in results for tag in one.scores.groups):
        values = list(dict.fromkeys(value for one in results for value in one.scores.groups.get(tag, {})))
        rows = [
            [
                one.model,
                *(
                    shown(found[value]) if value in (found := one.scores.groups.get(tag, {})) else ""
                    for value in values
                ),
            ]
            for one in results
        ]
        sizes = results[0].scores.groups.get(tag, {})
        head = [tag, *(f"{value} (N={sizes[value].problems})" if value in sizes else value for value in values)]
        yield _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that Markdown takes for text: names come from files of others."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
