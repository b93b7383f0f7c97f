"""Where a task's rows are drawn from: what every source offers, and a mapped file as one.

A mapped gather is the fastest there is while the file lies in the page cache. Larger sets are
streamed, see `streaming`.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
from jaxtyping import Float32, Int64

from causeway.datasets.episodes import Episodes, find_bounds
from causeway.datasets.memory import map_file

ROW_DTYPE = np.dtype("<f4")  # of a row's columns, in memory and in row files


class RowSource(Protocol):
    """A task's rows, of which some are within reach at a time."""

    @property
    def num_rows(self) -> int:
        """How many rows there are to draw from, over time."""
        ...

    @property
    def width(self) -> int:
        """W, the number of columns of a row."""
        ...

    @property
    def num_reachable(self) -> int:
        """How many rows can be drawn now; they have the positions from 0 to that."""
        ...

    @property
    def episodes(self) -> Episodes:
        """The whole episodes among the rows that can be drawn now, by position."""
        ...

    @property
    def num_episodes(self) -> int:
        """How many episodes there are to draw from, over time; may be an estimate."""
        ...

    def take_into(
        self, positions: Int64[np.ndarray, "count"], into: Float32[np.ndarray, "count W"]
    ) -> None:
        """Fills an array with the rows at the positions, which hold until the next `advance`."""
        ...

    def advance(self) -> None:
        """Moves on by what was taken; other rows may be within reach from now on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a continuation needs beyond the generator, in JSON's types."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        ...


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """The generator's state in JSON's types (its integers have up to 128 bits)."""
    return cast(dict[str, Any], generator.bit_generator.state)


def map_rows(file: BinaryIO, width: int) -> Float32[np.ndarray, "n W"]:
    """The rows of a file without a header, read-only; they stay when the file is closed."""
    return np.frombuffer(map_file(file), ROW_DTYPE).reshape(-1, width)


class MappedRows:
    """Rows of an array, usually a memory-mapped file; never written to."""

    def __init__(self, rows: Float32[np.ndarray, "n W"]) -> None:
        if rows.ndim != 2 or rows.dtype != ROW_DTYPE:
            raise ValueError(
                "MappedRows.rows must be a float32 array [n, W], "
                f"got {rows.dtype} of shape {rows.shape}: pack episodes with RowLayout.pack"
            )
        self._rows = rows
        self.num_rows, self.width = rows.shape
        self.num_reachable = self.num_rows  # all

    @cached_property
    def episodes(self) -> Episodes:
        """All whole episodes; looked for once, which reads the whole array."""
        return Episodes.between(find_bounds(self._rows, begins_episode=True))

    @property
    def num_episodes(self) -> int:
        """How many whole episodes there are."""
        return len(self.episodes)

    def take_into(
        self, positions: Int64[np.ndarray, "count"], into: Float32[np.ndarray, "count W"]
    ) -> None:
        """Fills an array with the rows at the positions."""
        # The positions are valid; "clip" only spares numpy a copy that "raise" would make.
        self._rows.take(positions, 0, into, "clip")

    def advance(self) -> None:
        """Changes nothing: all rows stay within reach."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a draw depends on the generator alone."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes nothing."""
