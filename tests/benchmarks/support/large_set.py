"""A data set as large as those of offline meta-RL, made for a benchmark and deleted behind it.

At full scale 100 tasks of 100,000 transitions of 42 float32, 1.68 GB, in episodes of 200 steps.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.cache import RowCache
from causeway.datasets.rows import ROW_DTYPE
from causeway.datasets.schema import Provenance, TaskEntry
from causeway.datasets.store import DatasetStore
from causeway.datasets.writer import DatasetHeader, DatasetWriter
from tests.benchmarks.harness import Options

LAYOUT = RowLayout(observation_size=17, action_size=5)
HORIZON = 200
NUM_TASKS, EPISODES_PER_TASK = 100, 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeSet:
    """The data set on disk, and its decoded rows."""

    store: DatasetStore
    cache: RowCache

    @property
    def files(self) -> list[str]:
        """The Parquet files, in the order of the tasks."""
        folder = Path(self.store.folder.path)
        return [
            str(folder / part.path)
            for task in self.store.task_ids()
            for part in self.store.parts(task)
        ]

    @property
    def bytes(self) -> int:
        """All rows as float32."""
        return self.cache.size_bytes


@contextmanager
def large_set(options: Options) -> Iterator[LargeSet]:
    """Makes the data set in a temporary folder.

    Raises:
        OSError: if the disk has too little room.
    """
    num_tasks = options.scaled(NUM_TASKS, at_least=16)
    episodes_per_task = options.scaled(EPISODES_PER_TASK, at_least=25)
    rows_bytes = num_tasks * episodes_per_task * HORIZON * LAYOUT.width * ROW_DTYPE.itemsize
    with tempfile.TemporaryDirectory(prefix="causeway-benchmark-") as folder:
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < 2.5 * rows_bytes:  # as Parquet, and as rows
            raise OSError(
                f"{folder} must have {2.5 * rows_bytes / 1e9:.1f} GB free, it has "
                f"{free_bytes / 1e9:.1f}: set TMPDIR to another disk, or give a smaller --scale"
            )
        path = Path(folder) / "set"
        write_set(path, num_tasks=num_tasks, episodes_per_task=episodes_per_task)
        store = DatasetStore.open(path)
        cache = RowCache(Path(folder) / "rows", 2 * rows_bytes)
        for task in store.task_ids():
            cache.path(store, task)
        yield LargeSet(store=store, cache=cache)


def write_set(path: Path, *, num_tasks: int, episodes_per_task: int) -> None:
    """Writes a data set of random transitions."""
    generator = np.random.default_rng(0)
    header = DatasetHeader(
        family="benchmark",
        split="standard",
        observation_size=LAYOUT.observation_size,
        action_size=LAYOUT.action_size,
        horizon=HORIZON,
        tasks=tuple(
            TaskEntry(id=task, split_part="train", parameters={}) for task in range(num_tasks)
        ),
        provenance=Provenance(generator="benchmark", created="2025-01-01T00:00:00Z", seed=0),
        license="CC0-1.0",
    )
    with DatasetWriter(path, header) as writer:
        for task in range(num_tasks):
            writer.add(task, [make_episode(generator) for _ in range(episodes_per_task)])


def make_episode(generator: np.random.Generator) -> Episode:
    """One episode up to the time limit."""
    path = generator.standard_normal((HORIZON + 1, LAYOUT.observation_size), np.float32)
    action = generator.random((HORIZON, LAYOUT.action_size), np.float32) * 2.0 - 1.0
    return Episode(
        observation=path[:-1],
        action=action,
        next_observation=path[1:],
        reward=generator.standard_normal(HORIZON, np.float32),
        terminated=np.zeros(HORIZON, bool),
        truncated=np.arange(HORIZON) == HORIZON - 1,
    )
