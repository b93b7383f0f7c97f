"""One task's rows: offline ones and, behind them, those that came online."""

import numpy as np
from jaxtyping import Float32, Shaped

from causeway.datasets.draws import draw_contexts, draw_rows
from causeway.datasets.episodes import Episodes, find_ends
from causeway.datasets.reach import Reach
from causeway.datasets.rows import ROW_DTYPE, RowSource

NO_EPISODES = Episodes.between(np.zeros(1, np.int64))


class TaskBuffer:
    """One task's rows: offline ones, which never change, and online ones, which only grow.

    One thread may append while another draws.
    """

    def __init__(self, offline: RowSource) -> None:
        self.offline = offline
        self._no_rows = np.empty((0, offline.width), ROW_DTYPE)
        self._online = _GrowingArray(self._no_rows)
        self._online_bounds = _GrowingArray(np.zeros(1, np.int64))  # of the online episodes

    @property
    def num_rows(self) -> int:
        """Offline and online rows together."""
        return self.offline.num_rows + len(self._online)

    @property
    def num_online_rows(self) -> int:
        """How many rows were appended."""
        return len(self._online)

    @property
    def width(self) -> int:
        """W, the number of columns of a row."""
        return self.offline.width

    def append(self, rows: Float32[np.ndarray, "n W"]) -> None:
        """Adds rows to the online part, as a copy; amortised constant time for each."""
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(
                f"rows to append must have shape [n, {self.width}], got {rows.shape}: "
                "pack episodes with the RowLayout of the buffer's data set"
            )
        ends = self.num_online_rows + find_ends(rows)
        self._online.append(rows)
        self._online_bounds.append(ends)  # last: a drawing thread never sees an episode too early

    def online_rows(self) -> Float32[np.ndarray, "n W"]:
        """The online part in the order it was appended, read-only."""
        return self._online.view()

    def online_episodes(self) -> Episodes:
        """The whole episodes of the online part."""
        return Episodes.between(self._online_bounds.view())

    def reach(self) -> Reach:
        """What can be drawn now."""
        if len(self._online) == 0:
            return Reach(self.offline, self._no_rows, NO_EPISODES)
        bounds = self._online_bounds.view()  # first: an episode's rows are there once it is
        return Reach(self.offline, self._online.view(), Episodes.between(bounds))

    def draw(
        self, generator: np.random.Generator, count: int, online_share: float | None = None
    ) -> Float32[np.ndarray, "count W"]:
        """Rows in random order, distinct ones if the buffer holds enough; see `draw_rows`."""
        reach = self.reach()
        rows = np.empty((count, self.width), ROW_DTYPE)
        positions = draw_rows(generator, [reach], count, online_share=online_share)
        reach.gather(positions[0], rows)
        reach.advance()
        return rows

    def draw_offline(
        self, generator: np.random.Generator, count: int
    ) -> Float32[np.ndarray, "count W"]:
        """Rows of the offline part alone, distinct ones if it holds enough."""
        return self.draw(generator, count, online_share=0.0)

    def draw_offline_in_order(
        self, generator: np.random.Generator, count: int, num_episodes: int
    ) -> Float32[np.ndarray, "count W"]:
        """Consecutive rows of a few whole offline episodes, in time order; see `draw_contexts`."""
        reach = self.reach()
        rows = np.empty((count, self.width), ROW_DTYPE)
        (positions,) = draw_contexts(
            generator, [reach], count, num_episodes=num_episodes, online_share=0.0, in_order=True
        )
        reach.gather(positions, rows)
        reach.advance()
        return rows


class _GrowingArray:
    """Values that are only ever added, amortised; one thread may append while another views."""

    def __init__(self, first: Shaped[np.ndarray, "n *W"]) -> None:
        self._values = first
        self._count = len(first)

    def __len__(self) -> int:
        return self._count

    def append(self, values: Shaped[np.ndarray, "n *W"]) -> None:
        """Adds a copy of the values."""
        total = self._count + len(values)
        if total > len(self._values):
            length = max(total, 2 * len(self._values))
            grown = np.empty((length, *self._values.shape[1:]), self._values.dtype)
            grown[: self._count] = self._values[: self._count]
            self._values = grown
        self._values[self._count : total] = values
        self._count = total  # last: another thread never sees unwritten values

    def view(self) -> Shaped[np.ndarray, "n *W"]:
        """What was added so far, read-only; what is added later is not in it."""
        count = self._count  # first: the array may be replaced by a longer one
        values = self._values[:count]
        values.flags.writeable = False
        return values
