"""The figures of a report. Each is a function of the run; one without its data is left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from causeway.actors.summary import Summary, summarise
from causeway.cluster.report.findings import CONDITIONS, STAGES, gap, number
from causeway.cluster.report.run_data import RunData, read_summary, series
from causeway.cluster.report.style import COLOURS, STYLE, legend_above, new_axes, spread

STAGE_COLOURS = {"offline": COLOURS["before"], "online": COLOURS["after"]}
CONDITION_COLOURS = dict(
    zip(CONDITIONS, (COLOURS["muted"], COLOURS["fourth"], COLOURS["third"]), strict=True)
)
FULL_WIDTH, HALF_WIDTH = 10.4, 5.1  # inches; the page shows both at the same scale
MAX_PATHS = 5  # tasks whose paths are drawn


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with its words."""

    name: str  # of a file
    title: str
    caption: str
    wide: bool
    figure: Figure


def draw_all(run: RunData) -> list[Drawing]:
    """Every figure that the run has the data for, in the order of the page."""
    makers: tuple[Callable[[RunData], Drawing | None], ...] = (
        draw_adaptation,
        draw_contexts,
        draw_paths,
        draw_returns,
        draw_losses,
        draw_machinery,
    )
    with matplotlib.rc_context(STYLE):
        return [drawing for make in makers if (drawing := make(run)) is not None]


def draw_adaptation(run: RunData) -> Drawing | None:
    """Return over episodes of adaptation, before and after self-supervision."""
    curves = {
        stage: per_episode(run.evaluation(stage, "online").get("returns")) for stage in STAGES
    }
    curves = {stage: curve for stage, curve in curves.items() if curve}
    if not curves:
        return None
    figure, axes = new_axes(HALF_WIDTH, 3.5)
    for stage, curve in curves.items():
        episodes = np.arange(1, len(curve) + 1)
        _plot_summaries(axes, episodes, curve, STAGE_COLOURS[stage], STAGES[stage], marker="o")
    _reference_lines(run, axes, horizontal=True)
    axes.set_xlabel("episode of adaptation")
    axes.set_ylabel("return")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.12, y=0.1)
    legend_above(axes)
    return Drawing(
        name="adaptation",
        title="Adapting to held-out tasks",
        caption="Undiscounted return of each episode; the belief changes between episodes only. "
        "The last episode acts on what the earlier ones gathered. Bands: 95 % over tasks.",
        wide=False,
        figure=figure,
    )


