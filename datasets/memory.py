"""Memory for large arrays: on large pages, and used again where it comes and goes.

A read or write somewhere in a large array takes a look into the tables of its pages first. Large
pages, 2 MiB each, need so few entries that the processor keeps them. And a new array of some
megabytes costs one page fault for every page when it is filled, which on small ones is as much as
the filling itself.
"""

import errno
import math
import mmap
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32

MAX_FREE = 2  # kept while nothing is in them
POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14 and newer, which `mmap` has no name for

Shapes = Sequence[tuple[int, ...]]
Kind = np.dtype[np.float32]
Arrays = list[Float32[np.ndarray, "..."]]


def large_arrays(shapes: Shapes, kind: Kind) -> Arrays:
    """Arrays of these shapes, one behind the other, full of zeros."""
    count = sum(_counts(shapes))
    return _parts(np.frombuffer(_new_memory(count * kind.itemsize), kind, count), shapes)


def map_file(file: BinaryIO, *, begin: int = 0, size_bytes: int = 0) -> mmap.mmap:
    """A file as read-only memory: so many bytes from `begin`, or (0) all of them.

    The pages are large where the system reads the file because of this. What it has of the file
    already stays as it is; it came in large pieces if it was written in such.
    """
    memory = mmap.mmap(file.fileno(), size_bytes, prot=mmap.PROT_READ, offset=begin)
    _ask_for_large_pages(memory)
    return memory


def read_ahead(memory: mmap.mmap) -> None:
    """Reads a mapped file at once, where the system can; if not, it is read when looked at.

    Raises:
        OSError: if it cannot be read: looking at it would end the process.
    """
    try:
        memory.madvise(POPULATE_READ)
    except OSError as error:
        if error.errno != errno.EINVAL:  # which says that it is not known
            raise OSError(errno.EIO, "a file that was mapped cannot be read") from error


class RecycledMemory:
    """Gives arrays whose memory is used again once nothing refers to them, or to a part of them."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def arrays(self, shapes: Shapes, kind: Kind) -> Arrays:
        """Arrays of these shapes, one behind the other; what is in them is arbitrary."""
        count = sum(_counts(shapes))
        whole = self._take(count * kind.itemsize)
        # Numpy keeps this one alive for any part of it, so what happens to it tells of them all.
        every = np.frombuffer(whole, kind, count)
        weakref.finalize(every, self._give_back, whole).atexit = False
        return _parts(every, shapes)

    def _take(self, size_bytes: int) -> mmap.mmap:
        while self._free:
            memory = self._free.pop()
            if len(memory) >= size_bytes:
                return memory
        return _new_memory(size_bytes)

    def _give_back(self, memory: mmap.mmap) -> None:
        if len(self._free) < MAX_FREE:
            self._free.append(memory)


def _counts(shapes: Shapes) -> list[int]:
    return [math.prod(shape) for shape in shapes]


def _parts(every: Float32[np.ndarray, "n"], shapes: Shapes) -> Arrays:
    parts = np.split(every, np.cumsum(_counts(shapes))[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _new_memory(size_bytes: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, max(1, size_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for {size_bytes} bytes of rows: {error}") from error
    _ask_for_large_pages(memory)
    return memory


def _ask_for_large_pages(memory: mmap.mmap) -> None:
    """A system without them leaves the pages small, which is all that this changes."""
    with suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
