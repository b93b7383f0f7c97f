"""What must hold for the values of a table of transitions, written or read."""

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Shaped

from causeway.datasets.faults import Fault
from causeway.datasets.schema import Source

ACTION_TOLERANCE = 1e-6  # beyond [-1, 1], for rounding
FLOAT_COLUMNS = ("observation", "action", "next_observation", "reward")
NULLABLE_COLUMNS = ("label_version",)


def values_of(column: pa.ChunkedArray) -> Shaped[np.ndarray, "T *F"]:
    """A column without nulls as an array; a null inside a list becomes nan."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # what older releases of Arrow give
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_fixed_size_list(array.type):
        shape = (len(array), array.type.list_size)
        return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(shape)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def find_faults(table: pa.Table, *, file: str, horizon: int | None) -> Iterator[Fault]:
    """What is wrong with a table that has the format's columns: at most one fault per check.

    Args:
        table: at least one row.
        file: its name, for the faults.
        horizon: most steps of an episode; None where it is not known.
    """
    nulls = list(_null_faults(table, file))
    if nulls:
        yield from nulls  # the checks below need values
        return
    for name in FLOAT_COLUMNS:
        if name in table.column_names:
            values = values_of(table.column(name))
            yield from _first(~np.isfinite(values), values, file, name, "must be finite")
    action = values_of(table.column("action"))
    outside = np.abs(action) > 1.0 + ACTION_TOLERANCE
    yield from _first(outside, action, file, "action", "must lie in [-1, 1]")
    yield from _source_faults(table.column("source"), file)
    yield from _order_faults(table, file, horizon)


def _null_faults(table: pa.Table, file: str) -> Iterator[Fault]:
    for name in table.column_names:
        column = table.column(name)
        if column.null_count and name not in NULLABLE_COLUMNS:
            row = pc.index(column.is_null(), True).as_py()
            yield Fault(file=file, column=name, row=row, what="must have a value, got null")


def _source_faults(column: pa.ChunkedArray, file: str) -> Iterator[Fault]:
    known = list(get_args(Source))
    unknown = sorted({str(value) for value in column.unique().to_pylist()} - set(known))
    if unknown:
        row = pc.index(column.cast(pa.string()), unknown[0]).as_py()
        yield Fault(
            file=file, column="source", row=row, what=f"must be one of {known}, got {unknown[0]!r}"
        )


def _order_faults(table: pa.Table, file: str, horizon: int | None) -> Iterator[Fault]:
    """Episodes follow one another, each with steps 0, 1, 2, ... and flags only at its end."""
    episode, step = values_of(table.column("episode")), values_of(table.column("step"))
    is_first = np.concatenate([[True], episode[1:] != episode[:-1]])
    is_last = np.concatenate([is_first[1:], [True]])
    begins = np.flatnonzero(is_first)
    counted = np.arange(len(step)) - np.repeat(begins, np.diff([*begins, len(step)]))
    yield from _first(
        step != counted, step, file, "step", "must count 0, 1, 2, ... within an episode"
    )
    _, first_begins = np.unique(episode[begins], return_index=True)
    comes_again = is_first.copy()
    comes_again[begins[first_begins]] = False
    yield from _first(
        comes_again, episode, file, "episode", "rows of one episode must stand together"
    )
    for name in ("terminated", "truncated"):
        flag = values_of(table.column(name))
        what = "must be false before an episode's last row"
        yield from _first(flag & ~is_last, flag, file, name, what)
    if horizon is not None:
        what = f"must be less than the horizon, {horizon}"
        yield from _first(step >= horizon, step, file, "step", what)


def _first(
    wrong: Bool[np.ndarray, "T *F"],
    values: Shaped[np.ndarray, "T *F"],
    file: str,
    column: str,
    what: str,
) -> Iterator[Fault]:
    """The first wrong value of a column, and in how many rows there are more, if there is one."""
    if not wrong.any():
        return
    row, *feature = (int(index) for index in np.unravel_index(wrong.argmax(), wrong.shape))
    got = values[row, *feature].item()
    where = f" in feature {feature[0]}" if feature else ""
    others = int(wrong.reshape(len(wrong), -1).any(axis=1).sum()) - 1
    more = f"; wrong in {others + 1} rows" if others else ""
    yield Fault(file=file, column=column, row=row, what=f"{what}, got {got}{where}{more}")
