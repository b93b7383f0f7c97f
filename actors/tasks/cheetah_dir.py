"""Cheetahs that run forward or backward, and are not told which.

    reward       direction * v - 0.05 sum a^2, with v the mean velocity along x over the step
    horizon      200 steps of 0.05 s, then truncated; nothing terminates
    observation  20: qpos without x, qvel, position of the torso (which includes x)
    tasks        two, forward (1) and backward (-1)

PEARL and MACAW train and test on the same two tasks. Here the test tasks are the same two under
ids of their own, with data of their own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.robots import Cheetah
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.locomotion import LocomotionFamily, control_cost, parameter, simulate


class CheetahDir(LocomotionFamily, robot=Cheetah):
    """Half-cheetah forward or backward: direction * v - 0.05 sum a^2."""

    name = "cheetah-dir"

    def splits(self) -> dict[str, Split]:
        """One split, `standard`; parameter `direction`, 1 or -1."""
        tasks = tuple(
            Task(id=i, reward={"direction": direction})
            for i, direction in enumerate((1.0, -1.0, 1.0, -1.0))
        )
        return {"standard": Split(train=tasks[:2], test=tasks[2:])}

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]], threads: int = 1) -> Simulator:
        """One cheetah per entry; all of them move alike, so every entry must be empty."""
        return simulate(Cheetah, tasks_dynamics, edit=None, ends_when_fallen=False, threads=threads)

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 20"],
        action: Float32[np.ndarray, "N *rest 6"],
        next_observation: Float32[np.ndarray, "N *rest 20"],
        measurement: Float64[np.ndarray, "N *rest 1"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions."""
        velocity = measurement[..., 0]
        forward = parameter(task_rewards, "direction", velocity) * velocity
        return np.asarray(forward - control_cost(0.05, action), np.float32)
