"""MACAW's replay buffers: an HDF5 file for each task (Mitchell et al. 2021, arXiv:2008.06043).

    obs, next_obs, terminal_obs [rows, O]   actions [rows, A]
    rewards, mc_rewards, terminals, terminal_discounts [rows, 1]   discount_factor: a number

Written as the authors' replay buffer writes it. Two traps: within an episode rows run backwards in
time, from its last step to its first, while episodes follow each other in the order they were
collected; and `terminals` is set at the time limit too.

`terminal_discounts` is discount_factor^(k + 1) where k steps follow in the episode, so it counts
1, 2, 3, ... along an episode's rows and tells where the next one begins. The derived arrays are
not kept, but read and compared with what they are derived from, which finds most damage to rewards
and to the order of rows.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Bool, Int64

from causeway.datasets.importers.foreign import (
    ForeignEpisode,
    ForeignTask,
    Format,
    Notes,
    ReadOptions,
    end_by_horizon,
    refused,
)
from causeway.datasets.importers.hdf5 import Hdf5Table, is_hdf5, opened, read_scalar
from causeway.datasets.importers.places import tasks_at
from causeway.datasets.importers.tables import Piece, blocks_of, flag_rows, iterate_pieces

NAMES = {
    "observation": "obs",
    "action": "actions",
    "reward": "rewards",
    "next_observation": "next_obs",
}
DERIVED = ("terminals", "mc_rewards", "terminal_discounts", "terminal_obs")
ROUNDING = 1e-4  # relative, of sums and powers that were stored as float32


def find_tasks(place: str) -> tuple[ForeignTask, ...]:
    """The tasks of files such as buffers_cheetah_vel_train_{task}_sub_task_0.hdf5."""
    return tasks_at(place, is_hdf5, "an HDF5 file of a task's buffer")


def read(task: ForeignTask, options: ReadOptions, notes: Notes) -> Iterator[ForeignEpisode]:
    """A task's episodes, each turned round to run forwards in time."""
    with opened(task.place) as file:
        table = Hdf5Table(file, task.place, [*NAMES.values(), *DERIVED])
        discount = _discount(file, task.place)
        begins = _find_begins(table, discount)
        _check_derived(table, begins, discount)
        notes["file.discount_factor"] = discount
        pieces = _pieces(table, begins, options.horizon)
        yield from iterate_pieces(table, NAMES, pieces, horizon=options.horizon, backwards=True)


def _discount(file: h5py.File, path: Path) -> float:
    discount = read_scalar(file, "discount_factor", path)
    if not 0.0 < discount < 1.0:
        what = f"must lie in (0, 1), got {discount}: terminal_discounts, its powers, tell the steps"
        raise refused(path, what, column="discount_factor")
    return discount


def _find_begins(table: Hdf5Table, discount: float) -> Int64[np.ndarray, "e"]:
    """The first row of each episode, which is its last step."""
    found, last = [], 0
    for begin, end in blocks_of(table.num_rows):
        values = _column(table, "terminal_discounts", begin, end)
        with np.errstate(divide="ignore", invalid="ignore"):
            exponent = np.log(values) / np.log(discount)
        steps = np.where(np.isfinite(exponent), exponent, 0.0).round()
        expected = np.where(steps == 1, 1, np.concatenate([[last], steps[:-1]]) + 1)
        wrong = (steps != expected) | ~np.isclose(values, discount**steps, rtol=ROUNDING, atol=0.0)
        if wrong.any():
            row = int(wrong.argmax())
            power = int(expected[row])
            what = (
                f"must be discount_factor^{power} = {discount**power:.6g}, or ^1 where an episode "
                f"begins, got {values[row]:.6g}: within an episode rows must run backwards in "
                "time, from its last step to its first, and none may be missing"
            )
            raise refused(table.file, what, column="terminal_discounts", row=begin + row)
        found.append(np.flatnonzero(steps == 1) + begin)
        last = int(steps[-1])
    return np.concatenate(found)


