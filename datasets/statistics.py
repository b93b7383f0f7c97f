"""What a data set amounts to: returns per task, and where its observations and actions lie."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float64, Int64

from causeway.datasets.batches import Episode
from causeway.datasets.schema import TaskStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts between edges, for a figure or a line of text."""

    edges: Float64[np.ndarray, "bins+1"]
    counts: Int64[np.ndarray, "bins"]

    def __str__(self) -> str:
        """The counts as a line of bars, the highest for the largest count."""
        bars = "▁▂▃▄▅▆▇█"
        top = max(int(self.counts.max()), 1)
        return "".join(
            bars[round(int(count) / top * (len(bars) - 1))] if count else " "
            for count in self.counts
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Where the values of a field lie, by feature."""

    minimum: Float64[np.ndarray, "F"]
    maximum: Float64[np.ndarray, "F"]
    mean: Float64[np.ndarray, "F"]
    std: Float64[np.ndarray, "F"]


def task_statistics(returns: Sequence[float], transitions: int) -> TaskStatistics:
    """A task's statistics from the undiscounted returns of its episodes.

    Args:
        returns: one or more.
        transitions: of all the episodes together.
    """
    if not returns:
        raise ValueError("returns must be those of at least one episode, got none")
    values = np.asarray(returns, np.float64)
    return TaskStatistics(
        episodes=len(values),
        transitions=transitions,
        return_mean=float(values.mean()),
        return_std=float(values.std()),
        return_min=float(values.min()),
        return_max=float(values.max()),
    )


def differences(stated: TaskStatistics, actual: TaskStatistics) -> dict[str, tuple[float, float]]:
    """What is stated and what is so, by field, where they differ by more than rounding."""
    pairs = {f.name: (getattr(stated, f.name), getattr(actual, f.name)) for f in fields(actual)}
    return {
        name: (said, true)
        for name, (said, true) in pairs.items()
        if not math.isclose(said, true, rel_tol=1e-9, abs_tol=1e-9)
    }


def return_histogram(returns: Sequence[float], bins: int) -> Histogram:
    """How undiscounted returns are distributed, from the smallest to the largest."""
    counts, edges = np.histogram(np.asarray(returns, np.float64), bins=bins)
    return Histogram(edges=edges, counts=counts)


def observation_coverage(episodes: Iterable[Episode]) -> Coverage:
    """Where the observations of the episodes lie."""
    return _coverage(np.concatenate([episode.observation for episode in episodes]))


def action_coverage(episodes: Iterable[Episode]) -> Coverage:
    """Where the actions of the episodes lie."""
    return _coverage(np.concatenate([episode.action for episode in episodes]))


def _coverage(values: np.ndarray) -> Coverage:
    values = values.astype(np.float64)
    return Coverage(
        minimum=values.min(axis=0),
        maximum=values.max(axis=0),
        mean=values.mean(axis=0),
        std=values.std(axis=0),
    )
