"""A run at work inside RLlib's process: what is opened for it, and closed again in order."""

import contextlib
import dataclasses
import itertools
import math
import os
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock

from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.collect_data import collect_data, has_data
from causeway.cluster.config import DataSection, RunConfig
from causeway.cluster.dispatch import DistributedRun
from causeway.cluster.launch import new_run
from causeway.cluster.metrics import RayMetrics
from causeway.cluster.ray_local import start_ray
from causeway.cluster.recorder import RETURNS, Recorder
from causeway.cluster.services import run_services


class LiveRun:
    """A distributed run with its Redis and its recorder, on the Ray that is up.

    Args:
        config: of the run, its folder made.
        checkpoint: where to go on from; None begins.
    """

    def __init__(self, config: RunConfig, checkpoint: Checkpoint | None) -> None:
        self.config, self.folder = config, config.folder
        _ensure_data(config.data)
        with contextlib.ExitStack() as stack:
            self.recorder = Recorder(config, self.folder, None)
            self.recorder.listeners.append(RayMetrics(config.name).record)
            stack.callback(self.recorder.close)
            services = stack.enter_context(run_services(config, self.folder))
            self._control = services.control
            self.run = DistributedRun(config, self.folder, self.recorder, services, checkpoint)
            stack.callback(self._close_run)
            self._stack = stack.pop_all()

    def step(self) -> None:
        """One round of the run; at its end, its last checkpoint and its results."""
        self.run.step()
        if self.run.finished:
            self.run.finish()

    def is_over(self) -> bool:
        """Whether the run is finished, or was asked to stop from outside; then it is saved."""
        if self.run.finished:
            return True
        if self._control.commands().stop is None:
            return False
        self.run.save()
        return True

    def figures(self) -> dict[str, Any]:
        """Where the run stands: the last row of its metrics, and the last returns."""
        schedule = self.run.schedule
        return {
            **self.recorder.row,
            "returns": dict.fromkeys(RETURNS, math.nan),  # from the start: Tune wants a metric
            **self.recorder.judged,
            "stage": "finished" if schedule.finished else schedule.stage.name,
            "updates": schedule.position.updates,
            "env_steps": schedule.position.env_steps,
        }

    def close(self) -> None:
        """Ends the actors, then Redis, then the files."""
        self._stack.close()

    def _close_run(self) -> None:
        if ray.is_initialized():  # otherwise whoever has ended Ray has ended the actors too
            self.run.close()


def join_ray(config: RunConfig) -> tuple[RunConfig, bool]:
    """The run's configuration on the Ray that is up, which is started if there is none.

    Returns:
        The configuration, which says so where Ray has several nodes, and whether Ray was started.
    """
    if not ray.is_initialized():
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the workers of a local Ray
        start_ray(config.ray)
        return config, True
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    if config.ray.is_local and sum(node["Alive"] for node in nodes) > 1:
        config = config.replace(ray=dataclasses.replace(config.ray, address="auto"))
    return config, False


def fresh_run(config: RunConfig, suffix: str) -> RunConfig:
    """The configuration under a name that no run has yet; the run's folder is made.

    Args:
        config: whose name is taken, with a number behind it where there is such a run.
        suffix: is put behind the name first, so that trials of a sweep do not meet.
    """
    name = config.name + suffix
    for number in itertools.count(1):
        named = name if number == 1 else f"{name}-{number}"
        if not (Path(config.run.folder) / named).exists():
            break
    config, _ = new_run(config.replace(run=dataclasses.replace(config.run, name=named)))
    return config


def _ensure_data(config: DataSection) -> None:
    """Collects the data set if it is absent; one of several trials does it, the others wait."""
    if has_data(config.path):
        return
    lock: Any = contextlib.nullcontext()
    if "://" not in config.path:
        place = Path(config.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.parent / f".{place.name}.lock")
    with lock:
        if not has_data(config.path):
            collect_data(config, overwrite=False, progress=lambda done, total: None)