def _check_derived(table: Hdf5Table, begins: Int64[np.ndarray, "e"], discount: float) -> None:
    """Compares returns and last observations with the rewards and observations they are from."""
    is_begin = np.zeros(table.num_rows + 1, bool)
    is_begin[begins] = True
    ahead, final = np.zeros(1), np.zeros(0)  # of the row before this block
    for begin, end in blocks_of(table.num_rows):
        first = is_begin[begin:end]
        returns = _column(table, "mc_rewards", begin, end)
        rewards = _column(table, "rewards", begin, end)
        later = np.concatenate([ahead, returns[:-1]]) * ~first
        expected = rewards + discount * later
        scale = 1.0 + np.abs(rewards) + np.abs(returns)
        close = np.abs(returns - expected) <= ROUNDING * scale
        _require(
            table,
            close,
            "mc_rewards",
            begin,
            "the reward and discount_factor times the return of the row before",
        )
        last_seen = table.read("terminal_obs", begin, end)
        following = table.read("next_obs", begin, end)
        if last_seen.shape != following.shape:
            what = f"must have the shape of next_obs, {following.shape}, got {last_seen.shape}"
            raise refused(table.file, what, column="terminal_obs")
        before = np.concatenate([final if len(final) else last_seen[:1], last_seen[:-1]])
        source = np.where(first.reshape(-1, *[1] * (following.ndim - 1)), following, before)
        same = (last_seen == source).reshape(end - begin, -1).all(axis=1)
        _require(
            table, same, "terminal_obs", begin, "the next observation of its episode's last step"
        )
        ahead, final = returns[-1:], last_seen[-1:]


def _require(
    table: Hdf5Table, holds: Bool[np.ndarray, "n"], column: str, begin: int, what: str
) -> None:
    if not holds.all():
        row = begin + int((~holds).argmax())
        raise refused(table.file, f"must be {what}: the file is damaged", column=column, row=row)


def _column(table: Hdf5Table, name: str, begin: int, end: int) -> np.ndarray:
    """Rows of a column with one finite number a row, in float64."""
    values = table.read(name, begin, end).reshape(end - begin, -1)
    if values.shape[1] != 1:
        what = f"must hold one number a row, got {values.shape[1]}"
        raise refused(table.file, what, column=name, row=begin)
    with np.errstate(invalid="ignore"):  # not finite, then, and found below
        numbers: np.ndarray = values[:, 0].astype(np.float64)
    if not np.isfinite(numbers).all():
        row = int((~np.isfinite(numbers)).argmax())
        what = f"must be finite, got {numbers[row]}"
        raise refused(table.file, what, column=name, row=begin + row)
    return numbers


def _pieces(table: Hdf5Table, begins: Int64[np.ndarray, "e"], horizon: int) -> list[Piece]:
    flagged = flag_rows(table, "terminals")
    stray = np.setdiff1d(flagged, begins)
    if len(stray):
        what = "must be 0 but at an episode's last step, its first row, got 1"
        raise refused(table.file, what, column="terminals", row=int(stray[0]))
    is_flagged = np.isin(begins, flagged).tolist()
    ends = [*begins[1:].tolist(), table.num_rows]
    return [
        Piece(begin, end, *end_by_horizon(end - begin, horizon=horizon, flagged=is_end))
        for begin, end, is_end in zip(begins.tolist(), ends, is_flagged, strict=True)
    ]


MACAW = Format(
    name="macaw",
    layout="an HDF5 file for each task, .../name-{task}.hdf5",
    find_tasks=find_tasks,
    read=read,
    rules={
        "order": "rows run backwards in time within an episode and are turned round; "
        "terminal_discounts tell where an episode begins",
        "ends": "terminals is also set at the time limit: an episode of horizon steps is "
        "truncated, a shorter one is terminated where terminals is set and truncated where not",
        "derived": "mc_rewards, terminal_obs and terminal_discounts are compared with what they "
        "are derived from, and not kept",
    },
    by_horizon=True,
    continuous=True,
)
