"""Starting a run: its folder, data, Redis and Ray, and everything closed again at the end."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causeway.cluster.checkpoint import (
    FOLDER_NAME,
    Checkpoint,
    has_checkpoints,
    load_latest,
)
from causeway.cluster.checkpoint_copies import fetch_latest, has_copies
from causeway.cluster.collect_data import collect_data, has_data
from causeway.cluster.config import CONFIG_NAME, RunConfig, load_run_config, save_run_config
from causeway.cluster.config_io import ConfigError
from causeway.cluster.progress import ProgressView
from causeway.cluster.recorder import RESULTS_NAME, Recorder
from causeway.cluster.streams import check_same_data


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: Path
    finished: bool
    interrupted: bool  # by Ctrl-C; SIGTERM and `causeway stop` are orders, which were obeyed
    report: Path | None  # None: stopped before there was anything to report


def new_run(config: RunConfig) -> tuple[RunConfig, Path]:
    """The configuration with its name settled, and the new run's folder, which it writes.

    Raises:
        ConfigError: a run of the given name exists.
    """
    name, number = config.name, 1
    while _is_used(Path(config.run.folder) / name):
        if config.run.name is not None:
            folder = Path(config.run.folder) / name
            raise ConfigError(
                f"run.name {name!r} is taken: {folder} holds a run. Continue it with "
                f"'causeway resume {folder}', or choose another name with --run.name"
            )
        number += 1
        name = f"{config.name}-{number}"
    config = _named(config, name)
    save_run_config(config, config.folder)
    return config, config.folder


def continued_run(folder: Path, added: Sequence[Path], overrides: Sequence[str]) -> RunConfig:
    """The configuration of a run that goes on from another's weights, with more tasks.

    It has the other's configuration, a name of its own, and the added data sets beside the old one.

    Args:
        folder: the finished run's.
        added: folders of data sets of the same family.
        overrides: as on the command line.

    Raises:
        ConfigError: this is not the folder of a run, or it has no checkpoint.
    """
    old, checkpoint, _ = existing_run(folder)
    if checkpoint is None:
        raise ConfigError(
            f"{folder} must have a checkpoint to go on from, it has none: the run ended before its "
            f"first; 'causeway resume {folder}' goes on with it"
        )
    config, saved = (load_run_config(folder / CONFIG_NAME, given) for given in (overrides, ()))
    run = dataclasses.replace(config.run, start_from=str(folder.resolve()))
    if run.name == saved.run.name:
        run = dataclasses.replace(run, name=f"{old.name}-continued")
    if run.folder == saved.run.folder:
        run = dataclasses.replace(run, folder=old.run.folder)  # it may have been moved since
    paths = (*config.data.added_paths, *(str(path) for path in added))
    return config.replace(run=run, data=dataclasses.replace(config.data, added_paths=paths))


def evaluated_otherwise(config: RunConfig, folder: Path, overrides: Sequence[str]) -> RunConfig:
    """A run's configuration with other settings of its section `evaluation`.

    Raises:
        ConfigError: an override is not valid, or of another section: the run is what it is.
    """
    others = [
        word for word in overrides if word.startswith("--") and not word.startswith("--evaluation.")
    ]
    if others:
        raise ConfigError(
            "evaluating a run can override its section evaluation alone, such as "
            f"--evaluation.episodes, got {others[0]}: train another run for that"
        )
    given = load_run_config(folder / CONFIG_NAME, overrides)
    return config.replace(evaluation=given.evaluation)


def existing_run(folder: Path) -> tuple[RunConfig, Checkpoint | None, list[str]]:
    """A run's configuration, its newest whole checkpoint, and what was wrong with newer ones.

    There is no checkpoint where the run ended before its first; it then goes on from nothing.

    Raises:
        ConfigError: this is not the folder of a run, or not under the run's name.
        CheckpointError: it has checkpoints but none that can be used.
    """
    config = run_in(folder)
    return config, *newest_checkpoint(config)


def trained_run(folder: Path, *, to_be: str) -> tuple[RunConfig, Checkpoint]:
    """A run's configuration and its newest whole checkpoint.

    Args:
        folder: the run's.
        to_be: what the checkpoint is for, such as "evaluated".

    Raises:
        ConfigError: as `existing_run`, or the run has no checkpoint yet.
        CheckpointError: it has checkpoints but none that can be used.
    """
    config, checkpoint, _ = existing_run(folder)
    if checkpoint is None:
        raise ConfigError(
            f"{folder} must have a checkpoint to be {to_be}, it has none: the run ended before its "
            f"first; 'causeway resume {folder}' goes on with it"
        )
    return config, checkpoint


def newest_checkpoint(config: RunConfig) -> tuple[Checkpoint | None, list[str]]:
    """A run's newest whole checkpoint if it has any, and what was wrong with newer ones.

    Where its folder has lost them, the newest copy is fetched, if there are copies.

    Raises:
        CheckpointError: it has checkpoints but none that can be used.
    """
    faults: list[str] = []
    if not has_checkpoints(config.folder):
        if config.checkpoint_copies is None or not has_copies(config.checkpoint_copies):
            return None, []
        faults = fetch_latest(config.checkpoint_copies, config.folder)
    checkpoint, local_faults = load_latest(config.folder)
    return checkpoint, [*faults, *local_faults]


def run_in(folder: Path) -> RunConfig:
    """The configuration of the run whose folder this is, with the place where it is now.

    Raises:
        ConfigError: this is not the folder of a run, or not under the run's name.
    """
    path = folder / CONFIG_NAME
    if not path.exists():
        raise ConfigError(
            f"{folder} must be the folder of a run, but {CONFIG_NAME} is not there: "
            "give the folder that 'causeway train' has named"
        )
    config = load_run_config(path)
    here = folder.resolve()  # it may have been moved since
    if here.name != config.name:
        raise ConfigError(
            f"{folder} holds the run {config.name!r} and must be called so, got {here.name!r}: "
            "the run's ledger is kept under its name; rename the folder back"
        )
    return config.replace(run=dataclasses.replace(config.run, folder=str(here.parent)))


def launch(config: RunConfig, checkpoint: Checkpoint | None, view: ProgressView) -> Outcome:
    """Runs until the end or until interrupted; writes the report of whatever there is."""
    folder = config.folder
    if not has_data(config.data.path):
        view.update(phase="collecting data", unit="tasks")
        collect_data(
            config.data,
            overwrite=False,
            progress=lambda done, total: view.update(completed=done, total=total),
        )
    if checkpoint is not None:
        check_same_data(config, checkpoint.state["run"]["stream"])
    view.update(phase="starting", note=str(folder))
    recorder = Recorder(config, folder, view)
    try:
        started = _serial if config.run.serial else _distributed
        with started(config, folder, recorder, checkpoint) as (run, stop):
            finished = run.run(lambda: stop.is_set)
            interrupted = not finished and stop.name == signal.SIGINT.name
    finally:
        recorder.close()
    report = None
    if finished or (folder / "evaluations.json").exists():
        from causeway.cluster.report.build import build_report

        report = build_report(folder)
    return Outcome(folder=folder, finished=finished, interrupted=interrupted, report=report)


@contextlib.contextmanager
def _serial(
    config: RunConfig, folder: Path, recorder: Recorder, checkpoint: Checkpoint | None
) -> Iterator[Any]:
    from causeway.cluster.ray_local import StopSignal
    from causeway.cluster.serial import SerialRun

    with StopSignal(signal.SIGINT, signal.SIGTERM) as stop:
        run = SerialRun(config, folder, recorder, checkpoint)
        try:
            yield run, stop
        finally:
            run.close()


@contextlib.contextmanager
def _distributed(
    config: RunConfig, folder: Path, recorder: Recorder, checkpoint: Checkpoint | None
) -> Iterator[Any]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the workers of a local Ray
    from causeway.cluster.metrics import RayMetrics
    from causeway.cluster.ray_local import StopSignal, ray_session
    from causeway.cluster.services import run_services
    from causeway.cluster.supervise import SupervisedRun

    with (
        run_services(config, folder) as services,
        ray_session(config.ray) as dashboard,
        StopSignal(signal.SIGINT, signal.SIGTERM) as stop,
    ):
        if dashboard is not None:
            recorder.note(f"Ray dashboard: {dashboard}")
        recorder.listeners.append(RayMetrics(config.name).record)
        run = SupervisedRun(config, folder, recorder, services, checkpoint)
        try:
            yield run, stop
        finally:
            run.close()


def has_run(config: RunConfig) -> bool:
    """Whether there is a run of the configuration's name, begun by it or by another one."""
    return (config.folder / CONFIG_NAME).exists()


def _is_used(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG_NAME, FOLDER_NAME, RESULTS_NAME))


def _named(config: RunConfig, name: str) -> RunConfig:
    return config.replace(run=dataclasses.replace(config.run, name=name))
