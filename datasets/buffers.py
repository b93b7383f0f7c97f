"""From a data set to the sampler's buffers: mapped where they fit in memory, streamed where not."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Literal, Self

import numpy as np

from causeway.datasets.cache import RowCache
from causeway.datasets.faults import DatasetError
from causeway.datasets.memory import large_arrays
from causeway.datasets.rows import ROW_DTYPE, MappedRows, map_rows
from causeway.datasets.sampler import SamplerConfig
from causeway.datasets.store import DatasetStore
from causeway.datasets.streaming import RowFile, StreamedRows, pool_shape
from causeway.datasets.task_buffer import TaskBuffer


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBuffers:
    """Tasks' buffers and what keeps them supplied; a context manager, or closed by `close`."""

    buffers: dict[int, TaskBuffer]
    mode: Literal["mapped", "streamed"]
    skipped: tuple[int, ...] = ()  # tasks without any readable part
    _streams: tuple[StreamedRows, ...] = ()
    _reader: ThreadPoolExecutor | None = field(default=None, repr=False)

    @property
    def coverage(self) -> float:
        """The share of the data that has been within reach of a draw, mean over tasks."""
        if not self._streams:
            return 1.0
        return float(np.mean([stream.coverage for stream in self._streams]))

    def close(self) -> None:
        """Stops reading ahead and closes the files; the buffers cannot be drawn from any more."""
        for stream in self._streams:
            stream.close()
        if self._reader is not None:
            self._reader.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_buffers(
    store: DatasetStore, cache: RowCache, tasks: Sequence[int], config: SamplerConfig, seed: int
) -> OpenBuffers:
    """The buffers of some tasks of a data set.

    Args:
        store: the data set; faulty parts of it are left out.
        cache: where its rows are decoded to.
        tasks: which tasks.
        config: how rows are held, and how many one draw takes.
        seed: of the order in which a streamed set is read.

    Raises:
        DatasetError: if no task has a readable part, or the memory budget is too small for the
            smallest pool, or a row group for a whole episode where contexts are of such.
    """
    with ExitStack() as until_opened:
        files = _row_files(store, cache, tasks, until_opened)
        skipped = tuple(task for task in tasks if task not in files)
        if not files:
            raise DatasetError(
                f"{store.folder} must have rows of at least one of the tasks {list(tasks)}, it has "
                f"none: {'; '.join(str(fault) for fault in store.faults)}"
            )
        width = store.layout.width
        total_bytes = sum(os.fstat(file.fileno()).st_size for file in files.values())
        fits = total_bytes <= config.memory_budget_bytes
        if config.mode == "mapped" or (config.mode == "auto" and fits):
            return OpenBuffers(buffers=_mapped(files, width), mode="mapped", skipped=skipped)
        group_rows = _group_rows(len(files), width, config, horizon=store.manifest.horizon)
        reader = until_opened.enter_context(ThreadPoolExecutor(1, thread_name_prefix="row-reader"))
        streams = _streamed(files, width, config, group_rows, seed, reader)
        until_opened.pop_all()  # what follows closes them itself
    return OpenBuffers(
        buffers={task: TaskBuffer(stream) for task, stream in streams.items()},
        mode="streamed",
        skipped=skipped,
        _streams=tuple(streams.values()),
        _reader=reader,
    )


def _row_files(
    store: DatasetStore, cache: RowCache, tasks: Sequence[int], stack: ExitStack
) -> dict[int, BinaryIO]:
    """The row files of the tasks that have a readable part, open until the stack is unwound."""
    files = {}
    for task in tasks:
        try:
            files[task] = stack.enter_context(cache.open(store, task))
        except DatasetError:
            if store.parts(task):  # the data are there: the cache, or strictness, is the reason
                raise
    return files


def _mapped(files: Mapping[int, BinaryIO], width: int) -> dict[int, TaskBuffer]:
    return {task: TaskBuffer(MappedRows(map_rows(file, width))) for task, file in files.items()}


def _streamed(
    files: Mapping[int, BinaryIO],
    width: int,
    config: SamplerConfig,
    group_rows: int,
    seed: int,
    reader: ThreadPoolExecutor,
) -> dict[int, StreamedRows]:
    row_files = [RowFile(file, width=width, group_rows=group_rows) for file in files.values()]
    pools = large_arrays(
        [pool_shape(file, config.pool_row_groups) for file in row_files], ROW_DTYPE
    )
    return {
        task: StreamedRows(
            file,
            pool=pool,
            reuse=config.reuse,
            seed=_stream_seed(seed, task),
            reader=reader,
        )
        for task, file, pool in zip(files, row_files, pools, strict=True)
    }


def _group_rows(num_tasks: int, width: int, config: SamplerConfig, horizon: int) -> int:
    """Rows of a group, such that all pools, and a group being read for each, keep the budget."""
    row_bytes = width * ROW_DTYPE.itemsize
    num_groups = num_tasks * (config.pool_row_groups + 1)
    allowed = min(config.row_group_rows, config.memory_budget_bytes // (num_groups * row_bytes))
    per_draw = config.context_per_task + config.transitions_per_task
    # One group of a pool may be short; the others must do for a draw of distinct rows.
    needed = -(-per_draw // (config.pool_row_groups - 1))
    if config.context_episodes is not None:
        # However episodes lie, this many rows hold a whole one of `horizon` steps or fewer.
        whole = 2 * horizon - 1
        if config.row_group_rows < whole:
            raise DatasetError(
                f"SamplerConfig.row_group_rows must be at least {whole} for a row group to hold a "
                f"whole episode of up to {horizon} steps, got {config.row_group_rows}: raise it, "
                "or set context_episodes to null"
            )
        needed = max(needed, whole)
    if allowed < needed:
        minimum = needed * num_groups * row_bytes
        raise DatasetError(
            f"SamplerConfig.memory_budget_bytes must be at least {minimum} to stream {num_tasks} "
            f"tasks in row groups of {needed} rows, with {per_draw} rows per draw, got "
            f"{config.memory_budget_bytes}: raise it, or draw fewer rows per task"
        )
    return allowed


def _stream_seed(seed: int, task: int) -> int:
    """Seeds of different tasks are unrelated."""
    return int(np.random.SeedSequence([seed, task & 0xFFFFFFFF]).generate_state(1, np.uint64)[0])
