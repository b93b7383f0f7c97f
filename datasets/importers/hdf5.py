"""HDF5 files, read with the doors shut that lead out of them.

A file may name other files, as links, external storage or virtual columns: refused. It may leave
chunks out, which HDF5 would read as zeros: refused. It may be written with a plugin's filter: only
HDF5's own filters and LZF are used. Values are numbers; nothing in a file is run.

HDF5 has checksums only where a file was written with the `fletcher32` filter. Without it, a
damaged value that is still a sensible number cannot be told from a good one.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Shaped

from causeway.datasets.importers.conversion import REAL_KINDS
from causeway.datasets.importers.foreign import refused

FILTERS = {
    1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"
}  # fmt: skip
MAX_CHUNK_BYTES = 1 << 28  # a chunk is decoded in memory
SUFFIXES = (".hdf5", ".h5", ".he5", ".hdf")


def is_hdf5(path: Path) -> bool:
    """Whether a path is a file with a name that HDF5 files have."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file, opened to be read."""
    with hdf5_errors(path):
        file = h5py.File(path, "r", locking="best-effort")  # file systems without locks, too
    with file:
        yield file


@contextmanager
def hdf5_errors(path: str | Path, column: str | None = None) -> Iterator[None]:
    """The library's errors in reading a file, as ours."""
    try:
        yield
    # Which of these it raises depends on which byte is damaged.
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        what = f"must be a complete HDF5 file, reading it failed: {reason}"
        raise refused(path, what, column=column) from error


def members(group: h5py.Group, path: Path) -> list[str]:
    """The names of what is in a group, in order."""
    with hdf5_errors(path):
        return sorted(group)


def find(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset:
    """A member of a group, by its names from there on; only what lies in the file itself.

    Raises:
        DatasetError: there is no such member, or there is a link to elsewhere on the way.
    """
    found: h5py.Group | h5py.Dataset = group
    for part in name.split("/"):
        if not isinstance(found, h5py.Group):
            raise refused(path, "must be in a group, it is looked for in an array", column=name)
        with hdf5_errors(path, name):
            link = found.get(part, getlink=True) if part in found else None
        if link is None:
            known = ", ".join(members(found, path)[:20]) or "nothing"
            raise refused(path, f"must be there, beside it are {known}", column=name)
        if not isinstance(link, h5py.HardLink):
            what = "must lie in this file, it is a link, which is not read"
            raise refused(path, what, column=name)
        with hdf5_errors(path, name):
            found = found[part]
    return found


def find_group(group: h5py.Group, name: str, path: Path) -> h5py.Group:
    """A group in a group."""
    found = find(group, name, path)
    if not isinstance(found, h5py.Group):
        raise refused(path, "must be a group, it is an array", column=name)
    return found


def find_array(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """An array of real numbers in a group, once all its values are known to be in the file.

    Raises:
        DatasetError: it is no such array, or parts of it are missing or elsewhere.
    """
    found = find(group, name, path)
    if not isinstance(found, h5py.Dataset):
        raise refused(path, "must be an array, it is a group of arrays", column=name)
    with hdf5_errors(path, name):
        kind, is_elsewhere = found.dtype.kind, found.is_virtual or bool(found.external)
        missing = _missing(found)
        unknown = _unknown_filters(found)
    if kind not in REAL_KINDS:
        raise refused(path, f"must hold numbers, got {found.dtype}", column=name)
    if is_elsewhere:
        raise refused(path, "must lie in this file, it refers to other files", column=name)
    if unknown:
        what = f"must be compressed with one of {', '.join(FILTERS.values())}, got filter {unknown}"
        raise refused(path, what, column=name)
    if missing is not None:
        raise refused(path, missing, column=name)
    return found


def _unknown_filters(array: h5py.Dataset) -> list[int]:
    plan = array.id.get_create_plist()
    used = [int(plan.get_filter(i)[0]) for i in range(plan.get_nfilters())]
    return [code for code in used if code not in FILTERS]


def _missing(array: h5py.Dataset) -> str | None:
    """What is wrong with how an array is stored, if anything is."""
    if array.shape is None:
        return "must hold values, it is empty"
    if array.chunks is None:
        stored, needed = array.id.get_storage_size(), array.size * array.dtype.itemsize
        if stored != needed:
            return f"must be stored whole, {needed} bytes, got {stored}: the rest would read as 0"
        return None
    if math.prod(array.chunks) * array.dtype.itemsize > MAX_CHUNK_BYTES:
        return f"must be stored in chunks of at most {MAX_CHUNK_BYTES} bytes, got {array.chunks}"
    needed = math.prod(
        -(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)
    )
    stored = array.id.get_num_chunks()
    if stored < needed:
        return f"must have all its {needed} chunks, got {stored}: the rest would read as 0"
    return None


def read_scalar(group: h5py.Group, name: str, path: Path) -> float:
    """A single number."""
    array = find_array(group, name, path)
    if array.size != 1:
        raise refused(path, f"must be a single number, got shape {array.shape}", column=name)
    with hdf5_errors(path, name):
        return float(np.ravel(array[()])[0])


def read_count(group: h5py.Group, name: str, path: Path) -> int | None:
    """A whole number among a group's attributes; None if there is none of that name."""
    with hdf5_errors(path, name):
        value = group.attrs.get(name)
    if value is None:
        return None
    if np.ndim(value) or np.asarray(value).dtype.kind not in "iu":
        raise refused(path, f"must be a whole number, got {str(value)[:40]!r}", column=name)
    return int(value)


class Hdf5Table:
    """Arrays of one group as a table.

    Args:
        group: an open file, or a group in it.
        path: of the file.
        names: of the arrays.

    Raises:
        DatasetError: one is missing or damaged, or their lengths differ.
    """

    def __init__(self, group: h5py.Group, path: Path, names: Sequence[str]) -> None:
        self.file = str(path)
        self._columns = {name: find_array(group, name, path) for name in names}
        lengths = {
            name: array.shape[0] if array.ndim else 1 for name, array in self._columns.items()
        }
        if len(set(lengths.values())) != 1:
            raise refused(path, f"arrays must have equally many rows, got {lengths}")
        self.num_rows = int(next(iter(lengths.values())))
        if self.num_rows < 1:
            raise refused(path, "must hold at least one row, it has none")

    def read(self, name: str, begin: int, end: int) -> Shaped[np.ndarray, "n *F"]:
        """Rows of a column."""
        with hdf5_errors(self.file, name):
            values: np.ndarray = self._columns[name][begin:end]
        return values
