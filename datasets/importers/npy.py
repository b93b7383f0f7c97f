"""numpy's .npy files of plain numbers, mapped, and the headers of all.

A header is read as a literal, and nothing is unpickled. The format has no checksum. A file whose
size is not what its header says is refused; a damaged value that is still a sensible number cannot
be told from a good one.
"""

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from causeway.datasets.importers.foreign import refused

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
OBJECTS = "O"
_NUMBERS = re.compile(r"[<>|=]?(f[248]|[iu][1248]|b1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NpyHeader:
    """What a file says of itself."""

    path: Path
    kind: str  # a dtype of numbers, or OBJECTS
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int  # of the data, in bytes


def read_header(path: Path) -> NpyHeader:
    """The header of a .npy file.

    Raises:
        DatasetError: it is no such file, or holds something else than numbers and objects.
    """
    try:
        with path.open("rb") as file:
            start = file.read(12)
            if len(start) < 12 or not start.startswith(MAGIC) or start[6] not in (1, 2):
                raise refused(path, "must be a .npy file of version 1 or 2, it does not begin so")
            width = 2 if start[6] == 1 else 4
            size = int.from_bytes(start[8 : 8 + width], "little")
            if size > MAX_HEADER_BYTES:
                what = f"its header must have at most {MAX_HEADER_BYTES} bytes, it states {size}"
                raise refused(path, what)
            file.seek(8 + width)
            text = file.read(size)
    except OSError as error:
        raise refused(path, f"must be readable, but {error}") from error
    return _parse(path, text, 8 + width + size)


def _parse(path: Path, text: bytes, offset: int) -> NpyHeader:
    try:
        header: Any = ast.literal_eval(text.decode("latin1").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise refused(path, f"its header must be a literal, but {error}") from error
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        what = f"its header must give descr, fortran_order and shape, got {str(header)[:80]}"
        raise refused(path, what)
    kind, shape = header["descr"], header["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise refused(path, f"its shape must be a tuple of sizes, got {str(shape)[:80]}")
    if kind == "|O":
        kind = OBJECTS
    elif not is_numeric(kind):
        raise refused(path, f"must hold real numbers, got dtype {str(kind)[:80]!r}")
    order: Literal["C", "F"] = "F" if header["fortran_order"] is True else "C"
    return NpyHeader(path=path, kind=kind, shape=shape, order=order, offset=offset)


def map_array(path: Path) -> Shaped[np.ndarray, "*shape"]:
    """The array in a .npy file of numbers, mapped and read-only.

    Raises:
        DatasetError: it holds something else, or is longer or shorter than its header says.
    """
    header = read_header(path)
    if header.kind == OBJECTS:
        raise refused(path, "must hold numbers, it holds pickled objects, which are not read")
    dtype = np.dtype(header.kind)
    needed = header.offset + math.prod(header.shape) * dtype.itemsize
    actual = path.stat().st_size
    if actual != needed:
        what = f"must have {needed} bytes for shape {header.shape} of {dtype}, got {actual}"
        raise refused(path, what)
    if needed == header.offset:
        raise refused(path, f"must hold at least one value, its shape is {header.shape}")
    return np.memmap(path, dtype, "r", header.offset, header.shape, header.order).view(np.ndarray)


def is_numeric(kind: Any) -> bool:
    """Whether it is the name of a dtype of real numbers."""
    return isinstance(kind, str) and _NUMBERS.fullmatch(kind) is not None


def numeric_array(
    kind: Any, shape: Any, data: Any, order: Literal["C", "F"]
) -> Shaped[np.ndarray, "*shape"]:
    """The array of numbers that a dtype's name, a shape and bytes describe.

    Raises:
        ValueError: they do not describe one.
    """
    if not is_numeric(kind):
        raise ValueError(f"an array must be of real numbers, got dtype {str(kind)[:40]!r}")
    if not all(type(n) is int and n >= 0 for n in shape) or not isinstance(data, bytes):
        raise ValueError(f"an array must have sizes and bytes, got shape {str(shape)[:40]}")
    return np.frombuffer(data, np.dtype(kind)).reshape(tuple(shape), order=order)


class NpyTable:
    """Arrays of one folder as a table.

    Each is [rows, F] or, all alike, [T, N, F]: N trajectories of T steps, which are put one after
    the other.

    Args:
        folder: where they are.
        names: of the files.

    Raises:
        DatasetError: one is missing or damaged, or their sizes differ.
    """

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self.file = str(folder)
        missing = [name for name in names.values() if not (folder / name).is_file()]
        if missing:
            raise refused(folder, f"must hold {', '.join(names.values())}; {missing} are missing")
        paths = {name: folder / name for name in names.values()}
        self._columns = {
            name: _as_trajectories(map_array(path), path) for name, path in paths.items()
        }
        sizes = {name: column.shape[:2] for name, column in self._columns.items()}
        if len(set(sizes.values())) != 1:
            raise refused(folder, f"arrays must have equally many rows, got {sizes}")
        count, self.steps = next(iter(sizes.values()))  # self.steps: of one trajectory
        self.num_rows = int(count * self.steps)

    def read(self, name: str, begin: int, end: int) -> Shaped[np.ndarray, "n F"]:
        """Rows of a column."""
        column, first = self._columns[name], begin // self.steps
        block = column[first : -(-end // self.steps)]
        rows = block.reshape(-1, block.shape[-1]) if self.steps > 1 else block[:, 0]
        skipped = first * self.steps
        return rows[begin - skipped : end - skipped]


def _as_trajectories(array: Shaped[np.ndarray, "..."], path: Path) -> Shaped[np.ndarray, "N T F"]:
    """An array with an axis for trajectories; flat rows become trajectories of one step."""
    if array.ndim == 1:
        return array[:, None, None]
    if array.ndim == 2:
        return array[:, None, :]
    if array.ndim == 3:
        return array.transpose(1, 0, 2)
    raise refused(path, f"must have shape [rows, F] or [T, N, F], got {array.shape}")
