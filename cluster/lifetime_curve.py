"""The learning curve of a lifetime, as numbers and as a picture beside the data set."""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence

import matplotlib

from causeway.cluster.lifetime import Moment
from causeway.cluster.report.style import COLOURS, STYLE, new_axes
from causeway.datasets.locations import Location

JSON_NAME, PNG_NAME = "learning-curve.json", "learning-curve.png"


def write_curve(
    place: Location, title: str, curve: Sequence[Moment], references: Mapping[str, float]
) -> None:
    """Writes both files into the data set's folder.

    Args:
        place: the folder.
        title: of the picture.
        curve: a moment for each round.
        references: mean returns by name, drawn as lines.
    """
    facts = {
        "title": title,
        "references": dict(references),
        "rounds": [dataclasses.asdict(moment) for moment in curve],
    }
    place.child(JSON_NAME).write((json.dumps(facts, indent=1) + "\n").encode())
    place.child(PNG_NAME).write(_png(title, curve, references))


def _png(title: str, curve: Sequence[Moment], references: Mapping[str, float]) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure, axes = new_axes(5.7, 3.0)
        for name, colour, field in (
            ("as it learns", COLOURS["before"], "stochastic_return"),
            ("without noise", COLOURS["after"], "deterministic_return"),
        ):
            known = [m for m in curve if getattr(m, field) is not None]
            axes.plot(
                [m.updates for m in known],
                [getattr(m, field) for m in known],
                color=colour,
                label=name,
            )
        for name, value in references.items():
            axes.axhline(value, color=COLOURS["muted"], linewidth=1.0, linestyle=":")
            axes.annotate(
                name,
                (1.01, value),  # beside the axes, where no curve runs through it
                xycoords=("axes fraction", "data"),
                va="center",
                color=COLOURS["muted"],
                fontsize=8,
            )
        axes.set_xlabel("updates of the agent")
        axes.locator_params(axis="x", nbins=6)
        axes.set_ylabel("return of an episode")
        axes.set_title(title)
        axes.legend()
        contents = io.BytesIO()
        figure.savefig(contents, format="png", dpi=110)
    return contents.getvalue()