def draw_contexts(run: RunData) -> Drawing | None:
    """Returns by what the agent adapts on: the gap that self-supervision is to close."""
    figure, axes = new_axes(HALF_WIDTH, 3.5)
    names = list(CONDITIONS)
    known = [stage for stage in STAGES if any(run.summary(stage, name) for name in names)]
    for place, stage in enumerate(known):
        offset = 0.32 * (place - (len(known) - 1) / 2)
        label: str | None = STAGES[stage]
        for row, name in enumerate(names):
            value = run.summary(stage, name)
            if value is None:
                continue
            axes.errorbar(
                value.mean, row + offset, xerr=value.ci95, fmt="o", markersize=7, capsize=0,
                elinewidth=4, color=STAGE_COLOURS[stage], ecolor=_faded(STAGE_COLOURS[stage]),
                label=label,
            )  # fmt: skip
            label = None
    if not known:
        return None
    _reference_lines(run, axes, horizontal=False)
    axes.set_yticks(range(len(names)), [CONDITIONS[name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("return")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.tick_params(axis="y", length=0)
    legend_above(axes)
    gaps = [number(gap(run, stage)) for stage in STAGES if gap(run, stage) is not None]
    told = f" Gap between the last two: {' before, '.join(gaps)} after." if len(gaps) == 2 else ""
    return Drawing(
        name="contexts",
        title="What the agent adapts on",
        caption="Nothing, what it gathers itself with true rewards, or labelled offline data of "
        f"the task. Bars: 95 % over tasks.{told}",
        wide=False,
        figure=figure,
    )


def draw_paths(run: RunData) -> Drawing | None:
    """Where the agent goes in the plane, before and after adaptation, for some held-out tasks."""
    stages = [stage for stage in STAGES if _planar(run.evaluation(stage, "online"))]
    if not stages:
        return None
    first = run.evaluation(stages[0], "online")
    count = len(first["paths_first"])
    chosen = spread(count, MAX_PATHS)
    goals = _goals(first.get("task_parameters") or [])
    panel_height = 1.1 * FULL_WIDTH / max(4, len(chosen)) * _flatness(first, goals)
    size = (FULL_WIDTH, 0.8 + panel_height * len(stages))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(stages), len(chosen), squeeze=False, sharex=True, sharey=True)
    for row, stage in enumerate(stages):
        evaluation = run.evaluation(stage, "online")
        for column, task in enumerate(chosen):
            axes = panels[row, column]
            _draw_path(axes, evaluation, task, goals, stage)
            if row == 0:
                axes.set_title(f"task {first['task_ids'][task]}", fontweight="normal")
        panels[row, 0].set_ylabel(STAGES[stage].replace(" ", "\n", 1), color=COLOURS["ink"])
    handles = {
        label: handle
        for axes in panels[:, 0]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4)
    return Drawing(
        name="paths",
        title="Paths in held-out tasks",
        caption="The first episode, before any context, and the last, adapted to what the earlier "
        "ones found. One repetition of each task; faint stars are the other tasks' goals.",
        wide=True,
        figure=figure,
    )


def draw_returns(run: RunData) -> Drawing | None:
    """Returns in held-out tasks over the course of training."""
    points = [p for p in run.evaluations.get("curve") or [] if read_summary(p.get("updates"))]
    figure, axes = new_axes(FULL_WIDTH, 3.3)
    drawn = False
    for name, label in CONDITIONS.items():
        known = [(p["updates"], s) for p in points if (s := read_summary(p.get(name))) is not None]
        if known:
            updates, values = zip(*known, strict=True)
            _plot_summaries(
                axes, np.array(updates, float), list(values), CONDITION_COLOURS[name], label
            )
            drawn = True
    if not drawn:
        return None
    _shade_online(run, axes)
    _reference_lines(run, axes, horizontal=True)
    axes.margins(y=0.1)
    axes.set_xlabel("updates")
    axes.set_ylabel("return")
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    legend_above(axes)
    return Drawing(
        name="returns",
        title="Returns over training",
        caption="Held-out tasks, by what the agent adapts on; the shaded part is the "
        "self-supervised stage. Bands: 95 % over tasks.",
        wide=True,
        figure=figure,
    )


def draw_losses(run: RunData) -> Drawing | None:
    """Every loss that was minimised, each on its own scale."""
    names = list(dict.fromkeys(n for row in run.metrics for n in row.get("losses") or {}))
    curves = [(name, *series(run.metrics, "updates", "losses", name)) for name in names]
    curves = [curve for curve in curves if len(curve[1]) > 1]
    if not curves:
        return None
    figure, panels = _panels(len(curves))
    for axes, (name, updates, values) in zip(panels, curves, strict=True):
        _plot_noisy(axes, updates, values, COLOURS["after"])
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("updates")
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        _shade_online(run, axes)
    return Drawing(
        name="losses",
        title="Losses",
        caption="As they were minimised, with a running mean; the shaded part is the "
        "self-supervised stage.",
        wide=True,
        figure=figure,
    )


_MACHINERY = {
    "updates_per_s": "updates per second",
    "env_steps_per_s": "environment steps per second",
    "staleness": "staleness, updates",
    "online_share": "online share of the data",
    "collectors": "collectors",
    "deaths": "deaths so far",
}
_COUNTED = ("collectors", "deaths")  # whole numbers


def draw_machinery(run: RunData) -> Drawing | None:
    """Throughput and the state of the distributed parts over time."""
    curves = [(name, *series(run.metrics, "time_s", name)) for name in _MACHINERY]
    curves = [curve for curve in curves if len(curve[1]) > 1]
    if not curves:
        return None
    longest = max(times[-1] for _, times, _ in curves)
    unit, divisor = ("minutes", 60.0) if longest < 7200 else ("hours", 3600.0)
    figure, panels = _panels(len(curves))
    for axes, (name, times, values) in zip(panels, curves, strict=True):
        if name in _COUNTED:
            axes.plot(times / divisor, values, color=COLOURS["third"], drawstyle="steps-post")
        else:
            _plot_noisy(axes, times / divisor, values, COLOURS["third"])
        axes.set_title(_MACHINERY[name])
        axes.set_xlabel(unit)
        axes.set_ylim(0.0, 1.15 * values.max() if values.max() > 0 else 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=name in _COUNTED))
        axes.set_xlim(0.0, longest / divisor)
    return Drawing(
        name="machinery",
        title="Throughput, staleness and data",
        caption="Staleness is the number of updates between the weights a rollout was acted with "
        "and the newest ones.",
        wide=True,
        figure=figure,
    )


def per_episode(returns: Any) -> list[Summary]:
    """Returns [task][repeat][episode] as one summary over tasks per episode; empty without any."""
    values = np.array(returns or [], float)
    if values.ndim != 3 or values.size == 0:
        return []
    return [summarise(episode) for episode in values.mean(axis=1).T]


def smoothed(values: np.ndarray) -> np.ndarray:
    """A centred running mean over a twentieth of the curve, cut off at its ends."""
    reach = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - reach, 0)
    last = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    means: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return means


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    """Panels three or four to a row; the last row's unused places stay empty."""
    columns = 4 if count in (4, 7, 8) else 3
    rows = -(-count // columns)
    figure = Figure(figsize=(FULL_WIDTH, 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in panels[count:]:
        unused.set_axis_off()
    return figure, list(panels[:count])


def _plot_summaries(
    axes: Axes, x: np.ndarray, values: Sequence[Summary], colour: str, label: str, marker: str = ""
) -> None:
    """A line of means with the band of their intervals."""
    means = np.array([value.mean for value in values])
    half = np.array([value.ci95 or 0.0 for value in values])
    axes.fill_between(x, means - half, means + half, color=_faded(colour), linewidth=0)
    axes.plot(x, means, color=colour, label=label, marker=marker, markersize=6)


def _plot_noisy(axes: Axes, x: np.ndarray, values: np.ndarray, colour: str) -> None:
    """A curve, faint, and its running mean."""
    axes.plot(x, values, color=_faded(colour), linewidth=0.8)
    axes.plot(x, smoothed(values), color=colour, linewidth=1.8)


def _reference_lines(run: RunData, axes: Axes, *, horizontal: bool) -> None:
    """The returns of random actions and of the oracle, as far as they are known."""
    for name, label, across in (
        ("oracle_return", "oracle", "right"),
        ("random_return", "random", "left"),
    ):
        value = run.summary(None, name)
        if value is None:
            continue
        line: dict[str, Any] = {"color": COLOURS["muted"], "linewidth": 1.0, "zorder": 1}
        text: dict[str, Any] = {"color": COLOURS["muted"], "fontsize": 8.5}
        if horizontal:
            axes.axhline(value.mean, linestyle=(0, (4, 3)), **line)
            text |= {"xytext": (-2, 3), "ha": "right", "va": "bottom"}
            place, frame = (1.0, value.mean), axes.get_yaxis_transform()
        else:
            axes.axvline(value.mean, linestyle=(0, (4, 3)), **line)
            text |= {"xytext": (-4 if across == "right" else 4, -2), "ha": across, "va": "top"}
            place, frame = (value.mean, 1.0), axes.get_xaxis_transform()
        axes.annotate(label, place, xycoords=frame, textcoords="offset points", **text)


def _shade_online(run: RunData, axes: Axes) -> None:
    """Marks the part of the horizontal axis, in updates, that belongs to the online stage."""
    rows = [*run.metrics, *(run.evaluations.get("curve") or [])]
    online = [row["updates"] for row in rows if row.get("stage") == "online" and "updates" in row]
    offline = [row["updates"] for row in rows if row.get("stage") == "offline" and "updates" in row]
    if online and offline:
        axes.axvspan(max(offline), max(online), color=COLOURS["shade"], zorder=0, linewidth=0)
        axes.set_xlim(min(offline), max(online))


def _draw_path(
    axes: Axes, evaluation: Any, task: int, goals: dict[int, tuple[float, float]], stage: str
) -> None:
    for other, goal in goals.items():
        own = other == task
        axes.plot(
            *goal, marker="*", linestyle="", markersize=13 if own else 6, zorder=4 if own else 1,
            color=COLOURS["goal"] if own else COLOURS["grid"], label="goal" if own else None,
        )  # fmt: skip
    last = f"last episode, {STAGES[stage]}"
    for key, label, colour in (
        ("paths_first", "first episode", COLOURS["muted"]),
        ("paths_last", last, STAGE_COLOURS[stage]),
    ):
        path = np.array(evaluation[key][task], float)
        axes.plot(
            path[:, 0], path[:, 1], color=colour, label=label, linewidth=1.8,
            marker="o", markersize=2.6, zorder=3,
        )  # fmt: skip
    axes.set_aspect("equal", adjustable="box")
    axes.margins(0.1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)


def _flatness(evaluation: Any, goals: dict[int, tuple[float, float]]) -> float:
    """Height over width of what the panels show, within reason."""
    paths = [*evaluation["paths_first"], *evaluation["paths_last"], list(goals.values())]
    points = np.concatenate([np.array(path, float).reshape(-1, 2) for path in paths])
    width, height = np.ptp(points, axis=0)
    return float(np.clip(height / max(width, 1e-9), 0.5, 1.4))


def _planar(evaluation: Any) -> bool:
    """Whether an evaluation holds paths of points in the plane."""
    first, last = evaluation.get("paths_first") or [], evaluation.get("paths_last") or []
    return bool(first) and len(first) == len(last) and all(len(p) == 2 for p in first[0])


def _goals(parameters: Sequence[Any]) -> dict[int, tuple[float, float]]:
    """The goals by the place of their task, where tasks have one."""
    return {
        index: (one["goal_x"], one["goal_y"])
        for index, one in enumerate(parameters)
        if "goal_x" in one and "goal_y" in one
    }


def _faded(colour: str) -> tuple[str, float]:
    return colour, 0.25


def _thousands(value: float, _: Any) -> str:
    """50000 as 50k; small numbers as they are."""
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
