"""Accuracy on benchmarks over the passes through the data, from `metrics.jsonl` (as in the paper, Fig. 11)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes


class Point(NamedTuple):
    """A model's accuracy on a benchmark, in percent, with its standard error over problems.

    Attributes:
        step, epochs: steps and passes of the training by then; 0: the model before it.
    """

    step: int
    epochs: float
    accuracy: float
    error: float


def read_points(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """By benchmark, in the order of steps; of several lines for one step the last counts."""
    found: dict[str, dict[int, Point]] = {}
    for row in rows:
        for name, values in row.get("benchmarks", {}).items():
            point = Point(row["step"], row["epochs"], values["accuracy"], values["standard_error"])
            found.setdefault(name, {})[point.step] = point
    return {name: sorted(points.values()) for name, points in found.items()}


def draw_points(axes: Axes, points: Mapping[str, Sequence[Point]]) -> None:
    """A curve for each benchmark; a bar is the standard error."""
    for name, curve in points.items():
        x, y, error = ([getattr(one, key) for one in curve] for key in ("epochs", "accuracy", "error"))
        axes.errorbar(x, y, yerr=error, marker="o", capsize=3, label=name)
    axes.set_title("accuracy on benchmarks (pass@1, %; bars: standard error)")
    axes.set_xlabel("epochs; 0 is the model before training")
    axes.grid(alpha=0.3)
    axes.legend()


def table(points: Mapping[str, Sequence[Point]]) -> list[str]:
    """Lines of text: an evaluation each, a column for each benchmark."""
    steps = sorted({(one.step, one.epochs) for curve in points.values() for one in curve})
    rows = [["epochs", "step", *points]]
    for step, epochs in steps:
        at = [{one.step: one for one in curve}.get(step) for curve in points.values()]
        rows.append([f"{epochs:g}", str(step), *("" if p is None else f"{p.accuracy:.2f} ± {p.error:.2f}" for p in at)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
