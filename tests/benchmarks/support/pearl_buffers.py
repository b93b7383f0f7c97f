"""Per-task replay buffers in numpy, as PEARL's users write them: the structure of rlkit's.

One buffer for each task, one array for each field, sampled task by task with replacement; each
batch becomes float32 tensors, which are put together over the tasks.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.support.large_set import LAYOUT, LargeSet

FIELDS = ("observations", "actions", "rewards", "next_observations", "terminals")


class TaskReplayBuffer:
    """One task's transitions."""

    def __init__(self, rows: np.ndarray, kind: type[np.floating]) -> None:
        observation, action = LAYOUT.observation_size, LAYOUT.action_size
        cuts = np.cumsum([observation, action, 1, observation])
        columns = np.split(rows, cuts, axis=1)
        self.size = len(rows)
        self.arrays = {name: c.astype(kind) for name, c in zip(FIELDS[:4], columns, strict=False)}
        self.arrays["terminals"] = columns[4][:, :1].astype(np.uint8)

    def random_batch(self, batch_size: int) -> dict[str, np.ndarray]:
        indices = np.random.randint(0, self.size, batch_size)  # noqa: NPY002 - as users write it
        return {name: array[indices] for name, array in self.arrays.items()}


class MultiTaskReplayBuffer:
    """All tasks' buffers.

    Args:
        data: what they hold.
        kind: of their numbers; float64 is what numpy gives unasked, and what rlkit has.
    """

    def __init__(self, data: LargeSet, kind: type[np.floating]) -> None:
        self.buffers = [
            TaskReplayBuffer(data.cache.rows(data.store, task), kind)
            for task in data.store.task_ids()
        ]

    def sample_meta_batch(self, *, tasks: int, context: int, transitions: int) -> None:
        """Tasks, and for each of them transitions, and a context if it has rows."""
        indices = np.random.choice(len(self.buffers), tasks)  # noqa: NPY002
        if context:
            inputs = self.sample(indices, context)
            torch.cat([inputs[0], inputs[1], inputs[2]], dim=2)  # what the encoder takes
        self.sample(indices, transitions)

    def sample(self, indices: Sequence[int], batch_size: int) -> list[Tensor]:
        """Fields [N, B, ...], each put together over the tasks."""
        batches = [self.buffers[index].random_batch(batch_size) for index in indices]
        unpacked = [
            [torch.from_numpy(batch[name]).float().unsqueeze(0) for name in FIELDS]
            for batch in batches
        ]
        return [torch.cat([each[field] for each in unpacked]) for field in range(len(FIELDS))]
