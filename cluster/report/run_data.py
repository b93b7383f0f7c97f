"""What a run's folder tells a report: read leniently where a run is young, strictly where it errs.

A run that has only begun has no results yet, and one that was killed may have half a last line of
metrics: a report of it is still worth reading. A file that is damaged otherwise is named.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from causeway.actors.summary import Summary

RESULTS, EVALUATIONS, METRICS = "results.json", "evaluations.json", "metrics.jsonl"
CONFIG = "config.yaml"


class ReportError(ValueError):
    """A run's folder that no report can be made of; its one argument says why."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The files of a run, parsed."""

    folder: Path
    results: Mapping[str, Any]
    evaluations: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    config_text: str
    missing: tuple[str, ...]  # names of the files that are not there

    @property
    def title(self) -> str:
        """What was run, in a few words."""
        algorithm, family = self.results.get("algorithm"), self.results.get("family")
        return f"{algorithm} on {family}" if algorithm and family else self.folder.name

    def summary(self, stage: str | None, name: str) -> Summary | None:
        """A number of the results: of a stage (`offline`, `online`) or of the whole run."""
        results = self.results if stage is None else self.results.get(stage) or {}
        return read_summary(results.get(name))

    def evaluation(self, stage: str, kind: Literal["online", "offline"]) -> Mapping[str, Any]:
        """The evaluation after a stage under that kind of protocol; empty where there is none."""
        found = (self.evaluations.get("stages") or {}).get(stage) or {}
        return next((value for name, value in found.items() if name.startswith(kind)), None) or {}

    def shift(self, stage: str) -> Mapping[str, float]:
        """How far the beliefs lie from each other after a stage, in nats."""
        return ((self.evaluations.get("stages") or {}).get(stage) or {}).get("shift") or {}


def read_run(folder: Path) -> RunData:
    """The run in a folder.

    Raises:
        ReportError: there is no such folder, none of a run's files is in it, or one is damaged.
    """
    if not folder.is_dir():
        raise ReportError(f"{folder} must be the folder of a run; there is no such folder")
    names = (RESULTS, EVALUATIONS, METRICS, CONFIG)
    missing = tuple(name for name in names if not (folder / name).is_file())
    if len(missing) == len(names):
        raise ReportError(
            f"{folder} must be the folder of a run; it holds none of {', '.join(names)}"
        )
    config = folder / CONFIG
    return RunData(
        folder=folder,
        results=read_object(folder / RESULTS),
        evaluations=read_object(folder / EVALUATIONS),
        metrics=_read_lines(folder / METRICS),
        config_text=config.read_text(encoding="utf-8") if config.is_file() else "",
        missing=missing,
    )


def read_summary(value: Any) -> Summary | None:
    """A number with its interval, as results hold it; a bare number has no interval."""
    if isinstance(value, Mapping) and _is_number(value.get("mean")):
        half_width: Any = value.get("ci95")
        return Summary(
            mean=float(value["mean"]),
            ci95=float(half_width) if _is_number(half_width) else None,
            per_task=tuple(float(one) for one in value.get("per_task") or ()),
        )
    if _is_number(value):
        return Summary(mean=float(value), ci95=None, per_task=())
    return None


def series(
    metrics: tuple[Mapping[str, Any], ...], x: str, *path: str, max_points: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """A metric over another, thinned to means of neighbours; rows that lack either are left out.

    Args:
        metrics: the rows.
        x: the name of the horizontal axis, such as `updates`.
        path: the name of the metric, key by key, such as `losses`, `critic`.
        max_points: more are averaged in groups.
    """
    found = []
    for row in metrics:
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if _is_number(row.get(x)) and _is_number(value):
            found.append((float(row[x]), float(value)))
    if not found:
        return np.zeros(0), np.zeros(0)
    groups = np.array_split(np.array(found), min(len(found), max_points))
    means = np.array([group.mean(axis=0) for group in groups])
    return means[:, 0], means[:, 1]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_object(path: Path) -> Mapping[str, Any]:
    """The object in a file of JSON; empty where there is no file.

    Raises:
        ReportError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{path} must be JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise ReportError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def _read_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The rows of a file of JSON lines; half a last line, of a run that was killed, is left out."""
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError as error:
            if number == len(lines):
                break
            raise ReportError(f"{path}, line {number}, must be JSON: {error}") from None
        if not isinstance(row, Mapping):
            raise ReportError(f"{path}, line {number}, must hold a JSON object, got {line[:40]!r}")
        rows.append(row)
    return tuple(rows)
