"""A process that streams a data set under a limit on its memory, and tells what it drew.

The limit is RLIMIT_DATA: beyond it the kernel gives no further private memory, whoever asks, where
a control group takes rights that tests seldom have. Pages that only cache a file do not count;
the kernel takes those back by itself.
"""

import json
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.buffers import open_buffers
from causeway.datasets.cache import RowCache
from causeway.datasets.sampler import MetaSampler, SamplerConfig
from causeway.datasets.schema import Provenance, TaskEntry
from causeway.datasets.store import DatasetStore
from causeway.datasets.streaming import RowFile
from causeway.datasets.writer import DatasetHeader, DatasetWriter

LAYOUT = RowLayout(observation_size=17, action_size=5)
HORIZON = 200
NUMBER, TASK = 0, 1  # columns of a row: its number within the task, and the task
UPDATES = 2  # of a block
STACK_BYTES = 1 << 20  # of a thread; what is usual, 8 MB, would count as used


def write_numbered_set(folder: Path, *, num_tasks: int, episodes_per_task: int) -> None:
    """A data set whose rows say who they are."""
    header = DatasetHeader(
        family="numbered",
        split="standard",
        observation_size=LAYOUT.observation_size,
        action_size=LAYOUT.action_size,
        horizon=HORIZON,
        tasks=tuple(TaskEntry(id=i, split_part="train", parameters={}) for i in range(num_tasks)),
        provenance=Provenance(generator="test", created="2025-01-01T00:00:00Z"),
        license="CC0-1.0",
    )
    observation = np.zeros((episodes_per_task, HORIZON, LAYOUT.observation_size), np.float32)
    observation[..., NUMBER] = np.arange(episodes_per_task * HORIZON).reshape(-1, HORIZON)
    with DatasetWriter(folder, header) as writer:
        for task in range(num_tasks):
            observation[..., TASK] = task
            writer.add(task, [_episode(each) for each in observation])


def _episode(observation: np.ndarray) -> Episode:
    return Episode(
        observation=observation,
        action=np.zeros((HORIZON, LAYOUT.action_size), np.float32),
        next_observation=observation,
        reward=np.zeros(HORIZON, np.float32),
        terminated=np.zeros(HORIZON, bool),
        truncated=np.arange(HORIZON) == HORIZON - 1,
    )


def main() -> None:
    """Reads what to do from the first argument and prints what happened, both as JSON."""
    given = json.loads(sys.argv[1])
    config = SamplerConfig(**given["sampler"])
    store = DatasetStore.open(given["folder"])
    cache = RowCache(Path(given["cache"]), 1 << 40)
    num_rows = sum(part.rows for part in store.parts(0))
    drawn = np.zeros((len(store.task_ids()), num_rows), np.uint16)
    drawn[:] = 0  # now, not under the limit
    reads = record_reads()
    threading.stack_size(STACK_BYTES)
    set_limit(given["limit_bytes"])
    blocks_per_pass = drawn.size * config.reuse / (UPDATES * rows_per_update(config))
    report: dict[str, Any] = {"distinct": [], "coverage": []}
    with open_buffers(store, cache, store.task_ids(), config, seed=given["seed"]) as opened:
        sampler = MetaSampler(opened.buffers, config, seed=given["seed"])
        for _ in range(given["passes"]):
            for _ in range(round(blocks_per_pass)):
                note(sampler.sample_block(UPDATES), drawn)
            report["distinct"].append(float((drawn > 0).mean()))
            report["coverage"].append(opened.coverage)
        report["mode"] = opened.mode
        report["sequence"] = sampler.sample_block(1).transitions[0, 0, :, NUMBER].tolist()
    report["draws_by_task"] = drawn.sum(axis=1, dtype=np.int64).tolist()
    report["reads"] = [reads[name] for name in sorted(reads)]
    report["is_enforced"] = is_refused(given["limit_bytes"])
    print(json.dumps(report))


def rows_per_update(config: SamplerConfig) -> int:
    """How many rows one meta-batch takes."""
    return config.tasks_per_batch * (config.context_per_task + config.transitions_per_task)


def record_reads() -> dict[str, list[int]]:
    """From now on, the row groups that are read, by file."""
    reads: dict[str, list[int]] = {}
    read = RowFile.read

    def recorded(file: RowFile, group: int, into: np.ndarray) -> None:
        read(file, group, into)
        reads.setdefault(file.path.name, []).append(group)

    RowFile.read = recorded  # type: ignore[method-assign]
    return reads


def set_limit(limit_bytes: int) -> None:
    """From now on, no more private memory than that beyond what there is."""
    status = Path("/proc/self/status").read_text()
    used_bytes = int(status.partition("VmData:")[2].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used_bytes + limit_bytes,) * 2)


def is_refused(size_bytes: int) -> bool:
    """Whether there is no memory for an array of that size."""
    try:
        np.empty(size_bytes, np.uint8)
    except MemoryError:
        return True
    return False


def note(block: Any, drawn: np.ndarray) -> None:
    """Counts the rows of a block, each of which must be of its task."""
    for rows in (block.context, block.transitions):
        for place in np.ndindex(block.task.shape):
            task = int(block.task[place])
            assert (rows[place][:, TASK] == task).all()
            np.add.at(drawn[task], rows[place][:, NUMBER].astype(np.int64), 1)


if __name__ == "__main__":
    main()
