"""CORRO's and UNICORN's replay buffers: a folder of .npy files for each task.

    seed_<i>_goal_<g>_<g>.../obs.npy, actions.npy, rewards.npy, next_obs.npy, terminals.npy

Yuan and Lu 2022 (arXiv:2206.10442); Li et al. 2024 (arXiv:2402.02429). Arrays are [rows, F], or
[T, N, F] for N trajectories of T steps. Where episodes end is not said. `terminals` marks that a
goal is reached, which need not end an episode, and stays 0 in robots that fall; so episodes are
told apart by where a row's next observation is not the next row's observation, and trajectories of
T steps by their places. An episode that goes on beyond the horizon is refused.
The numbers in a folder's name are the task's parameters, rounded to three decimals.
"""

import re
from collections.abc import Iterator
from pathlib import Path

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
from causeway.datasets.importers.npy import NpyTable
from causeway.datasets.importers.places import task_at, unique
from causeway.datasets.importers.tables import Piece, blocks_of, flag_rows, iterate_pieces

NAMES = {
    "observation": "obs.npy",
    "action": "actions.npy",
    "reward": "rewards.npy",
    "next_observation": "next_obs.npy",
}
FLAGS = "terminals.npy"
_FOLDER = re.compile(r"seed_(\d+)(?:_goal_(.+))?")


def find_tasks(place: str) -> tuple[ForeignTask, ...]:
    """The tasks of a folder's seed_<i>..., with the numbers in their names."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise refused(place, "must be a folder of folders seed_<i>..., but there is no such folder")
    tasks = [
        task_at(int(match[1]), path, _parameters(match[2], path))
        for path in folder.iterdir()
        if path.is_dir() and (match := _FOLDER.fullmatch(path.name))
    ]
    if not tasks:
        raise refused(place, "must hold folders seed_<i>..., there is none")
    return unique(tasks, place)


def _parameters(goal: str | None, folder: Path) -> dict[str, float] | None:
    """The numbers behind `goal_` in a folder's name."""
    if goal is None:
        return None
    try:
        values = [float(number) for number in goal.split("_")]
    except ValueError as error:
        what = f"must have numbers behind goal_ in its name, got {goal!r}: rename it seed_<i>"
        raise refused(folder, what) from error
    return {f"goal_{i}": value for i, value in enumerate(values)}


def read(task: ForeignTask, options: ReadOptions, notes: Notes) -> Iterator[ForeignEpisode]:
    """A task's episodes, in the order of the rows."""
    table = NpyTable(task.place, {**NAMES, "terminals": FLAGS})
    bounds = _find_bounds(table)
    flagged = flag_rows(table, FLAGS)
    if not options.ignore_terminals:
        _check_flags(table, flagged, bounds)
    else:
        count(notes, "terminals_not_read", len(flagged))
        flagged = flagged[:0]
    pieces = _pieces(table, bounds, flagged, options, notes)
    yield from iterate_pieces(table, NAMES, pieces, horizon=options.horizon)


def _find_bounds(table: NpyTable) -> Int64[np.ndarray, "e+1"]:
    """The rows between which episodes lie: where observations break off or a trajectory is over."""
    observation, following = NAMES["observation"], NAMES["next_observation"]
    breaks = [np.zeros(1, np.int64)]
    for begin, end in blocks_of(table.num_rows):
        last = min(end + 1, table.num_rows)  # with the row behind the block
        ahead = table.read(observation, begin + 1, last)
        here = table.read(following, begin, begin + len(ahead))
        if ahead.shape[1] != here.shape[1]:
            what = f"must have {here.shape[1]} features like {following}, got {ahead.shape[1]}"
            raise refused(table.file, what, column=observation)
        breaks.append(np.flatnonzero((ahead != here).any(axis=1)) + begin + 1)
    trajectories = np.arange(0, table.num_rows, table.steps) if table.steps > 1 else breaks[0]
    return np.unique(np.concatenate([*breaks, trajectories, [table.num_rows]]))


def _check_flags(
    table: NpyTable, flagged: Int64[np.ndarray, "n"], bounds: Int64[np.ndarray, "e+1"]
) -> None:
    stray = np.setdiff1d(flagged, bounds[1:] - 1)
    if len(stray):
        what = (
            "must be 0 before an episode's last row, but the next row goes on from this one: where "
            "it marks something else, such as a reached goal, give --ignore-terminals"
        )
        raise refused(table.file, what, column=FLAGS, row=int(stray[0]))


def _pieces(
    table: NpyTable,
    bounds: Int64[np.ndarray, "e+1"],
    flagged: Int64[np.ndarray, "n"],
    options: ReadOptions,
    notes: Notes,
) -> list[Piece]:
    is_flagged = np.isin(bounds[1:] - 1, flagged).tolist()
    lengths = np.diff(bounds).tolist()
    pieces, early = [], 0
    for begin, length, is_end in zip(bounds.tolist(), lengths, is_flagged, strict=False):
        is_early = length < options.horizon and not is_end
        early += is_early
        if is_early and options.early_end is None:
            what = (
                f"must go on for the horizon of {options.horizon} steps or end with {FLAGS} set, "
                f"but the episode stops after {length}: say with --early-end whether such an "
                "episode was terminated (a robot that fell) or truncated (a recording cut off), or "
                "correct --horizon"
            )
            raise refused(table.file, what, row=begin)
        terminated = is_end or (is_early and options.early_end == "terminated")
        pieces.append(Piece(begin, begin + length, terminated, not terminated))
    count(notes, "episodes_ended_early", early)
    return pieces


CORRO = Format(
    name="corro",
    layout="a folder of seed_<i>_goal_<g>/{obs,actions,rewards,next_obs,terminals}.npy",
    find_tasks=find_tasks,
    read=read,
    rules={
        "order": "an episode goes on while a row's next observation is the next row's observation",
        "ends": "an episode is terminated where terminals is set, truncated at the horizon, and "
        "as --early-end says where it stops before",
    },
    by_horizon=True,
    continuous=True,
    options=frozenset({"early_end", "ignore_terminals"}),
)
