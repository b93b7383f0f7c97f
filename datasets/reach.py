"""What one draw from a task's buffer can reach, and how its rows are gathered."""

import numpy as np
from jaxtyping import Float32, Int64

from causeway.datasets.episodes import Episodes
from causeway.datasets.rows import ROW_DTYPE, RowSource


class Reach:
    """The rows within reach of a draw, by position: the source's, and behind them the online ones.

    It is of one moment: the positions hold until the source advances.

    Args:
        offline: where the offline rows are drawn from.
        online: the rows that were appended so far; all are within reach.
        online_episodes: the whole episodes among them.
    """

    def __init__(
        self, offline: RowSource, online: Float32[np.ndarray, "n W"], online_episodes: Episodes
    ) -> None:
        self._offline = offline
        self._online = online
        self.num_offline = offline.num_rows  # over time; a stream has fewer within reach
        self.num_reachable = offline.num_reachable
        self.num_online = len(online)
        self.online_episodes = online_episodes

    @property
    def offline_episodes(self) -> Episodes:
        """The whole episodes among the source's positions."""
        return self._offline.episodes

    @property
    def num_offline_episodes(self) -> int:
        """How many there are over time."""
        return self._offline.num_episodes

    def num_distinct(self, online_share: float | None) -> int:
        """How many distinct rows there are over time, for draws with that share of online ones."""
        return self.num_offline + (0 if online_share == 0.0 else self.num_online)

    def gather(
        self, positions: Int64[np.ndarray, "count"], into: Float32[np.ndarray, "count W"]
    ) -> None:
        """Fills an array with the rows at the positions."""
        if self.num_online == 0:
            self._offline.take_into(positions, into)
            return
        is_offline = positions < self.num_reachable
        num_offline = int(np.count_nonzero(is_offline))
        # Offline positions are clipped here, and their rows overwritten below.
        self._online.take(positions - self.num_reachable, axis=0, out=into, mode="clip")
        if num_offline > 0:
            rows = np.empty((num_offline, into.shape[1]), ROW_DTYPE)
            self._offline.take_into(positions[is_offline], rows)
            into[is_offline] = rows

    def advance(self) -> None:
        """Lets the source move on by what was gathered from it; the positions hold no longer."""
        self._offline.advance()
