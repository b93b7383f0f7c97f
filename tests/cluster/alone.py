"""Plays an exported policy where nothing of a cluster or a simulator can be imported.

    python -m tests.cluster.alone FOLDER

It acts in a task of the plane, adapts to what it saw, acts again, and prints both first actions.
"""

import json
import sys

ABSENT = ("ray", "mujoco", "gymnasium", "redis", "typer", "pyarrow")


def main(folder: str) -> None:
    """Loads, acts, adapts and acts."""
    sys.modules.update(dict.fromkeys(ABSENT))  # importing any of them fails
    import numpy as np

    from causeway.datasets.batches import Episode
    from causeway.learners.exported import ExportedPolicy

    policy = ExportedPolicy.load(folder, seed=3)
    position, goal = np.zeros((21, 2), np.float32), np.array([0.0, 1.0])
    action = np.zeros((20, 2), np.float32)
    for step in range(20):
        action[step] = policy.act(position[step])
        position[step + 1] = position[step] + 0.1 * action[step]
    episode = Episode(
        observation=position[:-1],
        action=action,
        next_observation=position[1:],
        reward=-np.linalg.norm(position[1:] - goal, axis=1).astype(np.float32),
        terminated=np.zeros(20, bool),
        truncated=np.arange(20) == 19,
    )
    policy.adapt(episode)
    adapted = policy.act(position[0])
    print(json.dumps({"before": action[0].tolist(), "adapted": adapted.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
