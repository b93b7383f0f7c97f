"""Grafana's dashboard of runs, made from the catalogue of metrics.

    python -m causeway.cluster.dashboard > deploy/grafana/causeway.json

Each series of Ray's carries the worker that exported it, another one after each restart, so every
expression aggregates over workers.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any

from causeway.cluster.metrics import CATALOGUE, Metric

PREFIX = "ray_"
RUN = '{run=~"$run"}'
WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # of a panel in Grafana's grid of 24, and panels in a row
UNITS = {
    "s": "s",
    "bytes": "bytes",
    "1": "none",
    "updates/s": "ops",
    "steps/s": "ops",
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture: what it shows, of which metrics, in how wide a window a rate is taken."""

    title: str
    metrics: tuple[str, ...]
    window: str | None = None  # of a counter: its increase over so long; None: its total


ROWS: dict[str, tuple[Panel, ...]] = {
    "Training": (
        Panel(title="Updates per second", metrics=("causeway_updates_per_s",)),
        Panel(title="Losses", metrics=("causeway_losses",)),
        Panel(title="Watched values", metrics=("causeway_watched",)),
        Panel(title="Returns on held-out tasks", metrics=("causeway_returns",)),
        Panel(title="Error of the labels", metrics=("causeway_label_error",)),
        Panel(title="Updates", metrics=("causeway_updates",)),
    ),
    "Collection": (
        Panel(title="Environment steps per second", metrics=("causeway_env_steps_per_s",)),
        Panel(title="Collectors", metrics=("causeway_collectors", "causeway_collectors_wanted")),
        Panel(title="Staleness", metrics=("causeway_staleness",)),
        Panel(
            title="Shares of the data", metrics=("causeway_online_share", "causeway_data_coverage")
        ),
        Panel(title="Environment steps", metrics=("causeway_env_steps",)),
        Panel(title="Shards committed", metrics=("causeway_shards_committed",)),
    ),
    "Health": (
        Panel(
            title="Collectors lost and replaced in five minutes",
            metrics=("causeway_deaths", "causeway_restarts"),
            window="5m",
        ),
        Panel(
            title="Shards given up in five minutes",
            metrics=("causeway_shards_dropped",),
            window="5m",
        ),
        Panel(title="Queues", metrics=("causeway_queue_depth",)),
        Panel(title="Redis away", metrics=("causeway_redis_away_s",)),
        Panel(title="Commits that wait for Redis", metrics=("causeway_spooled",)),
        Panel(title="Files quarantined", metrics=("causeway_quarantined",)),
        Panel(title="Free space", metrics=("causeway_free_disk_bytes",)),
    ),
}


def expression(metric: Metric, window: str | None) -> str:
    """What Prometheus is asked for a metric."""
    labels = "run" if metric.tag is None else f"run, {metric.tag}"
    if metric.kind == "gauge":
        return f"max by ({labels}) ({PREFIX}{metric.name}{RUN})"
    series = f"{PREFIX}{metric.name}_total{RUN}"
    if window is not None:
        series = f"increase({series}[{window}])"
    return f"sum by ({labels}) ({series})"


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    by_name = {metric.name: metric for metric in CATALOGUE}
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"type": "row", "title": title, "gridPos": place, "id": len(panels) + 1})
        top += 1
        for number, panel in enumerate(row):
            x, y = WIDTH * (number % COLUMNS), top + HEIGHT * (number // COLUMNS)
            metrics = [by_name[name] for name in panel.metrics]
            drawn = _panel(panel, metrics, {"h": HEIGHT, "w": WIDTH, "x": x, "y": y})
            panels.append({**drawn, "id": len(panels) + 1})
        top += HEIGHT * -(-len(row) // COLUMNS)
    return {
        "uid": "causeway",
        "title": "Causeway",
        "tags": ["causeway", "ray"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _runs()]},
        "panels": panels,
    }


def _panel(panel: Panel, metrics: list[Metric], place: dict[str, int]) -> dict[str, Any]:
    targets = []
    for letter, metric in zip("ABCD", metrics, strict=False):
        tag = "" if metric.tag is None else f" {{{{{metric.tag}}}}}"
        name = "" if len(metrics) == 1 else " " + metric.field.replace("_", " ")
        targets.append(
            {
                "refId": letter,
                "expr": expression(metric, panel.window),
                "legendFormat": "{{run}}" + name + tag,
                "datasource": {"type": "prometheus", "uid": "$source"},
            }
        )
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": ". ".join(metric.help for metric in metrics) + ".",
        "gridPos": place,
        "datasource": {"type": "prometheus", "uid": "$source"},
        "fieldConfig": {
            "defaults": {"unit": UNITS.get(metrics[0].unit, "short")},
            "overrides": [],
        },
        "targets": targets,
    }


def _datasource() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}


def _runs() -> dict[str, Any]:
    return {
        "name": "run",
        "type": "query",
        "label": "Run",
        "datasource": {"type": "prometheus", "uid": "$source"},
        "query": f"label_values({PREFIX}causeway_updates_total, run)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=1) + "\n")
