"""D4RL's data sets: one HDF5 file of flat arrays (Fu et al. 2020, arXiv:2004.07219).

    observations [rows, O]   actions [rows, A]   rewards, terminals [rows]
    timeouts [rows]            absent in the oldest files
    next_observations [rows, O]    absent in most files

`infos` and `metadata` are not read. A true end (`terminals`) and a time limit (`timeouts`) are told
apart. Without `next_observations`, a row's next observation is the observation of the row behind
it, and the last row of an episode has none: what stands behind it is another episode's beginning.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int64

from causeway.datasets.importers.foreign import (
    ForeignEpisode,
    ForeignTask,
    Format,
    Notes,
    ReadOptions,
    count,
    refused,
)
from causeway.datasets.importers.hdf5 import Hdf5Table, find, is_hdf5, members, opened
from causeway.datasets.importers.places import tasks_at
from causeway.datasets.importers.tables import Piece, flag_rows, iterate_pieces

NAMES = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_observation": "next_observations",
}
TERMINALS, TIMEOUTS = "terminals", "timeouts"
OPTIONAL = (TIMEOUTS, NAMES["next_observation"])
GROUPS = ("infos", "metadata")  # not read


def find_tasks(place: str) -> tuple[ForeignTask, ...]:
    """The one task of a file, or one for each of several files."""
    return tasks_at(place, is_hdf5, "an HDF5 file of D4RL's layout")


def read(task: ForeignTask, options: ReadOptions, notes: Notes) -> Iterator[ForeignEpisode]:
    """A task's episodes, in the order of the rows."""
    with opened(task.place) as file:
        there = members(file, task.place)
        _refuse_strange(file, there, task.place)
        names = dict(NAMES)
        if NAMES["next_observation"] not in there:
            names["next_observation"] = NAMES["observation"]
        marks = [TERMINALS, *([TIMEOUTS] if TIMEOUTS in there else [])]
        table = Hdf5Table(file, task.place, [*dict.fromkeys(names.values()), *marks])
        pieces = _pieces(table, options.horizon, notes, has_timeouts=TIMEOUTS in there)
        for episode in iterate_pieces(table, names, pieces, horizon=options.horizon):
            if NAMES["next_observation"] in there:
                yield episode
            else:
                yield from _with_following(episode, names, notes)


def _refuse_strange(file: h5py.File, there: list[str], path: Path) -> None:
    """Refuses a file that lacks an array which it may lack, and has one of a strange name.

    A name that is damaged or misspelt would otherwise bring another rule into force without a word.
    """
    lacking = [name for name in OPTIONAL if name not in there]
    known = {*NAMES.values(), *OPTIONAL, TERMINALS, *GROUPS}
    for name in there:
        if lacking and name not in known and not isinstance(find(file, name, path), h5py.Group):
            what = (
                f"is no array of D4RL's, while {' and '.join(lacking)} may be missing: if it is "
                "one of them, give it its name back; else delete it from a copy of the file"
            )
            raise refused(path, what, column=name)


def _pieces(table: Hdf5Table, horizon: int, notes: Notes, *, has_timeouts: bool) -> list[Piece]:
    terminals = flag_rows(table, TERMINALS)
    timeouts = flag_rows(table, TIMEOUTS) if has_timeouts else np.zeros(0, np.int64)
    ends = np.union1d(terminals, timeouts) + 1
    if len(ends) == 0 or ends[-1] < table.num_rows:
        ends = np.append(ends, table.num_rows)
    if not has_timeouts:
        ends = _cut_at_horizon(ends, horizon)
    begins = np.concatenate([[0], ends[:-1]])
    terminated = np.isin(ends - 1, terminals)
    truncated = np.isin(ends - 1, timeouts)
    cut_off = ~terminated & ~truncated
    if not has_timeouts:
        cut_off &= ends - begins < horizon
    count(notes, "episodes_cut_off", int(cut_off.sum()))
    truncated |= ~terminated
    columns = (column.tolist() for column in (begins, ends, terminated, truncated))
    return [Piece(*values) for values in zip(*columns, strict=True)]


def _cut_at_horizon(ends: Int64[np.ndarray, "e"], horizon: int) -> Int64[np.ndarray, "c"]:
    """The ends, and one after each `horizon` steps between them."""
    begins = np.concatenate([[0], ends[:-1]])
    cuts = [np.arange(a + horizon, b, horizon) for a, b in zip(begins, ends, strict=True)]
    return np.union1d(np.concatenate([np.zeros(0, np.int64), *cuts]), ends)


def _with_following(
    episode: ForeignEpisode, names: Mapping[str, str], notes: Notes
) -> Iterator[ForeignEpisode]:
    """The episode with next observations taken from the following rows."""
    following = episode.observation[1:]
    if episode.terminated:
        count(notes, "last_next_observations_repeated", 1)
        following = np.concatenate([following, episode.observation[-1:]])
        yield replace(episode, next_observation=following)
        return
    count(notes, "last_steps_dropped", 1)
    if len(following):
        shorter = {field: getattr(episode, field)[:-1] for field in names}
        shorter["next_observation"] = following
        yield replace(episode, rows=episode.rows[:-1], **shorter)


D4RL = Format(
    name="d4rl",
    layout="an HDF5 file of flat arrays; .../name-{task}.hdf5 for several tasks",
    find_tasks=find_tasks,
    read=read,
    rules={
        "ends": "terminals end an episode for good, timeouts truncate it; rows behind the last "
        "mark are an episode cut off, and truncated",
        "timeouts": "in a file without them, an episode is truncated after horizon steps",
        "next_observation": "in a file without them, the observation of the next row; a truncated "
        "episode loses its last step, which has none, and a terminated one keeps it with its own "
        "observation instead, past which nothing is bootstrapped",
    },
    by_horizon=False,
    continuous=False,
)
