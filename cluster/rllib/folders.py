"""A run's checkpoint as a folder that stands alone: Tune moves it to wherever a trial goes on.

It is laid out as a run's folder and holds the part of it that going on needs: the configuration,
one checkpoint, the labelled rollouts, and what was measured so far. JSON, YAML, safetensors and
Parquet: nothing in it is code, so a folder from anywhere can be read safely.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from causeway.cluster.checkpoint import FOLDER_NAME, Checkpoint, CheckpointError, load_latest
from causeway.cluster.config import CONFIG_NAME
from causeway.cluster.naming import ONLINE_NAME
from causeway.cluster.recorder import EVALUATIONS_NAME, METRICS_NAME, write_json

STATE_NAME = "rllib.json"
FILES = (METRICS_NAME, EVALUATIONS_NAME)


def pack(run_folder: Path, checkpoint: Path, iteration: int, target: Path) -> None:
    """Copies a run's checkpoint and all that it refers to into the folder `target`.

    What a checkpoint that was there before has left is removed.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in (FOLDER_NAME, ONLINE_NAME):
        shutil.rmtree(target / name, ignore_errors=True)
    shutil.copytree(checkpoint, target / FOLDER_NAME / checkpoint.name)
    if (run_folder / ONLINE_NAME).is_dir():
        shutil.copytree(run_folder / ONLINE_NAME, target / ONLINE_NAME)
    for name in (CONFIG_NAME, *FILES):
        (target / name).unlink(missing_ok=True)
        if (run_folder / name).exists():
            shutil.copyfile(run_folder / name, target / name)
    write_json(target / STATE_NAME, {"training_iteration": iteration})


def read(source: Path) -> tuple[Checkpoint, int]:
    """The checkpoint in a folder that `pack` has written, and RLlib's iteration then.

    Raises:
        CheckpointError: it is no such folder, or it is damaged.
    """
    checkpoint, faults = load_latest(source)
    if faults:
        raise CheckpointError(faults[0])
    try:
        iteration = int(json.loads((source / STATE_NAME).read_text())["training_iteration"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{source / STATE_NAME} must be JSON with training_iteration, but {error!r}: give a "
            "folder that Causeway.save_to_path has written"
        ) from error
    return checkpoint, iteration


def unpack(source: Path, checkpoint: Checkpoint, run_folder: Path) -> Checkpoint:
    """Copies what `pack` has written into a new run's folder; gives the checkpoint there."""
    for name in (FOLDER_NAME, ONLINE_NAME):
        if (source / name).is_dir():
            shutil.copytree(source / name, run_folder / name)
    for name in FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, run_folder / name)
    return replace(checkpoint, path=run_folder / FOLDER_NAME / checkpoint.path.name)
