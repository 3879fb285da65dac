"""The curves of a training run as a picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tessy_jax.data.jsonl import read_objects
from tessy_jax.train.accuracy import draw_points, read_points

_COLOURS = {"style": "tab:cyan", "capability": "tab:orange", "answer": "tab:green", "assistant": "tab:purple"}
_SMOOTH = 0.9
"""Weight of what came before in the exponential mean."""


def draw(metrics: Path, picture: Path) -> bool:
    """Draws the lines of a `metrics.jsonl` as a PNG. Returns False, and draws nothing, where it has no steps yet."""
    rows = [row for _, row in read_objects(metrics) if row is not None] if metrics.exists() else []
    steps = [row for row in rows if "loss" in row]
    held_out = [{"step": row["step"], **row["held_out"]} for row in rows if "held_out" in row]
    if not steps:
        return False
    benchmarks = read_points(rows)
    figure = Figure(figsize=(11, 10.5 if benchmarks else 7), layout="constrained")
    grid = figure.add_gridspec(3 if benchmarks else 2, 2)
    loss, parts, accuracy, rate = (figure.add_subplot(grid[row, column]) for row in (0, 1) for column in (0, 1))
    if benchmarks:
        draw_points(figure.add_subplot(grid[2, :]), benchmarks)
    _line(loss, steps, ("loss",), color="tab:blue", alpha=0.3)
    loss.plot([row["step"] for row in steps], list(_smooth([row["loss"] for row in steps])), "tab:blue", label="train")
    if held_out:
        _line(loss, held_out, ("loss",), color="tab:red", marker="o", label="held out")
    loss.legend()
    for name, colour in _COLOURS.items():
        for axes, key in ((parts, "loss"), (accuracy, "accuracy")):
            _line(axes, steps, ("parts", name, key), color=colour, label=name, alpha=0.6)
            _line(axes, held_out, ("parts", name, key), color=colour, marker="o", linestyle="--")
    for axes in (parts, accuracy):
        if axes.lines:
            axes.legend(title="dashed: held out")
    _line(rate, steps, ("learning_rate",), color="tab:blue", label="learning rate")
    norm = rate.twinx()
    _line(norm, steps, ("grad_norm",), color="tab:gray", alpha=0.6, label="gradient norm")
    rate.legend(handles=[*rate.lines, *norm.lines])
    for axes, title in (
        (loss, "loss (nats per trained token)"),
        (parts, "loss by part"),
        (accuracy, "token accuracy by part"),
        (rate, "learning rate and gradient norm"),
    ):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    partial = picture.with_name(f".{picture.name}.partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(picture)
    return True


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], keys: tuple[str, ...], **style: Any) -> None:
    """A number of each row, found under `keys`, over the step; rows without it are left out."""
    points = [(row["step"], value) for row in rows if (value := _get(row, keys)) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _get(row: Any, keys: tuple[str, ...]) -> float | None:
    for key in keys:
        row = (row or {}).get(key)
    return row


def _smooth(values: Sequence[float]) -> Iterator[float]:
    """Exponential mean, corrected for its beginning."""
    mean, weight = 0.0, 0.0
    for value in values:
        mean, weight = _SMOOTH * mean + (1 - _SMOOTH) * value, _SMOOTH * weight + 1 - _SMOOTH
        yield mean / weight
