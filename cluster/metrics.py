"""What a run measures: the catalogue of names, the file that keeps them, and Ray's gauges.

A row of metrics is a flat mapping such as

    {"stage": "offline", "updates": 400, "updates_per_s": 51.0, "losses": {"critic": 0.3}}

It goes to `metrics.jsonl` as it is, and to Ray through the catalogue, which says under which name
and in which unit each field appears in Prometheus (there with Ray's own prefix `ray_`).
"""

import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np

from causeway.cluster.full_disk import is_full_disk


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: what it is called, what it counts, and which field of a row it shows."""

    name: str
    field: str
    kind: Literal["counter", "gauge"]
    unit: str
    help: str
    tag: str | None = None  # the label that the keys of a nested field become
    labels: tuple[str, ...] = ()  # of these, those whose first count must not go unseen


def _counter(
    field: str, unit: str, text: str, tag: str | None = None, labels: tuple[str, ...] = ()
) -> Metric:
    name = f"causeway_{field}"
    return Metric(
        name=name, field=field, kind="counter", unit=unit, help=text, tag=tag, labels=labels
    )


def _gauge(field: str, unit: str, text: str, tag: str | None = None) -> Metric:
    return Metric(
        name=f"causeway_{field}", field=field, kind="gauge", unit=unit, help=text, tag=tag
    )


# Tags are bounded: names of losses or queues, never an episode or a shard.
CATALOGUE: tuple[Metric, ...] = (
    _counter("updates", "updates", "Optimiser updates of the learner"),
    _counter("env_steps", "steps", "Environment steps of all collectors"),
    _gauge("updates_per_s", "updates/s", "Updates per second, over the last seconds"),
    _gauge("env_steps_per_s", "steps/s", "Environment steps per second, over the last seconds"),
    _gauge("losses", "1", "Each loss that was minimised, at the last update", tag="loss"),
    _gauge("watched", "1", "Each value that a learner watches without minimising it", tag="value"),
    _gauge("returns", "reward", "Mean return over held-out tasks, per protocol", tag="protocol"),
    _gauge("label_error", "reward", "Mean absolute error of the labels, where it can be known"),
    _gauge("online_share", "1", "Share of self-supervised transitions in the task buffers"),
    _gauge(
        "data_coverage", "1", "Share of the offline data that a stream has held in memory so far"
    ),
    _gauge("staleness", "updates", "Updates between the weights that acted and the newest"),
    _gauge("collectors", "actors", "Collectors that are at work"),
    _gauge("collectors_wanted", "actors", "Collectors that are asked for"),
    _gauge("queue_depth", "items", "Items that wait, per queue", tag="queue"),
    _counter("deaths", "actors", "Collectors lost or dismissed for a failure"),
    _counter("restarts", "actors", "Collectors created in the place of a lost one"),
    _counter("shards_committed", "shards", "Shards of rollouts in the ledger"),
    _counter(
        "shards_dropped",
        "shards",
        "Shards given up, per reason",
        tag="reason",
        labels=("stale", "fenced", "conflict", "refused"),
    ),
    _gauge("spooled", "shards", "Commits that wait for Redis to return"),
    _gauge("redis_away_s", "s", "For how long Redis has been away; 0 while it is there"),
    _counter("quarantined", "files", "Files of data found damaged and left out"),
    _gauge("free_disk_bytes", "bytes", "Free space on the disk of the run's folder"),
)

ROW_FIELDS = frozenset({"time_s", "stage", *(metric.field for metric in CATALOGUE)})


class MetricsWriter:
    """Appends rows to `metrics.jsonl`, each complete on the disk's side before the next.

    A row for which a full disk has no room is left out.

    Opened on a file that exists it goes on: a line that a crash cut short is removed, and `time_s`
    continues from the last row, so that it counts the seconds the run has been at work.

    Args:
        path: of the file.
        clock: seconds that only grow.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._file: IO[bytes] = path.open("ab+", buffering=0)
        self._cut_torn_line()
        worked_s = read_metrics(path)[-1]["time_s"] if path.stat().st_size else 0.0
        self._started = clock() - worked_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def time_s(self) -> float:
        """For how long the run has been at work, pauses between its processes left out."""
        return self._clock() - self._started

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row and the time it was made.

        Raises:
            ValueError: a field is not in the catalogue.
        """
        unknown = sorted(set(row) - ROW_FIELDS)
        if unknown:
            raise ValueError(
                f"a row of metrics must have fields of the catalogue, got {', '.join(unknown)}: "
                f"add them to CATALOGUE or use one of {', '.join(sorted(ROW_FIELDS))}"
            )
        line = json.dumps(_plain({"time_s": round(self.time_s, 3), **row}), allow_nan=False)
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line.encode() + b"\n") <= len(line):
                raise OSError(errno.ENOSPC, "written in part")
        except OSError as error:
            if not is_full_disk(error):
                raise
            self._file.truncate(end)  # a run is not to end for want of a row

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)
        self._file.seek(0, os.SEEK_END)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, also while it is being written."""
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]  # after the last break: a row in the making


class RayMetrics:
    """Shows rows as Ray's metrics, from where Prometheus scrapes them. Needs a running Ray.

    Counters are there from the beginning, at 0: of one that appears at 1, Prometheus sees no
    increase, so an alert on it would miss what happens once.
    """

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._tags = {"run": run}
        self._metrics: dict[str, Counter | Gauge] = {}
        self._totals: dict[tuple[str, str], float] = {}  # of what counters have counted
        for metric in CATALOGUE:
            kind = Counter if metric.kind == "counter" else Gauge
            tags = ("run",) if metric.tag is None else ("run", metric.tag)
            description = f"{metric.help} [{metric.unit}]"
            shown = kind(metric.name, description=description, tag_keys=tags)
            self._metrics[metric.name] = shown
            if metric.kind == "counter":
                for label in metric.labels if metric.tag is not None else ("",):
                    # `inc`, which does no more than this, refuses 0.
                    shown._record(0.0, tags=self._tags_of(metric, label))

    def record(self, row: Mapping[str, Any]) -> None:
        """Sets gauges to the row's values and brings counters up to its totals.

        A counter never goes back: after a return to a checkpoint it stands still until the run has
        passed its old total. Values that are not finite are left out.
        """
        for metric in CATALOGUE:
            value = row.get(metric.field)
            if value is None:
                continue
            values = value if metric.tag is not None else {"": value}
            for label, number in values.items():
                if number is not None and math.isfinite(number):
                    self._show(metric, str(label), float(number))

    def _show(self, metric: Metric, label: str, number: float) -> None:
        from ray.util.metrics import Counter

        tags, shown = self._tags_of(metric, label), self._metrics[metric.name]
        if not isinstance(shown, Counter):
            shown.set(number, tags=tags)
            return
        increase = number - self._totals.get((metric.name, label), 0.0)
        if increase > 0.0:
            shown.inc(increase, tags=tags)
            self._totals[metric.name, label] = number

    def _tags_of(self, metric: Metric, label: str) -> dict[str, str]:
        return self._tags if metric.tag is None else {**self._tags, metric.tag: label}


def _plain(value: Any) -> Any:
    """The value as JSON holds it: numbers of numpy become Python's, those not finite None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
