"""Minari's data sets as they lie in its local storage, in HDF5.

    <data set>/data/main_data.hdf5    episode_<i>/{observations,actions,rewards,terminations,
                                      truncations}, with observations one longer than the rest
    <data set>/data/metadata.json     total_episodes, total_steps, data_format and the spaces

Written by Minari 0.5; its package is not needed. Composite observations are groups of arrays:
which of them to take, and in what order, is asked for. Images, text and discrete actions are
refused.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Shaped

from causeway.datasets.importers.foreign import (
    ForeignEpisode,
    ForeignTask,
    Format,
    Notes,
    ReadOptions,
    check_length,
    count,
    refused,
)
from causeway.datasets.importers.hdf5 import (
    Hdf5Table,
    find,
    find_array,
    find_group,
    members,
    opened,
    read_count,
)
from causeway.datasets.importers.places import tasks_at
from causeway.datasets.importers.tables import flag_rows

MAIN_FILE, METADATA = "main_data.hdf5", "metadata.json"
NAMES = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_observation": "observations",
}
FLAGS = ("terminations", "truncations")


def find_tasks(place: str) -> tuple[ForeignTask, ...]:
    """The one task of a data set, or one for each of several."""
    return tasks_at(place, _is_data_set, f"a Minari data set, with data/{METADATA}")


def _folder(path: Path) -> Path:
    """Where the files of a data set are."""
    return path if (path / METADATA).is_file() else path / "data"


def _is_data_set(path: Path) -> bool:
    return (_folder(path) / METADATA).is_file()


def read(task: ForeignTask, options: ReadOptions, notes: Notes) -> Iterator[ForeignEpisode]:
    """A task's episodes, by number."""
    folder = _folder(task.place)
    stated = _read_metadata(folder / METADATA)
    path = folder / MAIN_FILE
    if not path.is_file():
        raise refused(path, f"must be there, {METADATA} says so")
    for key in ("dataset_id", "minari_version"):
        if isinstance(stated.get(key), str):
            notes[f"file.{key}"] = stated[key]
    with opened(path) as file:
        episodes = _episode_names(file, path, stated)
        steps = 0
        for number, name in enumerate(episodes, 1):
            found = _read_episode(file, name, path, options, notes, number / len(episodes))
            steps += len(found.rows)
            yield found
    if "total_steps" in stated and steps != stated["total_steps"]:
        what = f"must hold the {stated['total_steps']} steps that {METADATA} states, got {steps}"
        raise refused(path, what)


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        stated = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise refused(path, f"must be JSON, but reading it failed: {error}") from error
    if not isinstance(stated, dict):
        raise refused(path, f"must be an object, got {type(stated).__name__}")
    if (kind := stated.get("data_format", "hdf5")) != "hdf5":
        what = f"data_format must be hdf5, got {str(kind)[:40]!r}: save it with that format first"
        raise refused(path, what)
    return stated


def _episode_names(file: h5py.File, path: Path, stated: dict[str, Any]) -> list[str]:
    """The episodes' groups in the order of their numbers, none missing."""
    there = members(file, path)
    names = [f"episode_{i}" for i in range(len(there))]
    if not there or set(there) != set(names):
        what = f"must hold groups episode_0, episode_1, ..., got {', '.join(there[:10]) or 'none'}"
        raise refused(path, what)
    total = stated.get("total_episodes", len(names))
    if total != len(names):
        raise refused(
            path, f"must hold the {total} episodes that {METADATA} states, got {len(names)}"
        )
    return names


def _read_episode(
    file: h5py.File, name: str, path: Path, options: ReadOptions, notes: Notes, share: float
) -> ForeignEpisode:
    columns = {column: f"{name}/{column}" for column in ("actions", "rewards", *FLAGS)}
    table = Hdf5Table(file, path, list(columns.values()))
    length = table.num_rows
    stated = read_count(find_group(file, name, path), "total_steps", path)
    if stated is not None and stated != length:
        raise refused(path, f"must have the {stated} steps it states, got {length}", column=name)
    check_length(f"{path}, {name}", length, options.horizon, row=0)
    keys = _observation_columns(file, f"{name}/observations", path, options.observation_keys)
    observations = _observations(file, keys, path, length)
    ends = [_is_marked(table, columns[flag]) for flag in FLAGS]
    if not any(ends):
        count(notes, "episodes_cut_off", 1)
        ends[1] = True
    return ForeignEpisode(
        file=str(path),
        rows=range(length),
        names={field: f"{name}/{column}" for field, column in NAMES.items()},
        share=share,
        observation=observations[:-1],
        action=table.read(columns["actions"], 0, length),
        reward=table.read(columns["rewards"], 0, length),
        next_observation=observations[1:],
        terminated=ends[0],
        truncated=ends[1],
    )


def _observation_columns(
    file: h5py.File, name: str, path: Path, keys: tuple[str, ...]
) -> list[str]:
    """The arrays that an observation is made of, in order."""
    found = find(file, name, path)
    if isinstance(found, h5py.Group) and not keys:
        parts = ", ".join(members(found, path))
        what = f"is made of several arrays: name those to take, of {parts}, as --observation-keys"
        raise refused(path, what, column=name)
    if isinstance(found, h5py.Dataset) and keys:
        what = f"must be a group to take {', '.join(keys)} from, it is one array"
        raise refused(path, what, column=name)
    return [f"{name}/{key}" for key in keys] or [name]


def _observations(
    file: h5py.File, names: list[str], path: Path, length: int
) -> Shaped[np.ndarray, "T+1 O"]:
    """The observations, those of a composite one side by side."""
    for name in names:
        shape = find_array(file, name, path).shape
        if len(shape) != 2 or shape[0] != length + 1:
            what = f"must have shape [{length + 1}, size], one row more than steps, got {shape}"
            raise refused(path, what, column=name)
    table = Hdf5Table(file, path, names)
    return np.concatenate([table.read(name, 0, length + 1) for name in names], axis=1)


def _is_marked(table: Hdf5Table, flag: str) -> bool:
    """Whether an episode's last step is marked, and no other."""
    marked = flag_rows(table, flag)
    if len(marked) and marked[0] < table.num_rows - 1:
        what = "must be false before an episode's last step, got true"
        raise refused(table.file, what, column=flag, row=int(marked[0]))
    return bool(len(marked))


MINARI = Format(
    name="minari",
    layout="a data set of Minari's local storage (HDF5); .../name-{task}-v0 for several tasks",
    find_tasks=find_tasks,
    read=read,
    rules={
        "ends": "as terminations and truncations say; an episode with neither is cut off, and "
        "truncated",
        "next_observation": "the observation of the next row; there is one row more than steps",
    },
    by_horizon=False,
    continuous=False,
    options=frozenset({"observation_keys"}),
)
