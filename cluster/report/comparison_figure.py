"""The picture of a comparison: dots beside names, or lines over a setting that is a number."""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from causeway.cluster.report.comparison import NO_CONTEXT, Comparison
from causeway.cluster.report.style import COLOURS, STYLE, legend_above, new_axes

WIDTH = 7.6  # inches
MAX_COLUMNS = 4  # of a legend
_CYCLE = ("after", "before", "third", "fourth", "goal", "ink")


def draw_comparison(found: Comparison) -> Figure:
    """One figure with all groups under all protocols; small dots are single runs."""
    with matplotlib.rc_context(STYLE):
        return _over_numbers(found) if found.numeric else _beside_names(found)


def _colours(found: Comparison) -> dict[str, str]:
    others = [name for name in found.protocols if name != NO_CONTEXT]
    colours = {name: COLOURS[_CYCLE[place % len(_CYCLE)]] for place, name in enumerate(others)}
    return {NO_CONTEXT: COLOURS["muted"], **colours}


def _beside_names(found: Comparison) -> Figure:
    """Groups from top to bottom, one dot with its interval for each protocol."""
    colours, count = _colours(found), len(found.protocols)
    figure, axes = new_axes(WIDTH, 0.9 + (0.2 + 0.17 * count) * len(found.groups))
    for place, protocol in enumerate(found.protocols):
        offset = 0.72 * ((place + 0.5) / count - 0.5)
        label: str | None = protocol
        for row, group in enumerate(found.groups):
            if (score := group.scores.get(protocol)) is None:
                continue
            where = row + offset
            axes.errorbar(
                score.mean, where, xerr=score.ci95, fmt="o", markersize=6, capsize=0,
                elinewidth=3, color=colours[protocol], ecolor=(colours[protocol], 0.25),
                label=label, zorder=3,
            )  # fmt: skip
            axes.plot(
                score.per_run, [where] * len(score.per_run), linestyle="", marker="|",
                markersize=6, color=colours[protocol], zorder=2,
            )  # fmt: skip
            label = None
    axes.set_yticks(range(len(found.groups)), [str(group.label) for group in found.groups])
    axes.set_ylim(len(found.groups) - 0.45, -0.55)
    axes.set_xlabel(_scale(found))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    if found.normalised:
        _fit(axes, found, horizontal=True)
    legend_above(axes, min(count, MAX_COLUMNS))
    return figure


def _over_numbers(found: Comparison) -> Figure:
    """A line for each protocol over the setting, on a logarithmic axis where it has the span."""
    colours = _colours(found)
    figure, axes = new_axes(WIDTH, 3.9)
    numbers = [float(group.label) for group in found.groups]  # type: ignore[arg-type]
    logarithmic = min(numbers) > 0 and max(numbers) >= 4 * min(numbers)
    span = max(numbers) - min(numbers)
    for place, protocol in enumerate(found.protocols):
        aside = place - (len(found.protocols) - 1) / 2  # so that intervals lie side by side
        known = [
            (x * 1.02**aside if logarithmic else x + 0.01 * aside * span, group.scores[protocol])
            for x, group in zip(numbers, found.groups, strict=True)
            if protocol in group.scores
        ]
        colour = colours[protocol]
        axes.errorbar(
            [x for x, _ in known], [score.mean for _, score in known],
            yerr=[score.ci95 or 0.0 for _, score in known], fmt="o-", markersize=6, capsize=0,
            elinewidth=3, color=colour, ecolor=(colour, 0.25), label=protocol,
        )  # fmt: skip
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(numbers))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(found.by)
    axes.set_ylabel(_scale(found))
    if found.normalised:
        _fit(axes, found, horizontal=False)
    legend_above(axes, min(len(found.protocols), MAX_COLUMNS))
    return figure


def _fit(axes: Axes, found: Comparison, *, horizontal: bool) -> None:
    """From random to oracle, and as far beyond as the means lie; wide intervals are cut."""
    means = [one for group in found.groups for score in group.scores.values()
             for one in score.per_run]  # fmt: skip
    limits = (min(-0.02, *means) - 0.02, max(1.02, *means) + 0.02)
    if horizontal:
        axes.set_xlim(*limits)
    else:
        axes.set_ylim(*limits)


def _scale(found: Comparison) -> str:
    return "score: 0 random actions, 1 told the task" if found.normalised else "return"
