"""Rows of a file larger than memory: a pool per task that streams through it.

Beyond memory a mapped gather costs one disk access per row. So row groups are read whole, in
random order, into a small pool per task, and rows are drawn from the pool.
"""

import os
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32, Int64

from causeway.datasets.episodes import Bounds, Episodes, find_bounds, find_ends
from causeway.datasets.rows import ROW_DTYPE, generator_state


class RowFile:
    """A file of float32 rows without a header, read by whole row groups.

    Args:
        file: as the row cache gives it, open and unbuffered; closed by `close`.
        width: W, the number of columns.
        group_rows: rows of a group; the last group may be shorter.
    """

    def __init__(self, file: BinaryIO, *, width: int, group_rows: int) -> None:
        if group_rows < 1:
            raise ValueError(f"RowFile.group_rows must be at least 1, got {group_rows}")
        row_bytes = width * ROW_DTYPE.itemsize
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes == 0 or size_bytes % row_bytes:
            raise ValueError(
                f"{file.name} must hold one or more rows of {row_bytes} bytes, it has {size_bytes} "
                "bytes: it was written with another layout or cut off; delete it to have it rebuilt"
            )
        self.path = Path(file.name)
        self.width = width
        self.group_rows = group_rows
        self.num_rows = size_bytes // row_bytes
        self.num_groups = -(-self.num_rows // group_rows)
        self._file = file

    def rows_in(self, group: int) -> int:
        """How many rows the group has."""
        return min(self.group_rows, self.num_rows - group * self.group_rows)

    def read(self, group: int, into: Float32[np.ndarray, "g W"]) -> None:
        """Reads a group into the first rows of an array; safe from any thread."""
        offset = group * self.group_rows * self.width * ROW_DTYPE.itemsize
        self._read_at(offset, into[: self.rows_in(group)].data.cast("B"))

    def begins_episode(self, group: int) -> bool:
        """Whether a group's first row is the first of an episode; safe from any thread."""
        if group == 0:
            return True
        before = np.empty((1, 1), ROW_DTYPE)  # the flags of the last row of another group
        offset = group * self.group_rows * self.width * ROW_DTYPE.itemsize - before.nbytes
        self._read_at(offset, before.data.cast("B"))
        return len(find_ends(before)) > 0

    def _read_at(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            if count == 0:
                raise OSError(
                    f"{self.path} must have {offset + len(view)} bytes or more, it ended at "
                    f"{offset + done}: it was changed while in use; delete it to have it rebuilt"
                )
            done += count

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class GroupOrder:
    """Row groups in random order, each once per pass; the order of a pass is drawn at its start."""

    def __init__(self, num_groups: int, seed: int) -> None:
        self.num_groups = num_groups
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._remaining: list[int] = []
        self._seen: set[int] = set()

    @property
    def coverage(self) -> float:
        """The share of the groups that have come at least once."""
        return len(self._seen) / self.num_groups

    def next(self, excluded: Collection[int]) -> int:
        """The next group that is not excluded; fewer than `num_groups` may be."""
        if not self._remaining:
            self._remaining = [int(group) for group in self._generator.permutation(self.num_groups)]
        group = next(group for group in self._remaining if group not in excluded)
        self._remaining.remove(group)
        self._seen.add(group)
        return group

    def state_dict(self) -> dict[str, Any]:
        """The position in the pass and the generator of later ones."""
        return {
            "generator": generator_state(self._generator),
            "remaining": list(self._remaining),
            "seen": sorted(self._seen),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues at a position that `state_dict` gave."""
        self._generator.bit_generator.state = state["generator"]
        self._remaining = list(state["remaining"])
        self._seen = set(state["seen"])


def pool_shape(file: RowFile, row_groups: int) -> tuple[int, int, int]:
    """Of the pool that holds so many groups of a file, and one that is being read."""
    return min(row_groups + 1, file.num_groups), file.group_rows, file.width


class StreamedRows:
    """Rows of a file larger than memory, drawn from a pool of row groups that moves through it.

    Once `reuse` times a group's rows have been drawn, the oldest group of the pool gives way to
    the next, so a row is drawn `reuse` times on average while it is there. The next group is read
    ahead by the reader's thread; a draw waits for it only if the disk is slower than the learner,
    so what is drawn never depends on timing.

    Args:
        file: the rows; closed by `close`.
        pool: where the groups are held, those that rows are drawn from and one that is being read;
            see `pool_shape`.
        reuse: how many times a row is drawn, on average, before its group goes.
        seed: of the order of the groups.
        reader: the thread that reads ahead, shared by the tasks of a sampler.
    """

    def __init__(
        self,
        file: RowFile,
        *,
        pool: Float32[np.ndarray, "slots g W"],
        reuse: float,
        seed: int,
        reader: ThreadPoolExecutor,
    ) -> None:
        self._file = file
        self._reader = reader
        self._order = GroupOrder(file.num_groups, seed)
        self._draws_per_group = max(1, round(reuse * file.group_rows))
        self._drawn = 0  # rows, since a group last gave way
        # One slot is read into while rows are drawn from the others. The oldest group is in the
        # slot behind it, around the end: that one is read into next.
        self._spare = len(pool) - 1 if len(pool) < file.num_groups else None
        self._pool = pool
        self._rows = pool.reshape(-1, file.width)
        self._episodes: Episodes | None = None  # once asked for
        self._finds_bounds = False  # while reading ahead: once episodes were asked for
        self._groups: list[int] = []  # by slot
        for _ in pool:
            self._groups.append(self._order.next(excluded=self._groups))
        self._load()

    @property
    def num_rows(self) -> int:
        """How many rows the file holds."""
        return self._file.num_rows

    @property
    def width(self) -> int:
        """W, the number of columns of a row."""
        return self._file.width

    @property
    def num_reachable(self) -> int:
        """How many rows the pool holds now: the most distinct ones that one draw can give."""
        return self._num_reachable

    @property
    def episodes(self) -> Episodes:
        """The episodes that lie wholly within a group of the pool; looked up when asked for."""
        if self._episodes is None:
            self._episodes = Episodes.concatenate(
                [
                    Episodes.between(self._bounds_in(slot)).shifted(position)
                    for slot, position in self._positions.items()
                ]
            )
        return self._episodes

    @property
    def num_episodes(self) -> int:
        """How many episodes the file holds, if all of it is like the pool."""
        every = [self._bounds_in(slot) for slot in self._positions]
        ends = sum(np.count_nonzero(bounds) for bounds in every)  # a 0 is no end
        return round(ends * self.num_rows / self.num_reachable)

    @property
    def coverage(self) -> float:
        """The share of the file's row groups that have been in the pool or are about to be."""
        return self._order.coverage

    def take_into(
        self, positions: Int64[np.ndarray, "count"], into: Float32[np.ndarray, "count W"]
    ) -> None:
        """Fills an array with the rows of the pool at the positions."""
        self._drawn += len(positions)
        rows = positions + self._begin
        if self._gap > 0:
            rows[positions >= self._gap_at] += self._gap
        self._rows.take(rows, 0, into, "wrap")  # "raise" would make a copy

    def advance(self) -> None:
        """Replaces the oldest group, once as many rows were drawn as it is there for."""
        while self._spare is not None and self._drawn >= self._draws_per_group:
            self._drawn -= self._draws_per_group
            self._replace_oldest(self._spare)

    def state_dict(self) -> dict[str, Any]:
        """The stream's position: what is in the pool, what comes next, and the order beyond."""
        return {
            "order": self._order.state_dict(),
            "groups": list(self._groups),
            "spare": self._spare,
            "drawn": self._drawn,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues at a position that `state_dict` gave, reading the pool's groups again."""
        groups = list(state["groups"])
        if len(groups) != len(self._groups) or max(groups) >= self._file.num_groups:
            raise ValueError(
                f"the stream's saved pool must be {len(self._groups)} of the "
                f"{self._file.num_groups} row groups of {self._file.path}, got {groups}: "
                "continue with the data and the sampler's settings that it was saved with"
            )
        self._finish_reading()
        self._order.load_state_dict(state["order"])
        self._groups = groups
        self._spare = state["spare"]
        self._drawn = state["drawn"]
        self._load()

    def close(self) -> None:
        """Waits for the reading thread and closes the file."""
        self._finish_reading()
        self._file.close()

    def _load(self) -> None:
        """Fills the pool with its groups and starts to read ahead."""
        self._index()
        self._bounds = {slot: self._fetch(slot) for slot in self._positions}
        self._read_ahead()

    def _finish_reading(self) -> None:
        """Waits until no slot is written to any more; whatever was read is dropped."""
        if self._spare is not None:
            wait([self._pending])

    def _replace_oldest(self, spare: int) -> None:
        """The group that was read ahead is drawn from, and the oldest group's slot is read into."""
        self._bounds[spare] = self._pending.result()
        self._spare = (spare + 1) % len(self._groups)
        del self._bounds[self._spare]
        # A group is never in the pool twice, or one draw could give a row twice.
        staying = [group for slot, group in enumerate(self._groups) if slot != self._spare]
        self._groups[self._spare] = self._order.next(excluded=staying)
        self._index()
        self._read_ahead()

    def _read_ahead(self) -> None:
        if self._spare is not None:
            self._pending: Future[Bounds | None] = self._reader.submit(self._fetch, self._spare)

    def _fetch(self, slot: int) -> Bounds | None:
        """Reads a slot's group into it; looks for its episodes if such are asked for."""
        self._file.read(self._groups[slot], self._pool[slot])
        return self._find_bounds(slot) if self._finds_bounds else None

    def _bounds_in(self, slot: int) -> Bounds:
        """The bounds of the episodes within a slot's group."""
        self._finds_bounds = True
        bounds = self._bounds[slot]
        if bounds is None:
            bounds = self._bounds[slot] = self._find_bounds(slot)
        return bounds

    def _find_bounds(self, slot: int) -> Bounds:
        group = self._groups[slot]
        rows = self._pool[slot, : self._file.rows_in(group)]
        return find_bounds(rows, begins_episode=self._file.begins_episode(group))

    def _index(self) -> None:
        """Gives the rows of the pool that can be drawn their positions: the oldest has the first.

        The slots are a ring, so they lie one behind the other, but where a group is short.
        """
        first = 0 if self._spare is None else self._spare + 1
        self._begin = first * self._file.group_rows
        self._gap_at = self._gap = self._num_reachable = 0
        self._positions: dict[int, int] = {}  # of the first row in each slot
        for slot in (*range(first, len(self._groups)), *range(first)):
            if slot == self._spare:
                continue
            self._positions[slot] = self._num_reachable
            length = self._file.rows_in(self._groups[slot])
            self._num_reachable += length
            if length < self._file.group_rows:
                self._gap_at, self._gap = self._num_reachable, self._file.group_rows - length
        self._episodes = None
