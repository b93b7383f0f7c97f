"""Files whose rows are transitions: episodes are cut out of them by row numbers.

Where episodes begin and end is known from few columns, before the rest is read. Then episodes are
read many at a time, so that memory holds a block of rows and no more.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64, Shaped

from causeway.datasets.importers.foreign import ForeignEpisode, check_length, refused

BLOCK_ROWS = 1 << 15  # read at a time, unless an episode is longer


class Table(Protocol):
    """Columns of equally many rows, in one file or in several."""

    @property
    def file(self) -> str:
        """Its file or folder, for errors."""
        ...

    @property
    def num_rows(self) -> int:
        """Of every column."""
        ...

    def read(self, name: str, begin: int, end: int) -> Shaped[np.ndarray, "n *F"]:
        """Rows of a column."""
        ...


class Piece(NamedTuple):
    """An episode's rows in a table, and how it ended."""

    begin: int
    end: int  # behind the last
    terminated: bool
    truncated: bool

    def __len__(self) -> int:
        return self.end - self.begin


def flag_rows(table: Table, name: str) -> Int64[np.ndarray, "n"]:
    """The rows that a column of flags marks, in order.

    Raises:
        DatasetError: a value is neither 0 nor 1.
    """
    found = []
    for begin, end in blocks_of(table.num_rows):
        values = table.read(name, begin, end).reshape(end - begin, -1)
        if values.shape[1] != 1:
            what = f"must hold one flag a row, got {values.shape[1]}"
            raise refused(table.file, what, column=name, row=begin)
        flags = values[:, 0]
        odd = (flags != 0) & (flags != 1)
        if odd.any():
            row = int(odd.argmax())
            what = f"must be 0 or 1, got {flags[row].item()}"
            raise refused(table.file, what, column=name, row=begin + row)
        found.append(np.flatnonzero(flags) + begin)
    return np.concatenate(found)


def blocks_of(num_rows: int) -> Iterator[tuple[int, int]]:
    """The rows in blocks of BLOCK_ROWS."""
    for begin in range(0, num_rows, BLOCK_ROWS):
        yield begin, min(begin + BLOCK_ROWS, num_rows)


def iterate_pieces(
    table: Table,
    names: Mapping[str, str],
    pieces: Sequence[Piece],
    *,
    horizon: int,
    backwards: bool = False,
) -> Iterator[ForeignEpisode]:
    """The pieces' episodes; neighbours are read together.

    Args:
        table: whose rows they are.
        names: of the columns `observation`, `action`, `reward` and `next_observation` in it.
        pieces: in the order of their rows, without gaps.
        horizon: most env steps of an episode.
        backwards: whether the last step of an episode is its first row.

    Raises:
        DatasetError: an episode is longer than the horizon.
    """
    for piece in pieces:
        check_length(table.file, len(piece), horizon, row=piece.begin)
    for group in _grouped(pieces):
        first, last = group[0].begin, group[-1].end
        columns = {field: table.read(name, first, last) for field, name in names.items()}
        for piece in group:
            rows = range(piece.begin, piece.end)
            cut = slice(piece.begin - first, piece.end - first)
            values = {field: column[cut] for field, column in columns.items()}
            if backwards:
                rows, values = rows[::-1], {field: v[::-1] for field, v in values.items()}
            yield ForeignEpisode(
                file=table.file,
                rows=rows,
                names=names,
                share=piece.end / table.num_rows,
                terminated=piece.terminated,
                truncated=piece.truncated,
                **values,
            )


def _grouped(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    for piece in pieces:
        if group and piece.end - group[0].begin > BLOCK_ROWS:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group
