"""A node's row cache: each task's transitions, decoded once, as a file of fixed-width rows.

Decoding Parquet for every batch is 15 to 30 times slower than gathering from such a file. Files
are named by the checksums of the parts they were decoded from, so they never go stale, and by that
of their own contents, so a damaged one is noticed. They are shared by the processes of a node, and
can be deleted at any time: they are made again.
"""

import hashlib
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock
from jaxtyping import Float32

from causeway.datasets.batches import RowLayout
from causeway.datasets.faults import DatasetError
from causeway.datasets.memory import map_file, read_ahead
from causeway.datasets.rows import ROW_DTYPE, map_rows
from causeway.datasets.schema import PartEntry
from causeway.datasets.store import DatasetStore

FORMAT = "rows-3"  # of the files; part of the key
SPARE_BYTES = 64 << 20  # left free on the disk
ABANDONED_AFTER_S = 3600.0  # without a write to a temporary file
CHECKED_BYTES = 64 << 20  # in one piece


def default_cache_folder() -> Path:
    """Where a user's row cache is: $XDG_CACHE_HOME, else ~/.cache, then causeway/rows."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "causeway" / "rows"


class RowCache:
    """Row files on this node's disk, the least recently used ones deleted when space is needed.

    A file that this process has asked for is not deleted by it. One that another process deletes
    stays readable to whoever has it open.

    Args:
        folder: created if absent; on a local disk.
        max_bytes: of all row files together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"RowCache.max_bytes must be at least 1, got {max_bytes}")
        self.folder = folder
        self.max_bytes = max_bytes
        self._in_use: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def rows(self, store: DatasetStore, task: int) -> Float32[np.ndarray, "n W"]:
        """A task's transitions as rows in the order of its episodes, mapped and read-only.

        Raises:
            DatasetError: if the task has no readable part, or the rows do not fit the cache or
                the disk.
        """
        with self.open(store, task) as file:
            return map_rows(file, store.layout.width)

    def open(self, store: DatasetStore, task: int) -> BinaryIO:
        """The file with a task's rows, which stays readable when it is deleted; see `rows`."""
        while True:
            path = self.path(store, task)
            try:
                return path.open("rb", buffering=0)
            except FileNotFoundError:  # another process has just deleted it
                continue

    def path(self, store: DatasetStore, task: int) -> Path:
        """Where a task's rows are, written first if they are not there; see `rows`."""
        while True:
            path = self._find_or_write(store, task)
            try:
                os.utime(path)  # the time of last use
            except FileNotFoundError:  # another process has just deleted it
                continue
            self._in_use.add(path)
            return path

    @property
    def size_bytes(self) -> int:
        """What the cache holds now."""
        return sum(size for _, size, _ in self._files())

    def _find_or_write(self, store: DatasetStore, task: int) -> Path:
        parts = self._readable(store, task)
        path = self._find(store.layout, parts)
        if path is not None:
            return path
        with FileLock(self.folder / f"{_key(store.layout, parts)}.lock"):
            # Another process may have written it while this one waited.
            return self._find(store.layout, parts) or self._write(store, task, parts)

    def _readable(self, store: DatasetStore, task: int) -> tuple[PartEntry, ...]:
        parts = store.parts(task)
        if not parts:
            reasons = "; ".join(str(fault) for fault in store.faults) or "it lists none"
            raise DatasetError(
                f"task {task} of {store.folder} must have at least one readable part: {reasons}"
            )
        return parts

    def _find(self, layout: RowLayout, parts: tuple[PartEntry, ...]) -> Path | None:
        """The file with the rows of these parts; one that is damaged or unreadable is deleted."""
        for path in self.folder.glob(f"{_key(layout, parts)}-*.rows"):
            if path in self._in_use and path.exists():
                return path
            with suppress(FileNotFoundError):  # another process has just deleted it
                if _is_sound(path):
                    return path
                path.unlink()
        return None

    def _write(self, store: DatasetStore, task: int, parts: tuple[PartEntry, ...]) -> Path:
        """Decodes a task's parts. Faulty ones are left out, and the file is named by the rest."""
        self._make_room(_size_bytes(store.layout, parts))
        checksum = 0
        try:
            with self._temporary_file() as (file, temporary):
                for episodes in filter(None, store.iterate_parts(task)):
                    # In one piece: so the system keeps the file on large pages, see `memory`.
                    rows = np.concatenate([store.layout.pack(episode) for episode in episodes])
                    rows = rows.astype(ROW_DTYPE, copy=False)
                    checksum = zlib.crc32(rows.data, checksum)
                    file.write(rows.data)
                file.flush()
                os.fsync(file.fileno())
                key = _key(store.layout, self._readable(store, task))
                path = self.folder / f"{key}-{checksum:08x}.rows"
                temporary.replace(path)
        except OSError as error:
            raise DatasetError(
                f"the row cache in {self.folder} must take the rows of task {task}, but writing "
                f"them failed: {error}; free some space, or choose a cache folder elsewhere"
            ) from error
        return path

    @contextmanager
    def _temporary_file(self) -> Iterator[tuple[BinaryIO, Path]]:
        temporary = self.folder / f".{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as file:
                yield file, temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, needed_bytes: int) -> None:
        """Deletes the least recently used files until there is room for a new one."""
        with FileLock(self.folder / "evict.lock"):
            self._delete_abandoned()
            files = self._files()
            total = sum(size for _, size, _ in files)
            for _, size, path in files:
                if total + needed_bytes <= self.max_bytes:
                    break
                if path not in self._in_use:
                    path.unlink(missing_ok=True)
                    (self.folder / f"{path.stem.partition('-')[0]}.lock").unlink(missing_ok=True)
                    total -= size
        if total + needed_bytes > self.max_bytes:
            raise DatasetError(
                f"the row cache in {self.folder} must hold {total + needed_bytes} bytes for this "
                f"run, but may hold {self.max_bytes}: raise its max_bytes"
            )
        free_bytes = shutil.disk_usage(self.folder).free
        if free_bytes < needed_bytes + SPARE_BYTES:
            raise DatasetError(
                f"the disk of the row cache, {self.folder}, must have {needed_bytes + SPARE_BYTES} "
                f"bytes free, it has {free_bytes}: free some, or choose a cache folder elsewhere"
            )

    def _delete_abandoned(self) -> None:
        """Deletes what killed processes left half written."""
        for path in self.folder.glob(".*.tmp"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                    path.unlink()

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of last use, size and path of each row file, the least recently used first."""
        found = []
        for path in self.folder.glob("*.rows"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process has just deleted it
                continue
            found.append((status.st_mtime, status.st_size, path))
        return sorted(found)


def _key(layout: RowLayout, parts: tuple[PartEntry, ...]) -> str:
    """What the name of a file with the rows of these parts begins with."""
    words = [FORMAT, str(layout.observation_size), str(layout.action_size)]
    if layout.outcome_discount is not None:
        words.append(f"outcomes {layout.outcome_discount!r}")
    key = hashlib.sha256("/".join(words + [part.sha256 for part in parts]).encode())
    return key.hexdigest()[:40]


def _is_sound(path: Path) -> bool:
    """Whether a file can be read and has the contents that its name ends with.

    Raises:
        FileNotFoundError: if it is not there.
    """
    checksum = 0
    with path.open("rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        for begin in range(0, size_bytes, CHECKED_BYTES):
            piece = map_file(file, begin=begin, size_bytes=min(CHECKED_BYTES, size_bytes - begin))
            try:
                read_ahead(piece)
            except OSError:
                return False
            checksum = zlib.crc32(piece, checksum)
    return path.stem.endswith(f"-{checksum:08x}")


def _size_bytes(layout: RowLayout, parts: tuple[PartEntry, ...]) -> int:
    return sum(part.rows for part in parts) * layout.width * ROW_DTYPE.itemsize
