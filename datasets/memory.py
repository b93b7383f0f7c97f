"""Memory for arrays that come and go.

A new array of some megabytes costs one page fault for every 4 KB when it is filled, which is as
much as the filling itself.
"""

import math
import mmap
import weakref
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

MAX_FREE = 2  # kept while nothing is in them


class RecycledMemory:
    """Gives arrays whose memory is used again once nothing refers to them, or to a part of them."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def arrays(
        self, shapes: Sequence[tuple[int, ...]], kind: np.dtype[np.float32]
    ) -> list[Shaped[np.ndarray, "..."]]:
        """Arrays of these shapes, one behind the other; what is in them is arbitrary."""
        counts = [math.prod(shape) for shape in shapes]
        whole = self._take(sum(counts) * kind.itemsize)
        # Numpy keeps this one alive for any part of it, so what happens to it tells of them all.
        every = np.frombuffer(whole, kind, sum(counts))
        weakref.finalize(every, self._give_back, whole).atexit = False
        parts = np.split(every, np.cumsum(counts)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _take(self, size_bytes: int) -> mmap.mmap:
        while self._free:
            memory = self._free.pop()
            if len(memory) >= size_bytes:
                return memory
        return mmap.mmap(-1, max(1, size_bytes))

    def _give_back(self, memory: mmap.mmap) -> None:
        if len(self._free) < MAX_FREE:
            self._free.append(memory)
