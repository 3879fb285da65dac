"""Figures of the reports: Matplotlib's, as SVG inside a page."""

import io

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK = "#010203"
"""Stands for the page's own colour of text until the figure is text itself."""


def svg(figure: Figure) -> str:
    """The figure as inline SVG; the same figure gives the same text."""
    out = io.StringIO()
    with rc_context({"svg.hashsalt": "tessy", "svg.fonttype": "none", "font.size": 9}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]


def themed_svg(figure: Figure) -> str:
    """The same, with text and lines in the colour of the text around it: for pages that are also dark."""
    for axes in figure.axes:
        axes.tick_params(colors=_INK)
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts):
            text.set_color(_INK)
        for spine in axes.spines.values():
            spine.set_color(_INK)
        if (legend := axes.get_legend()) is not None:
            for entry in legend.get_texts():
                entry.set_color(_INK)
    return svg(figure).replace(_INK, "currentColor")


def label(axes: Axes, x: str, y: str) -> None:
    """Names the axes, in the look of the reports."""
    axes.set_xlabel(plain(x))
    axes.set_ylabel(plain(y))
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def plain(text: str) -> str:
    """A text as it is: no formula, and shown although it may begin with _."""
    return " " + text.replace("$", r"\$") if text.startswith("_") else text.replace("$", r"\$")
