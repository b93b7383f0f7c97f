"""FOCAL's trajectories, which oyster's descendants share: a .npy file for each episode.

    goal_idx<i>/trj_evalsample<n>_step<e>.npy    one episode of task i, of sample n at step e of
                                                 training: objects [T, 4], a row for each step of
                                                 observation, action, reward, next observation

Li et al. 2021 (arXiv:2010.01112); written as its authors' code does, by `np.save` of a list. There
is no mark of an end: episodes were played until the environment was done, so one that is shorter
than the horizon ended by itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from causeway.datasets.importers.foreign import (
    ForeignEpisode,
    ForeignTask,
    Format,
    Notes,
    ReadOptions,
    count,
    end_by_horizon,
    refused,
)
from causeway.datasets.importers.object_arrays import Cell, read_object_rows
from causeway.datasets.importers.places import numbered, task_at, unique

NAMES = {
    "observation": "0 (observation)",
    "action": "1 (action)",
    "reward": "2 (reward)",
    "next_observation": "3 (next observation)",
}
_FILE = re.compile(r"trj_evalsample(\d+)_step(\d+)\.npy")


def find_tasks(place: str) -> tuple[ForeignTask, ...]:
    """The tasks of a folder's goal_idx<i>."""
    folders = [(i, path) for i, path in numbered(f"{place}/goal_idx{{task}}") if path.is_dir()]
    if not folders:
        raise refused(place, "must hold folders goal_idx<i>, there is none")
    for _, folder in folders:
        if not _files(folder):
            raise refused(folder, "must hold files trj_evalsample<n>_step<e>.npy, there is none")
    return unique([task_at(i, folder) for i, folder in folders], place)


def read(task: ForeignTask, options: ReadOptions, notes: Notes) -> Iterator[ForeignEpisode]:
    """A task's episodes, in the order of training steps and samples."""
    files = _files(task.place)
    others = sum(path.is_file() for path in task.place.iterdir()) - len(files)
    count(notes, "files_not_read", others)
    for number, path in enumerate(files, 1):
        rows = read_object_rows(path, len(NAMES))
        values = {
            field: _stack([row[i] for row in rows], path, name)
            for i, (field, name) in enumerate(NAMES.items())
        }
        terminated, truncated = end_by_horizon(len(rows), horizon=options.horizon, flagged=True)
        yield ForeignEpisode(
            file=str(path),
            rows=range(len(rows)),
            names=NAMES,
            share=number / len(files),
            terminated=terminated,
            truncated=truncated,
            **values,
        )


def _files(folder: Path) -> list[Path]:
    """The episodes of a task, in the order they were collected."""
    found = [
        (int(match[2]), int(match[1]), path)
        for path in folder.iterdir()
        if (match := _FILE.fullmatch(path.name))
    ]
    return [path for *_, path in sorted(found)]


def _stack(cells: list[Cell], path: Path, column: str) -> Shaped[np.ndarray, "T *F"]:
    """The cells of a column as one array; they must be alike."""
    arrays = [np.asarray(cell) for cell in cells]
    for row, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            what = f"must have the shape of row 0, {arrays[0].shape}, got {array.shape}"
            raise refused(path, what, column=column, row=row)
    return np.stack(arrays)


FOCAL = Format(
    name="focal",
    layout="a folder of goal_idx<i>/trj_evalsample<n>_step<e>.npy",
    find_tasks=find_tasks,
    read=read,
    rules={
        "ends": "nothing is marked: an episode of horizon steps is truncated, a shorter one is "
        "terminated, since each was played until the environment was done",
        "files": "only trj_evalsample files are read; others in the folders are counted",
    },
    by_horizon=True,
    continuous=True,
)
