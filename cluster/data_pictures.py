"""Pictures of a data set: how returns are distributed in each task, and one episode in full."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float32, Float64
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from causeway.cluster.report.style import COLOURS, STYLE, to_png
from causeway.datasets.batches import Episode
from causeway.datasets.locations import Location
from causeway.datasets.schema import TaskEntry
from causeway.datasets.store import DatasetStore

RETURNS, EPISODE = "returns.png", "episode.png"
MAX_PANELS = 60  # tasks whose returns are drawn; more are drawn in part
MAX_LINES = 8  # features that are drawn as lines; more as a map
BINS = 24
WIDTH = 10.4  # inches
PART_COLOURS = {"train": COLOURS["after"], "test": COLOURS["before"]}
LINE_COLOURS = tuple(COLOURS[name] for name in ("after", "before", "third", "fourth", "goal"))
LINE_STYLES = ("-", "--")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One episode of a task, and what it is one of."""

    task: TaskEntry
    number: int  # among the task's episodes that can be read, from 0
    of: int
    episode: Episode


def draw_pictures(
    store: DatasetStore, folder: Path, task_id: int, progress: Callable[[int, int], None]
) -> list[Path]:
    """Writes both pictures; gives their files.

    Args:
        store: read once, part by part.
        folder: made where it is not there.
        task_id: of the episode: the one whose return is the task's median.
        progress: told how many of how many parts are read.

    Raises:
        ValueError: there is no such task, or none of its episodes can be read.
    """
    returns = _read_returns(store, progress)
    sample = median_episode(store, task_id, returns[store.manifest.task(task_id).id])
    written = []
    for name, figure in (
        (RETURNS, draw_returns(store, returns)),
        (EPISODE, draw_episode(store, sample)),
    ):
        Location.parse(folder / name).write(to_png(figure))
        written.append(folder / name)
    return written


def _read_returns(
    store: DatasetStore, progress: Callable[[int, int], None]
) -> dict[int, Float64[np.ndarray, "episodes"]]:
    """The undiscounted returns of each task's episodes."""
    total, done = sum(len(task.parts) for task in store.manifest.tasks), 0
    found = {}
    for task in store.manifest.tasks:
        values: list[float] = []
        for episodes in store.iterate_parts(task.id):
            values += [episode.undiscounted_return for episode in episodes]
        done += len(task.parts)
        progress(done, total)
        found[task.id] = np.array(values)
    return found


