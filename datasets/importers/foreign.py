"""The words that all importers share: what a foreign format is, its tasks, its episodes.

A format is a file here: it finds tasks at a place, and reads their episodes one after the other in
whatever types and order its files have. `conversion` turns these into ours; `writing` writes them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from causeway.datasets.faults import DatasetError, Fault
from causeway.datasets.schema import JsonScalar

OPTIONS = ("early_end", "ignore_terminals", "observation_keys")  # that only some formats take
Notes = dict[str, JsonScalar]  # what reading a file brought to light, for the manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTask:
    """A task as its files tell of it."""

    id: int
    place: Path  # its file or folder
    bytes: int  # of its files, for progress
    parameters: Mapping[str, float] | None = None  # where the format says


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What files of some formats do not say of themselves."""

    horizon: int  # env steps after which an episode is truncated
    early_end: Literal["terminated", "truncated"] | None = None  # None: refused where it occurs
    ignore_terminals: bool = False  # the flag means something else than an end
    observation_keys: tuple[str, ...] = ()  # of a composite observation, in this order


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEpisode:
    """One episode in time order, before any cast."""

    file: str  # that it is from, for errors
    rows: range  # of the file, in time order
    names: Mapping[str, str]  # our columns' names in the file
    share: float  # of the task's data that have been read with it, in [0, 1]
    observation: Shaped[np.ndarray, "T *O"]
    action: Shaped[np.ndarray, "T *A"]
    reward: Shaped[np.ndarray, "T *R"]
    next_observation: Shaped[np.ndarray, "T *O"]
    terminated: bool  # the last step
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A foreign format."""

    name: str
    layout: str  # of its files, in a few words
    find_tasks: Callable[[str], tuple[ForeignTask, ...]]
    read: Callable[[ForeignTask, ReadOptions, Notes], Iterator[ForeignEpisode]]
    rules: Mapping[str, str]  # what is recovered, and how
    by_horizon: bool  # whether its ends are told from the horizon
    continuous: bool  # whether each next observation must be the one that follows
    options: frozenset[str] = frozenset()  # those of OPTIONS that it takes


def refused(
    file: str | Path, what: str, *, column: str | None = None, row: int | None = None
) -> DatasetError:
    """The error for a file, a column and a row of it, and what must hold there."""
    return DatasetError.of(Fault(file=str(file), what=what, column=column, row=row))


def count(notes: Notes, name: str, number: int) -> None:
    """Adds to a note that counts; nothing to count leaves no note."""
    if number:
        before = notes.get(name, 0)
        assert isinstance(before, int)
        notes[name] = before + number


def check_length(file: str, length: int, horizon: int, *, row: int) -> None:
    """Refuses an episode that is longer than the horizon."""
    if length > horizon:
        raise refused(
            file,
            f"an episode must have at most the horizon of {horizon} steps, got {length}: give the "
            "time limit of the environment that it was collected in as --horizon",
            row=row,
        )


def end_by_horizon(length: int, *, horizon: int, flagged: bool) -> tuple[bool, bool]:
    """Whether an episode was terminated and whether it was truncated, from its length.

    Args:
        length: env steps.
        horizon: at this length an episode is truncated, whatever its flag says.
        flagged: whether the file marks its last step as an end.
    """
    if length >= horizon or not flagged:
        return False, True
    return True, False
