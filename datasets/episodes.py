"""Where whole episodes lie among rows.

Rows are in the order of their episodes, and an episode's last row is flagged terminated or
truncated. Rows behind the last flag are of an episode that has not ended: it counts once it has.
An episode that ends without a flag cannot be told from the next one, and counts as one with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

TERMINATED, TRUNCATED, FINAL_TERMINATED = range(3)  # which byte of a row's last column

Bounds = Int64[np.ndarray, "b"]  # positions, in order, between which whole episodes lie


@dataclass(frozen=True, slots=True)
class Episodes:
    """Whole episodes among rows: one after the other, or with gaps between them."""

    begin: Int64[np.ndarray, "e"]  # position of the first row
    end: Int64[np.ndarray, "e"]  # behind that of the last row

    def __len__(self) -> int:
        return len(self.begin)

    @classmethod
    def between(cls, bounds: Bounds) -> "Episodes":
        """Episodes that follow one another without a gap, by the positions where they meet."""
        return cls(bounds[:-1], bounds[1:])

    @classmethod
    def concatenate(cls, several: "Sequence[Episodes]") -> "Episodes":
        """All of them."""
        return cls(
            np.concatenate([episodes.begin for episodes in several]),
            np.concatenate([episodes.end for episodes in several]),
        )

    def shifted(self, offset: int) -> "Episodes":
        """The same episodes, where `offset` rows come before theirs."""
        return Episodes(self.begin + offset, self.end + offset)

    def at(self, numbers: Int64[np.ndarray, "c"]) -> "Episodes":
        """Some of them, by their number."""
        return Episodes(self.begin[numbers], self.end[numbers])


def flags_of(rows: Float32[np.ndarray, "*B W"]) -> Bool[np.ndarray, "*B 4"]:
    """The flags of rows, as a view: the bytes of their last column."""
    return rows[..., -1:].view(np.bool_)


def find_ends(rows: Float32[np.ndarray, "n W"]) -> Int64[np.ndarray, "e"]:
    """The positions behind each episode's last row, in order."""
    flags = flags_of(rows)
    return np.flatnonzero(flags[:, TERMINATED] | flags[:, TRUNCATED]) + 1


def find_bounds(rows: Float32[np.ndarray, "n W"], *, begins_episode: bool) -> Bounds:
    """The positions between which whole episodes lie, in order.

    Args:
        rows: a stretch of a task's rows.
        begins_episode: whether the first row is the first of an episode, not a later one.
    """
    ends = find_ends(rows)
    return np.concatenate([[0], ends]) if begins_episode else ends
