"""One Parquet file of trajectories: from episodes to bytes and back, with every check between.

The same rules hold for what is written and for what is read, so a file that was written can
always be read. Reading runs no code from a file: its types are compared with the format's own,
and page checksums are verified.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

from causeway.datasets.batches import Episode, RowLayout, Trajectory
from causeway.datasets.checks import find_faults, values_of
from causeway.datasets.faults import DatasetError, Fault
from causeway.datasets.schema import (
    ROW_GROUP_ROWS,
    SCHEMA_VERSION,
    Source,
    episode_schema,
    trajectory_schema,
)

MAX_ROWS = 1 << 26  # of one file: bounds what a forged footer can claim
VERSION_KEY = b"causeway.schema_version"
TASK_KEY = b"causeway.task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a file's transitions and rewards are from."""

    task: int
    source: Source
    label_version: int | None = None  # of the decoder that gave the rewards; None: true rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a file that is read must be."""

    file: str  # its name, for errors
    layout: RowLayout
    labelled: bool  # whether it must have rewards; without, they are not read
    sha256: str | None = None  # None: nobody vouches for its bytes
    horizon: int | None = None  # most steps of an episode; None: not known
    task: int | None = None

    @property
    def schema(self) -> pa.Schema:
        """The columns it must have."""
        return episode_schema(self.layout) if self.labelled else trajectory_schema(self.layout)


def sha256_of(contents: bytes | pa.Buffer) -> str:
    """The checksum by which manifests and ledgers know a file."""
    return hashlib.sha256(contents).hexdigest()


def encode(
    trajectories: Sequence[Trajectory],
    origin: Origin,
    *,
    labelled: bool,
    layout: RowLayout | None = None,
) -> pa.Buffer:
    """Trajectories as the bytes of a Parquet file.

    Args:
        trajectories: one or more; episodes, if they are to be labelled.
        origin: where they are from.
        labelled: whether their rewards are written.
        layout: sizes of observations and actions; None: those of the first trajectory.

    Raises:
        ValueError: naming the task, column and row of what the format does not allow.
    """
    name = f"data of task {origin.task}"
    if not trajectories or not all(len(trajectory) for trajectory in trajectories):
        raise ValueError(f"{name}: must be one or more episodes of one or more steps each")
    if labelled and not all(isinstance(trajectory, Episode) for trajectory in trajectories):
        raise ValueError(f"{name}: every trajectory must have rewards to be written as labelled")
    if layout is None:
        first = trajectories[0]
        layout = RowLayout(first.observation.shape[-1], first.action.shape[-1])
    schema = episode_schema(layout) if labelled else trajectory_schema(layout)
    table = _to_table(trajectories, schema, origin, name)
    for fault in find_faults(table, file=name, horizon=None):
        raise ValueError(str(fault))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP_ROWS,
        compression="lz4",
        use_dictionary=["source"],  # floats hardly repeat
        write_page_checksum=True,
    )
    return sink.getvalue()


def decode(contents: pa.Buffer, expected: Expected) -> pa.Table:
    """The checked columns of a Parquet file's bytes.

    Raises:
        DatasetError: with the file's faults, and the first of them as its message.
    """
    if expected.sha256 is not None and (actual := sha256_of(contents)) != expected.sha256:
        raise _error(
            expected.file,
            f"sha256 must be {expected.sha256}, got {actual}: the file was changed, cut off or "
            "damaged after it was written; restore it from a copy",
        )
    table = _parse(contents, expected)
    faults = list(find_faults(table, file=expected.file, horizon=expected.horizon))
    if faults:
        raise DatasetError.of(*faults)
    return table


def episodes_of(table: pa.Table) -> list[Episode]:
    """The episodes in a checked table."""
    return [Episode(**columns) for columns in _split(table, with_reward=True)]


def trajectories_of(table: pa.Table) -> list[Trajectory]:
    """The trajectories in a checked table, without rewards."""
    return [Trajectory(**columns) for columns in _split(table, with_reward=False)]


def _split(table: pa.Table, *, with_reward: bool) -> Iterator[dict[str, np.ndarray]]:
    names = ["observation", "action", "next_observation", "terminated", "truncated"]
    if with_reward:
        names.append("reward")
    columns = {name: values_of(table.column(name)).copy() for name in names}  # writable
    begins = np.flatnonzero(values_of(table.column("step")) == 0).tolist()
    for begin, end in zip(begins, [*begins[1:], table.num_rows], strict=True):
        yield {name: column[begin:end] for name, column in columns.items()}


