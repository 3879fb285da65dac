"""`report.html` of an experiment: tables and figures on one page that stands alone."""

import html
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tessy_jax.console.figures import label as name_axes
from tessy_jax.console.figures import plain, svg
from tessy_jax.console.html_page import PAGE_END, page_start
from tessy_jax.experiments.report import Numbers, Table, remarks, tables
from tessy_jax.experiments.traces import AUTHORS

_STYLE = ".wide { overflow-x: auto; } .wide td, .wide th { white-space: nowrap; }"
_AUTHOR_COLOURS = {"student": "#0f8b8d", "teacher": "#e07a1f"}


def page(found: Numbers) -> str:
    """The HTML of a report."""
    sources = found["arms"].items()
    about = "".join(f"<li><b>{html.escape(arm)}</b>: {html.escape(source)}</li>" for arm, source in sources)
    head = f"{len(found['seeds'])} seeds: {', '.join(map(str, found['seeds']))}"
    notes = "".join(f"<p><b>{html.escape(line)}</b></p>" for line in remarks(found))
    sections = [f"<p>{head}</p><ul>{about}</ul>{notes}", *map(_table, tables(found)), *_figures(found)]
    body = "\n".join(f"<section>{section}</section>" for section in sections)
    return f"{page_start(found['title'], _STYLE)}{body}\n{PAGE_END}"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in table.notes)
    return (
        f"<h2>{html.escape(table.title)}</h2><div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{notes}"
    )


# -- figures -----------------------------------------------------------------------------------------------------------


def _figures(found: Numbers) -> Iterator[str]:
    if found["benchmarks"]:
        yield "<h2>Scores with their 95 % intervals</h2>" + svg(_scores(found))
    if any(one["steps"] for one in found["training_loss"].values()):
        yield "<h2>Training loss (Fig. 15)</h2><p>Mean over seeds.</p>" + svg(_losses(found))
    labels = list(dict.fromkeys(label for one in found["accuracy_by_epoch"].values() for label in one["benchmarks"]))
    if labels:
        yield "<h2>Accuracy by epoch (Fig. 11)</h2><p>Mean over seeds.</p>" + svg(_accuracy(found, labels))
    if found["authors"]:
        yield "<h2>Who wrote the thinking (Fig. 17)</h2><p>Shares of its tokens.</p>" + svg(_authors(found))


def _scores(found: Numbers) -> Figure:
    """A panel for each benchmark, in which each arm is a point with its interval."""
    arms = list(found["arms"])
    columns = found["benchmarks"]
    figure = Figure(figsize=(max(6, 3.2 * len(columns)), 0.9 + 0.35 * len(arms)), layout="constrained")
    for axes, one in zip(_panels(figure, len(columns)), columns, strict=True):
        for row in one["rows"]:
            score, at = row["score"], arms.index(row["arm"])
            low, high = (score["value"] if score[end] is None else score[end] for end in ("low", "high"))
            axes.plot([low, high], [at, at], color=f"C{at % 10}")
            axes.plot([score["value"]], [at], marker="o", color=f"C{at % 10}")
        axes.set_yticks(range(len(arms)), arms)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        name_axes(axes, f"{one['label']}: pass@1, %", "")
    return figure


def _losses(found: Numbers) -> Figure:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    for at, arm in enumerate(found["arms"]):
        if arm in found["training_loss"]:
            one = found["training_loss"][arm]
            axes.plot(one["steps"], one["mean"], color=f"C{at % 10}", label=plain(arm))
    axes.legend(frameon=False)
    name_axes(axes, "step", "nats per trained token")
    return figure


def _accuracy(found: Numbers, labels: Sequence[str]) -> Figure:
    figure = Figure(figsize=(max(6, 3.6 * len(labels)), 3.6), layout="constrained")
    for axes, label in zip(_panels(figure, len(labels)), labels, strict=True):
        for at, arm in enumerate(found["arms"]):
            points = found["accuracy_by_epoch"].get(arm, {"benchmarks": {}})["benchmarks"].get(label, [])
            if points:
                x, y = ([one[key] for one in points] for key in ("epochs", "accuracy"))
                axes.plot(x, y, marker="o", color=f"C{at % 10}", label=plain(arm))
        axes.legend(frameon=False)
        name_axes(axes, "epochs", f"{label}: pass@1, %")
    return figure


def _authors(found: Numbers) -> Figure:
    arms = list(found["authors"])
    figure = Figure(figsize=(8, 0.9 + 0.35 * len(arms)), layout="constrained")
    axes = figure.subplots()
    start = [0.0] * len(arms)
    for author in AUTHORS:
        shares = [100 * found["authors"][arm]["thinking_tokens"][author] for arm in arms]
        axes.barh(range(len(arms)), shares, left=start, color=_AUTHOR_COLOURS[author], label=author)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.legend(frameon=False)
    name_axes(axes, "% of the tokens", "")
    return figure


def _panels(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])
