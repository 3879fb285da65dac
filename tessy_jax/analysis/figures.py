"""The paper's figures for any data sets, and what goes with them, as SVG."""

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from tessy_jax.analysis.report import Numbers
from tessy_jax.analysis.verdict import CLOSE, FAR
from tessy_jax.console.figures import label, plain, themed_svg

AUTHOR_COLOURS = {"student": "#0f8b8d", "teacher": "#e07a1f", "answer": "#7a6fd0"}
_HARM = {True: "#c8413c", False: "#2a9d5c", None: "#8a8f98"}


def figures(found: Numbers) -> Iterator[tuple[str, str, str]]:
    """Title, explanation and SVG of each figure that there is something to show in."""
    sets = found["sets"]
    names = [one["name"] for one in sets]
    if any(one["verdict"]["excess"] is not None for one in sets):
        yield (
            "How foreign the data is, beside what was measured",
            "Points: data sets that students were trained on and tested (docs/lab.md, docs/effect.md); red: the "
            "student was worse afterwards, green: it was not, grey: not clear. Lines: your data.",
            themed_svg(_measured(found)),
        )
    yield (
        "Surprise along the response",
        "Mean nats per token over tenths of each response.",
        themed_svg(_lines(names, [[tenth["nats"] for tenth in one["loss"]["by_position"]] for one in sets], "tenth")),
    )
    switches = {f"{one['name']}: {by} takes over": v for one in sets for by, v in one["loss"]["after_switch"].items()}
    if switches:
        yield (
            "Surprise behind a change of author",
            "Mean nats of the first, second, … token of a span.",
            themed_svg(_lines(list(switches), list(switches.values()), "token of the span")),
        )
    first, second = (f"{100 * share:.1f} %" for share in found["explained"])
    yield (
        "Where the data lies (Fig. 8)",
        f"TF-IDF in the student's tokens, two principal components ({first} and {second} of the variance).",
        themed_svg(_points(names, [one["points"] for one in sets])),
    )
    yield (
        "Tokens of a response (Fig. 12)",
        "Mean (dot), middle half (thick) and 5 % to 95 %, in the student's tokens.",
        themed_svg(_ranges(names, [one["lengths"] for one in sets], "tokens of a response")),
    )
    shared = [one for one in sets if one["authors"]["shares"]]
    if shared:
        yield (
            "Who wrote the thinking (Fig. 17)",
            "Shares of its tokens, each in its author's.",
            themed_svg(_shares(shared)),
        )
    spans = {f"{one['name']}: {by}": spread for one in sets for by, spread in one["spans"].items() if spread["count"]}
    if spans:
        yield (
            "Lengths of spans",
            "Mean (dot), middle half (thick) and 5 % to 95 %, in the author's tokens.",
            themed_svg(_ranges(list(spans), list(spans.values()), "tokens of a span")),
        )


def _measured(found: Numbers) -> Figure:
    measured = found["measured"]
    figure = Figure(figsize=(9, 0.9 + 0.27 * len(measured)), layout="constrained")
    axes = figure.subplots()
    for at, one in enumerate(measured):
        axes.plot([one["excess"]], [at], marker="o", color=_HARM[one["harm"]])
    axes.set_yticks(range(len(measured)), [f"{one['name']} ({one['where']})" for one in measured])
    axes.set_ylim(len(measured) - 0.5, -0.5)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.axvspan(axes.get_xlim()[0], CLOSE, color=_HARM[False], alpha=0.08)
    axes.axvspan(FAR, axes.get_xlim()[1], color=_HARM[True], alpha=0.08)
    for number, one in enumerate(found["sets"]):
        if one["verdict"]["excess"] is not None and not one["is_reference"]:
            axes.axvline(one["verdict"]["excess"], color=f"C{number % 10}", linestyle="--", label=plain(one["name"]))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    label(axes, "nats per token above the student's own text", "")
    return figure


def _lines(names: Sequence[str], values: Sequence[Sequence[float | None]], x: str) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, curve in zip(names, values, strict=True):
        known = [(n, y) for n, y in enumerate(curve, 1) if y is not None]
        axes.plot([n for n, _ in known], [y for _, y in known], marker="o", markersize=3, label=plain(name))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    label(axes, x, "nats per token")
    return figure


def _points(names: Sequence[str], points: Sequence[Sequence[Sequence[float]]]) -> Figure:
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, found in zip(names, points, strict=True):
        axes.scatter([p[0] for p in found], [p[1] for p in found], s=9, alpha=0.6, label=plain(name))
    axes.legend(frameon=False)
    label(axes, "first component", "second component")
    return figure


def _ranges(names: Sequence[str], spreads: Sequence[Numbers], x: str) -> Figure:
    figure = Figure(figsize=(9, 0.9 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    for at, one in enumerate(spreads):
        axes.plot([one["0.05"], one["0.95"]], [at, at], color=f"C{at % 10}")
        axes.plot([one["0.25"], one["0.75"]], [at, at], color=f"C{at % 10}", linewidth=5, alpha=0.5)
        axes.plot([one["mean"]], [at], marker="o", color=f"C{at % 10}")
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0)
    label(axes, x, "")
    return figure


def _shares(sets: Sequence[Numbers]) -> Figure:
    figure = Figure(figsize=(9, 0.9 + 0.32 * len(sets)), layout="constrained")
    axes = figure.subplots()
    start = [0.0] * len(sets)
    for author in ("student", "teacher"):
        shares = [100 * one["authors"]["shares"][author] for one in sets]
        axes.barh(range(len(sets)), shares, left=start, color=AUTHOR_COLOURS[author], label=author)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    axes.set_yticks(range(len(sets)), [plain(one["name"]) for one in sets])
    axes.invert_yaxis()
    axes.legend(frameon=False)
    label(axes, "% of the tokens", "")
    return figure
