"""Copies of checkpoints in another place: any that Arrow reaches, such as s3://bucket/runs.

    PLACE/<run>/update-00001000/    the same three files; the manifest is written last

A copy without its manifest is none, so that one which was broken off is never taken for whole.
"""

import shutil
from pathlib import Path

from pyarrow import fs

from causeway.cluster.checkpoint import (
    FOLDER_NAME,
    MANIFEST,
    STATE,
    TENSORS,
    CheckpointError,
    load_checkpoint,
)
from causeway.datasets.locations import Location


def copy_out(checkpoint: Path, place: Location, *, keep: int) -> None:
    """Copies a checkpoint's folder, and deletes all but the newest `keep` copies.

    Args:
        checkpoint: the folder that `save_checkpoint` has given.
        place: of the run's copies.
        keep: how many.

    Raises:
        OSError: the place cannot be written to.
    """
    target = place.child(checkpoint.name)
    target.child(MANIFEST).delete()  # of an earlier copy of as many updates
    for name in (TENSORS, STATE, MANIFEST):
        target.child(name).write((checkpoint / name).read_bytes())
    for name in _names(place)[:-keep]:
        place.child(name).child(MANIFEST).delete()
        place.filesystem.delete_dir(place.child(name).path)


def fetch_latest(place: Location, run_folder: Path) -> list[str]:
    """Brings the newest whole copy into the run's folder; gives what was wrong with newer ones.

    Raises:
        CheckpointError: there is none.
        OSError: the place cannot be read.
    """
    faults: list[str] = []
    for name in reversed(_names(place)):
        partial = run_folder / FOLDER_NAME / f".partial-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            for file in (TENSORS, STATE, MANIFEST):
                (partial / file).write_bytes(place.child(name).child(file).read())
            load_checkpoint(partial)
        except (CheckpointError, FileNotFoundError) as error:
            faults.append(f"copy {place.child(name)}: {error}")
            shutil.rmtree(partial)
            continue
        final = run_folder / FOLDER_NAME / name
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        return faults
    raise CheckpointError(
        f"{place} must hold a whole copy of a checkpoint, it holds none "
        f"({'; '.join(faults) or 'there is nothing'}): start the run again with causeway train"
    )


def has_copies(place: Location) -> bool:
    """Whether there are any, whole or not."""
    return bool(_names(place))


def _names(place: Location) -> list[str]:
    """The copies from the oldest to the newest."""
    selector = fs.FileSelector(place.path, allow_not_found=True)
    infos = place.filesystem.get_file_info(selector)
    return sorted(info.base_name for info in infos if info.base_name.startswith("update-"))
