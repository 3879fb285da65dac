"""The report of a predictor: `report.json` with all numbers, `report.html` to look at. Both stand alone."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tessy_jax.console.figures import label as name_axes
from tessy_jax.console.figures import svg
from tessy_jax.console.html_page import PAGE_END, page_start
from tessy_jax.data.jsonl import replace_file
from tessy_jax.predictors.scores import FAR

_STYLE, _CAPABILITY, _OTHER = "#0f8b8d", "#e07a1f", "#8a8f98"


def write_report(folder: Path, title: str, about: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """Writes both files.

    Args:
        folder: where to write.
        title: of the page.
        about: what the predictor is and how it was made, by name. Short values are shown, all are in `report.json`.
        numbers: from `predictors.scores.evaluate`.
    """
    content = {"title": title, "about": dict(about), **numbers}
    replace_file(folder / "report.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    replace_file(folder / "report.html", page(title, about, numbers))


def page(title: str, about: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
    """The HTML of a report."""
    sections = [
        _summary(numbers),
        _about(about),
        _sweep(numbers),
        _boundaries(numbers),
        _calibration(numbers),
        _phrases(numbers),
    ]
    body = "\n".join(f"<section>{section}</section>" for section in sections)
    return (
        f"{page_start(title)}"
        f"<p>Judged on {numbers['tokens']:,} tokens of {numbers['segments']:,} segments from {numbers['responses']:,} "
        f"responses to prompts that nothing was learned from; {_percent(_share(numbers))} of the tokens are style."
        f"</p>\n{body}\n{PAGE_END}"
    )


def _share(numbers: Mapping[str, Any]) -> float:
    return numbers["style_tokens"] / max(1, numbers["tokens"])


# -- sections ----------------------------------------------------------------------------------------------------------


def _summary(numbers: Mapping[str, Any]) -> str:
    baseline = numbers.get("baseline")
    who = [("predictor", numbers["scores"], numbers["threshold"])]
    if baseline:
        who.append(("word list", baseline["scores"], baseline["threshold"]))
    rows = []
    for name, scores, threshold in who:
        for kind in ("style", "capability"):
            cells = [_with_interval(scores[kind][key]) for key in ("precision", "recall", "f1")]
            rows.append([f"{name}: {kind} <small>P ≥ {threshold:.2f}</small>", *cells])
        rows.append([f"{name}: accuracy", "", "", _with_interval(scores["accuracy"])])
    gain = ""
    if baseline:
        verdict = "better than" if baseline["f1_gain"]["low"] > 0 else "not clearly better than"
        gain = (
            f"<p>F1 of style is {_with_interval(baseline['f1_gain'], sign=True)} above the word list's: the predictor "
            f"is {verdict} it. The word list has the threshold that suits it best on these very tokens.</p>"
        )
    return (
        "<h2>How well it tells style from capability</h2>"
        + _table(["", "precision", "recall", "F1"], rows)
        + "<p><small>95 % intervals: bootstrap over responses.</small></p>"
        + gain
    )


def _about(about: Mapping[str, Any]) -> str:
    rows = [
        [html.escape(name), f"<code>{html.escape(value if isinstance(value, str) else json.dumps(value))}</code>"]
        for name, value in about.items()
        if not isinstance(value, list | dict) or len(json.dumps(value)) < 200
    ]
    layers = about.get("layers")
    chart = ""
    if isinstance(layers, list) and len(layers) > 1:
        figure = Figure(figsize=(7.5, 2.6), layout="constrained")
        axes = figure.subplots()
        axes.plot([row["layer"] for row in layers], [row["f1"] for row in layers], color=_STYLE, marker="o")
        name_axes(axes, "layer", "F1 of style (choosing prompts)")
        chart = svg(figure)
    return "<h2>What it is</h2>" + _table(None, rows) + chart


def _sweep(numbers: Mapping[str, Any]) -> str:
    rows = numbers["sweep"]
    x = [row["threshold"] for row in rows]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, label, colour, line in (
        ("style_precision", "precision", _STYLE, ":"),
        ("style_recall", "recall", _STYLE, "--"),
        ("style_f1", "F1", _STYLE, "-"),
        ("capability_f1", "F1 of capability", _CAPABILITY, "-"),
    ):
        left.plot(x, [row[key] for row in rows], color=colour, linestyle=line, label=label)
    right.plot(x, [row["switches_per_1k_tokens"] for row in rows], color=_OTHER, label="switches per 1,000 tokens")
    spans = right.twinx()
    for kind, colour in (("style", _STYLE), ("capability", _CAPABILITY)):
        spans.plot(x, [row[f"{kind}_span_words"] for row in rows], color=colour, label=f"words of {kind} together")
    for axes in (left, right):
        axes.axvline(numbers["threshold"], color="#c9ced6", zorder=0)
    name_axes(left, "threshold", "share")
    name_axes(right, "threshold", "switches per 1,000 tokens")
    spans.set_ylabel("words")
    left.legend(frameon=False)
    right.legend(handles=[*right.lines[:1], *spans.lines], frameon=False)
    heads = ["threshold", "precision", "recall", "F1", "switches / 1k", "style words", "capability words"]
    keys = ("style_precision", "style_recall", "style_f1")
    body = [
        [
            f"{row['threshold']:.2f}",
            *(f"{row[key]:.3f}" for key in keys),
            f"{row['switches_per_1k_tokens']:.1f}",
            f"{row['style_span_words']:.1f}",
            f"{row['capability_span_words']:.1f}",
        ]
        for row in rows
    ]
    marked = min(range(len(rows)), key=lambda i: abs(rows[i]["threshold"] - numbers["threshold"]))
    return (
        "<h2>What the threshold does</h2><p>A word is style if all its tokens are. A higher threshold leaves more to "
        "capability; switches and stretches are those of the labels that it gives to these texts, whoever wrote them."
        "</p>" + svg(figure) + _table(heads, body, marked)
    )


def _boundaries(numbers: Mapping[str, Any]) -> str:
    figure = Figure(figsize=(10, 3), layout="constrained")
    lines = []
    for axes, unit in zip(figure.subplots(1, 2), ("tokens", "words"), strict=True):
        found = numbers["boundaries"][unit]
        offsets = {int(d): count for d, count in found["offsets"].items()}
        colours = [_STYLE if d == 0 else _OTHER for d in offsets]
        axes.bar(list(offsets), list(offsets.values()), color=colours)
        axes.set_xticks([-FAR, -5, 0, 5, FAR], [f"≤ -{FAR}", "-5", "0", "5", f"≥ {FAR}"])
        name_axes(axes, f"{unit} too late", "boundaries")
        mean = "–" if found["mean_distance"] is None else f"{found['mean_distance']:.2f}"
        lines.append(
            f"In {unit}: {_percent(found['exact'])} of {found['true']:,} boundaries are exact, the mean distance is "
            f"{mean}, {found['missed']:,} are missed and {found['invented']:,} invented."
        )
    return "<h2>Where it puts the boundaries</h2>" + svg(figure) + "".join(f"<p>{line}</p>" for line in lines)


def _calibration(numbers: Mapping[str, Any]) -> str:
    found = numbers["calibration"]
    bins = [row for row in found["bins"] if row["tokens"]]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="#c9ced6", linestyle="--")
    left.plot([row["p"] for row in bins], [row["style"] for row in bins], color=_STYLE, marker="o")
    name_axes(left, "P(style) that it says", "share that is style")
    width = 1 / len(found["bins"])
    right.bar(
        [row["from"] + width / 2 for row in found["bins"]],
        [row["tokens"] for row in found["bins"]],
        width=0.9 * width,
        color=_OTHER,
    )
    right.set_yscale("symlog")
    name_axes(right, "P(style) that it says", "tokens")
    return f"<h2>Whether its probabilities are true</h2><p>Expected calibration error: {found['ece']:.3f}.</p>" + svg(
        figure
    )


def _phrases(numbers: Mapping[str, Any]) -> str:
    def listed(rows: Sequence[Mapping[str, Any]]) -> str:
        cells = [[f"<code>{html.escape(row['phrase'])}</code>", str(row["count"])] for row in rows]
        return _table(["phrase", "times"], cells) if cells else "<p>none</p>"

    return (
        "<h2>What it gets wrong most often</h2><div class='two'>"
        f"<div><p>Capability taken for style</p>{listed(numbers['false_phrases'])}</div>"
        f"<div><p>Style taken for capability</p>{listed(numbers['missed_phrases'])}</div></div>"
    )


# -- pieces ------------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str] | None, rows: Sequence[Sequence[str]], marked: int | None = None) -> str:
    head = "" if heads is None else "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in heads) + "</tr></thead>"
    body = "".join(
        ("<tr class='now'>" if number == marked else "<tr>") + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _with_interval(found: Mapping[str, float], sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{found['value']:{form}} <small>{found['low']:{form}} … {found['high']:{form}}</small>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
