"""How figures look, and how they follow the page's light or dark colours.

A figure is drawn in the light colours. Inside the page it is vector graphics whose every colour is
replaced by a variable of the page's style sheet, so that one drawing serves light, dark and paper.
Colours are told apart by all kinds of colour vision (after Okabe and Ito).
"""

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {  # name of the style sheet's variable -> its light value; all values differ
    "ink": "#1b2027",
    "muted": "#69727d",
    "grid": "#d8dde3",
    "shade": "#eff3f8",
    "before": "#d0600a",
    "after": "#0a6cb4",
    "third": "#0b8a64",
    "fourth": "#8f4a9e",
    "goal": "#b8860c",
}

STYLE: Any = {  # matplotlib types it by the name of every parameter it has
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["grid"],
    "axes.facecolor": "none",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.4,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.08,
    "svg.fonttype": "none",  # text stays text: it can be found, copied and takes the page's font
}

_GROUP_ID = re.compile(r'<g id="[^"]*"')
_UNWANTED = re.compile(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", re.DOTALL)


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for a page that defines the colours' variables.

    Args:
        figure: drawn under `STYLE`.
        name: unlike that of any other figure of the page, so that inner references stay apart.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = _UNWANTED.sub("", text)  # its style would hold for the whole page
    text = _GROUP_ID.sub("<g", text)  # alike in every figure, and nothing refers to them
    for variable, value in COLOURS.items():
        text = text.replace(value, f"var(--{variable})")
    return text


def spread(count: int, most: int) -> list[int]:
    """Which of `count` things are shown where only `most` can be: evenly, the first to the last."""
    places = np.linspace(0, count - 1, min(count, most))
    chosen: list[int] = np.unique(places.round().astype(int)).tolist()
    return chosen


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def legend_above(axes: Axes, columns: int = 3) -> None:
    """On the left above the axes, where it never hides data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.3)


def to_png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as a picture on white, for documents and slides."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()