def _to_table(
    trajectories: Sequence[Trajectory], schema: pa.Schema, origin: Origin, name: str
) -> pa.Table:
    lengths = [len(trajectory) for trajectory in trajectories]
    count = sum(lengths)
    given = {
        "episode": pa.array(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)),
        "step": pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])),
        "source": pa.array([origin.source] * count).dictionary_encode(),
        "label_version": pa.array([origin.label_version] * count, pa.int32()),
    }
    for field in schema:
        if field.name not in given:
            pieces = [getattr(trajectory, field.name) for trajectory in trajectories]
            given[field.name] = _to_array(pieces, field, lengths, name)
    metadata = {VERSION_KEY: str(SCHEMA_VERSION), TASK_KEY: str(origin.task)}
    arrays = [given[field.name] for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata))


def _to_array(
    pieces: Sequence[Shaped[np.ndarray, "T *F"]], field: pa.Field, lengths: list[int], name: str
) -> pa.Array:
    """One column of all episodes, checked to have the shape and kind of its type."""
    is_list = pa.types.is_fixed_size_list(field.type)
    features = (field.type.list_size,) if is_list else ()
    for episode, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
        if piece.shape != (length, *features):
            raise ValueError(
                f"{name}, column {field.name}: must have shape {(length, *features)} "
                f"in episode {episode}, got {piece.shape}"
            )
    if pa.types.is_boolean(field.type):
        return pa.array(np.concatenate(pieces).astype(np.bool_, casting="no"))
    flat = np.concatenate(pieces).astype(np.float32, casting="same_kind", copy=False).ravel()
    array = pa.array(flat)
    return pa.FixedSizeListArray.from_arrays(array, type=field.type) if is_list else array


def _parse(contents: pa.Buffer, expected: Expected) -> pa.Table:
    """The expected columns of a Parquet file, checked to be of the expected types."""
    file, names = expected.file, expected.schema.names
    with _arrow_errors(file):
        parsed = pq.ParquetFile(pa.BufferReader(contents), page_checksum_verification=True)
        found, num_rows = parsed.schema_arrow, parsed.metadata.num_rows
    _check_metadata(found.metadata or {}, expected)
    _check_columns(found, expected)
    if not 1 <= num_rows <= MAX_ROWS:
        raise _error(file, f"must hold 1 to {MAX_ROWS} rows, it states {num_rows}")
    with _arrow_errors(file):
        table: pa.Table = parsed.read(columns=names, use_threads=False)
        table.validate(full=True)
    if table.num_rows != num_rows:
        raise _error(file, f"must hold the {num_rows} rows that it states, got {table.num_rows}")
    return table.select(names)


def _check_metadata(metadata: dict[bytes, bytes], expected: Expected) -> None:
    """A file of other origin has none of our words; one that has them must mean the same."""
    version, task = metadata.get(VERSION_KEY), metadata.get(TASK_KEY)
    if version is not None and version != str(SCHEMA_VERSION).encode():
        raise _error(
            expected.file,
            f"schema version must be {SCHEMA_VERSION}, got {version.decode(errors='replace')}: "
            "the file was written by another release",
        )
    if expected.task is not None and task is not None and task != str(expected.task).encode():
        raise _error(
            expected.file,
            f"must hold transitions of task {expected.task}, "
            f"it says task {task.decode(errors='replace')}",
        )


def _check_columns(found: pa.Schema, expected: Expected) -> None:
    wrong = {}
    for field in expected.schema:
        if found.names.count(field.name) != 1:
            wrong[field.name] = f"must be there once, the file's columns are {found.names}"
        elif not _same_type(actual := found.field(field.name).type, field.type):
            wrong[field.name] = f"must be {field.type}, got {actual}"
    if wrong:
        faults = [Fault(file=expected.file, what=w, column=name) for name, w in wrong.items()]
        raise DatasetError.of(*faults)


def _same_type(actual: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column's type is the format's, whatever a list names its elements."""
    if pa.types.is_fixed_size_list(wanted):
        return bool(
            pa.types.is_fixed_size_list(actual)
            and actual.list_size == wanted.list_size
            and actual.value_type == wanted.value_type
        )
    if pa.types.is_dictionary(wanted):
        plain = actual.value_type if pa.types.is_dictionary(actual) else actual
        return bool(plain == wanted.value_type)
    return bool(actual == wanted)


@contextmanager
def _arrow_errors(file: str) -> Iterator[None]:
    """Arrow's errors in reading a file, as ours."""
    try:
        yield
    # Which of these it raises depends on which byte is damaged.
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        what = " ".join(str(error).split())[:300] or type(error).__name__
        raise _error(file, f"must be a complete Parquet file, reading it failed: {what}") from error


def _error(file: str, what: str) -> DatasetError:
    return DatasetError.of(Fault(file=file, what=what))
