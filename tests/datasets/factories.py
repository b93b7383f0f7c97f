"""Small episodes and data sets for the tests of this folder."""

import numpy as np

from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.schema import Provenance, TaskEntry
from causeway.datasets.writer import DatasetHeader, DatasetWriter

LAYOUT = RowLayout(observation_size=3, action_size=2)
HORIZON = 6


def make_episode(steps=HORIZON, seed=0):
    """One episode of random transitions that ends at a time limit."""
    generator = np.random.default_rng(seed)
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    return Episode(
        observation=generator.normal(size=(steps, 3)).astype(np.float32),
        action=generator.uniform(-1, 1, (steps, 2)).astype(np.float32),
        next_observation=generator.normal(size=(steps, 3)).astype(np.float32),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        reward=generator.normal(size=steps).astype(np.float32),
    )


def make_episodes(count, seed=0, steps=HORIZON):
    return [make_episode(steps, seed=1000 * seed + i) for i in range(count)]


def make_header(train=(0, 1), test=(2,), horizon=HORIZON):
    entries = [TaskEntry(id=i, split_part="train", parameters={"goal": i / 2}) for i in train]
    entries += [TaskEntry(id=i, split_part="test", parameters={"goal": i / 2}) for i in test]
    return DatasetHeader(
        family="toy",
        split="standard",
        observation_size=3,
        action_size=2,
        horizon=horizon,
        tasks=tuple(entries),
        provenance=Provenance(generator="test", created="2025-01-01T00:00:00Z", seed=0),
        license="CC0-1.0",
    )


def write_dataset(folder, *, parts=2, episodes=4, header=None):
    """A data set of `parts` parts per task; gives the episodes by task."""
    header = header or make_header()
    written = {}
    with DatasetWriter(folder, header) as writer:
        for task in header.tasks:
            written[task.id] = []
            for part in range(parts):
                chunk = make_episodes(episodes, seed=10 * task.id + part, steps=header.horizon)
                writer.add(task.id, chunk)
                written[task.id] += chunk
    return written


def assert_same_episodes(actual, expected):
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(LAYOUT.pack(ours), LAYOUT.pack(theirs))
