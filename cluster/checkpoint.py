"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

`RUN/checkpoints/update-00001000/` holds `tensors.safetensors`, `state.json` and `manifest.json`
with the sha256 of both. Nothing in it is code, so a file from anywhere can be read safely.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

FORMAT_VERSION = 1
FOLDER_NAME = "checkpoints"
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged or of another format, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds: tensors by name, and everything else in JSON's types."""

    path: Path
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    run_folder: Path,
    updates: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Writes a checkpoint and deletes all but the newest `keep`; gives its folder.

    A crash at any moment leaves the older ones as they were. The same number of updates again
    replaces its folder.
    """
    parent = run_folder / FOLDER_NAME
    final = parent / f"update-{updates:08d}"
    temporary = parent / f".partial-{updates:08d}-{os.getpid()}"
    for left_over in parent.glob(".partial-*"):  # by a crash: only one process writes here
        shutil.rmtree(left_over, ignore_errors=True)
    temporary.mkdir(parents=True)
    contents = {
        TENSORS: save_tensors(dict(tensors)),
        STATE: json.dumps(dict(state), sort_keys=True).encode(),
    }
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = {"format": FORMAT_VERSION, "updates": updates, "sha256": sums}
    contents[MANIFEST] = json.dumps(manifest, indent=2).encode()
    for name, content in contents.items():
        _write_synced(temporary / name, content)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync_folder(parent)
    for old in _folders(run_folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads one checkpoint, its sums checked.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    manifest = _read_json(path / MANIFEST)
    if manifest.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path / MANIFEST} must have format {FORMAT_VERSION}, got {manifest.get('format')}: "
            "it was written by another version of causeway; resume with that one"
        )
    sums, contents = manifest.get("sha256"), {}
    if not isinstance(sums, dict) or sorted(sums) != [STATE, TENSORS]:
        raise CheckpointError(
            f"{path / MANIFEST} must give sha256 of {STATE} and {TENSORS}, got {sums!r}: it was "
            "damaged; delete this checkpoint's folder to fall back on the one before"
        )
    for name, expected in sums.items():
        contents[name] = _read(path / name)
        actual = hashlib.sha256(contents[name]).hexdigest()
        if actual != expected:
            raise CheckpointError(
                f"{path / name} must have sha256 {expected}, got {actual}: it was damaged; "
                "delete this checkpoint's folder to fall back on the one before"
            )
    return Checkpoint(
        path=path, tensors=load_tensors(contents[TENSORS]), state=json.loads(contents[STATE])
    )


def has_checkpoints(run_folder: Path) -> bool:
    """Whether the run has written any, whole or not."""
    return bool(_folders(run_folder))


def load_latest(run_folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones.

    Raises:
        CheckpointError: the run has none that can be used.
    """
    faults: list[str] = []
    for folder in reversed(_folders(run_folder)):
        try:
            return load_checkpoint(folder), faults
        except CheckpointError as error:
            faults.append(str(error))
    raise CheckpointError(
        f"{run_folder} has no usable checkpoint ({'; '.join(faults) or 'none was written'}): "
        "start the run again with causeway train"
    )


def _folders(run_folder: Path) -> list[Path]:
    return sorted((run_folder / FOLDER_NAME).glob("update-*"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} must be readable, but {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise CheckpointError(f"{path} must be JSON, but {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} must hold a mapping, got {type(found).__name__}")
    return found


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