def median_episode(
    store: DatasetStore, task_id: int, returns: Float64[np.ndarray, "episodes"]
) -> Sample:
    """The episode whose return is the median of the task's.

    Args:
        store: that holds it.
        task_id: whose it is.
        returns: of the task's episodes that can be read, in their order.

    Raises:
        ValueError: there is none.
    """
    if not len(returns):
        raise ValueError(
            f"task {task_id} must have an episode that can be read, it has none: 'causeway data "
            f"verify {store.folder}' says why"
        )
    chosen = int(np.argsort(returns, kind="stable")[(len(returns) - 1) // 2])
    begin = 0
    for episodes in store.iterate_parts(task_id):
        if chosen < begin + len(episodes):
            return Sample(
                task=store.manifest.task(task_id),
                number=chosen,
                of=len(returns),
                episode=episodes[chosen - begin],
            )
        begin += len(episodes)
    raise ValueError(f"{store.folder} must not change while it is read, but it has")


def draw_returns(store: DatasetStore, returns: Mapping[int, Float64[np.ndarray, "e"]]) -> Figure:
    """A histogram of returns for each task, on one scale."""
    tasks = [task for task in store.manifest.tasks if len(returns[task.id])]
    shown = [
        tasks[i] for i in np.unique(np.linspace(0, len(tasks) - 1, MAX_PANELS).round().astype(int))
    ]
    columns = min(10, len(shown), max(3, round(np.sqrt(2.0 * len(shown)))))
    rows = -(-len(shown) // columns)
    edges = np.histogram_bin_edges(np.concatenate([returns[task.id] for task in shown]), bins=BINS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.0 + max(2.4, 1.05 * rows)), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
        for axes, task in zip(panels, shown, strict=False):
            _draw_histogram(axes, store, task, returns[task.id], edges)
        for unused in panels[len(shown) :]:
            unused.set_axis_off()
        figure.supxlabel("return of an episode", color=COLOURS["muted"], fontsize=9.5)
        left_out = f", {len(shown)} of {len(tasks)} tasks" if len(shown) < len(tasks) else ""
        drawn = f"{store.manifest.family}, split {store.manifest.split}"
        _set_title(figure, f"{drawn}: returns by task{left_out}")
        figure.legend(handles=_legend_of(store, shown), loc="outside upper right", ncols=4)
    return figure


def _draw_histogram(
    axes: Axes,
    store: DatasetStore,
    task: TaskEntry,
    values: Float64[np.ndarray, "episodes"],
    edges: Float64[np.ndarray, "bins+1"],
) -> None:
    axes.hist(values, bins=edges.tolist(), color=PART_COLOURS[task.split_part])
    axes.set_title(f"{task.id}", fontweight="normal", fontsize=8.5, pad=2)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.tick_params(axis="x", labelsize=7.5)
    reference = store.manifest.references.get(task.id)
    if reference is not None:
        for value, colour in ((reference.random, "muted"), (reference.expert, "goal")):
            if value is not None:
                axes.axvline(value, color=COLOURS[colour], linewidth=1.2, linestyle=":")


def _legend_of(store: DatasetStore, shown: list[TaskEntry]) -> list[Patch | Line2D]:
    parts = sorted({task.split_part for task in shown}, reverse=True)
    handles: list[Patch | Line2D] = [Patch(color=PART_COLOURS[p], label=f"{p} task") for p in parts]
    references = [store.manifest.references.get(task.id) for task in shown]
    for label, colour in (("random", "muted"), ("expert", "goal")):
        if any(r is not None and getattr(r, label) is not None for r in references):
            line = Line2D([], [], color=COLOURS[colour], linestyle=":", linewidth=1.2, label=label)
            handles.append(line)
    return handles


def draw_episode(store: DatasetStore, sample: Sample) -> Figure:
    """An episode over time: observations, actions, rewards; and its path, if it is in a plane."""
    episode, planar = sample.episode, sample.episode.observation.shape[1] == 2
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
        grid = figure.add_gridspec(4, 2 if planar else 1, width_ratios=[1.35, 1] if planar else [1])
        time = figure.add_subplot(grid[0, 0])
        _draw_features(time, episode.observation, "observation")
        below = figure.add_subplot(grid[1, 0], sharex=time)
        _draw_features(below, episode.action, "action")
        rewards = figure.add_subplot(grid[2, 0], sharex=time)
        steps = np.arange(1, len(episode) + 1)
        rewards.bar(steps, episode.reward, width=1.0, color=COLOURS["third"], linewidth=0)
        rewards.set_title("reward")
        sums = figure.add_subplot(grid[3, 0], sharex=time)
        sums.plot(steps, np.cumsum(episode.reward, dtype=np.float64), color=COLOURS["fourth"])
        sums.set_title("return so far")
        sums.set_xlabel("env step")
        sums.xaxis.set_major_locator(MaxNLocator(integer=True))
        sums.set_xlim(0.5, max(1.5, len(episode) + 0.5))
        for axes in (time, below, rewards):
            axes.tick_params(axis="x", labelbottom=False)
        if planar:
            _draw_path(figure.add_subplot(grid[:, 1]), sample)
        _set_title(figure, _describe(store, sample))
    return figure


def _draw_features(axes: Axes, values: Float32[np.ndarray, "T F"], name: str) -> None:
    """Few features as lines, many as a map: each feature a row, from its lowest to its highest."""
    steps, features = values.shape
    axes.set_title(f"{name}, {features} features")
    if features <= MAX_LINES:
        for i, column in enumerate(values.T):
            colour = LINE_COLOURS[i % len(LINE_COLOURS)]
            style = LINE_STYLES[i // len(LINE_COLOURS)]
            axes.plot(
                np.arange(1, steps + 1), column, style, color=colour, linewidth=1.5, label=f"{i}"
            )
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5, labelspacing=0.25)
        return
    axes.set_title(f"{name}, {features} features, each from its lowest (blue) to its highest")
    low, high = values.min(axis=0), values.max(axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    colours = LinearSegmentedColormap.from_list(
        "map", [COLOURS["after"], "#ffffff", COLOURS["before"]]
    )
    extent = (0.5, steps + 0.5, features - 0.5, -0.5)
    axes.imshow(scaled.T, aspect="auto", cmap=colours, extent=extent, interpolation="nearest")
    axes.grid(visible=False)
    axes.set_ylabel("feature")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))


def _draw_path(axes: Axes, sample: Sample) -> None:
    """A path in the plane of the two observations, with the task's goal where it has one."""
    episode, parameters = sample.episode, sample.task.parameters
    path = np.concatenate([episode.observation, episode.next_observation[-1:]])
    x, y = path[:, 0], path[:, 1]
    axes.plot(x, y, color=COLOURS["after"], linewidth=1.5, marker="o", markersize=4)
    axes.scatter(x[:1], y[:1], color=COLOURS["ink"], s=46, label="first", zorder=4)
    axes.scatter(x[-1:], y[-1:], color=COLOURS["before"], s=46, marker="s", label="last", zorder=4)
    if {"goal_x", "goal_y"} <= parameters.keys():
        goal = [parameters["goal_x"]], [parameters["goal_y"]]
        axes.scatter(goal[0], goal[1], color=COLOURS["goal"], s=190, marker="*", label="goal")
    axes.set_title("path")
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(visible=True, axis="both")
    axes.set_xlabel("observation 0")
    axes.set_ylabel("observation 1")
    axes.margins(0.12)
    axes.legend(loc="best")


def _describe(store: DatasetStore, sample: Sample) -> str:
    episode = sample.episode
    parameters = ", ".join(f"{name} {value:.3g}" for name, value in sample.task.parameters.items())
    told = f" ({parameters})" if 0 < len(parameters) <= 60 else ""
    end = (
        "terminated" if episode.terminated[-1] else "truncated" if episode.truncated[-1] else "cut"
    )
    return (
        f"{store.manifest.family}, task {sample.task.id}{told}: episode {sample.number + 1} of "
        f"{sample.of}, return {episode.undiscounted_return:.4g}, {end} after {len(episode)} steps"
    )


def _set_title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=COLOURS["ink"])
