"""Single files of online data: a collector's rollouts, and the same once they are labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from causeway.datasets.batches import Episode, RowLayout, Trajectory
from causeway.datasets.faults import DatasetError, Fault
from causeway.datasets.locations import Location
from causeway.datasets.parts import (
    Expected,
    Origin,
    decode,
    encode,
    episodes_of,
    sha256_of,
    trajectories_of,
)
from causeway.datasets.schema import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """A complete file of online data, as a ledger records it."""

    path: str
    sha256: str
    rows: int
    bytes: int


def write_shard(
    path: str | Path | Location, trajectories: Sequence[Trajectory], task: int
) -> ShardFile:
    """Writes unlabelled rollouts of one task; the file appears whole or not at all.

    Rewards are not written, even where a trajectory has them.

    Raises:
        ValueError: naming the column and row of what the format does not allow.
    """
    origin = Origin(task=task, source="self_supervised")
    return _write(path, trajectories, origin, labelled=False)


def write_part(
    path: str | Path | Location, episodes: Sequence[Episode], task: int, label_version: int | None
) -> ShardFile:
    """Writes rollouts that the decoder of that version labelled, as `write_shard` does.

    Without a version, their rewards are the environment's: what an oracle gathered.
    """
    source: Source = "online" if label_version is None else "self_supervised"
    origin = Origin(task=task, source=source, label_version=label_version)
    return _write(path, episodes, origin, labelled=True)


def read_shard(
    path: str | Path | Location, sha256: str | None, layout: RowLayout
) -> list[Trajectory]:
    """The rollouts in a file that `write_shard` wrote.

    Args:
        path: where it is.
        sha256: what its bytes must hash to; None where nobody vouches for them.
        layout: the sizes of its observations and actions.

    Raises:
        DatasetError: naming the file and what is wrong with it.
    """
    return trajectories_of(_read(path, sha256, layout, labelled=False))


def read_part(path: str | Path | Location, sha256: str | None, layout: RowLayout) -> list[Episode]:
    """The labelled episodes in a file; see `read_shard`."""
    return episodes_of(_read(path, sha256, layout, labelled=True))


def load(location: Location, expected: Expected) -> pa.Table:
    """Reads and checks a file.

    Raises:
        DatasetError: naming the file and what is wrong with it.
    """
    try:
        contents = location.read()
    except (OSError, ValueError) as error:
        fault = Fault(file=expected.file, what=f"must be readable, but {error}")
        raise DatasetError.of(fault) from error
    return decode(contents, expected)


def _write(
    path: str | Path | Location,
    trajectories: Sequence[Trajectory],
    origin: Origin,
    *,
    labelled: bool,
) -> ShardFile:
    location = Location.parse(path)
    contents = encode(trajectories, origin, labelled=labelled)
    location.write(contents)
    return ShardFile(
        path=str(path),
        sha256=sha256_of(contents),
        rows=sum(len(trajectory) for trajectory in trajectories),
        bytes=contents.size,
    )


def _read(
    path: str | Path | Location, sha256: str | None, layout: RowLayout, *, labelled: bool
) -> pa.Table:
    expected = Expected(file=str(path), layout=layout, labelled=labelled, sha256=sha256)
    return load(Location.parse(path), expected)
