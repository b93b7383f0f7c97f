"""Humanoids that run in a direction they are not told.

    reward       0.25 (goal . change of centre of mass) / 0.003 s - 0.1 sum ctrl^2 - contact cost
                 + 5, with ctrl = 0.4 a
    horizon      200 steps of 0.015 s, then truncated
    terminates   when the torso's height is outside (1, 2)
    observation  376, as gymnasium's Humanoid-v4

The change over a whole step of five substeps is divided by the time of one, as in PEARL: the first
term is 1.25 times the speed, as in gymnasium. The contact cost, min(5e-7 sum force^2, 10), and the
last 84 observations are inert: contact forces on bodies are 0 here (see `robots.py`). The alive
bonus of 5 is paid on an episode's last step too; gymnasium's version 5 withholds it from a robot
that falls.

Split `standard`: 55 angles, uniform in [0, 2 pi), seed 1337; 50 / 5.

Sources: Rakelly et al. 2019 (PEARL), Pong et al. 2022 (SMAC).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.robots import Humanoid
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.locomotion import (
    LocomotionFamily,
    control_cost,
    legacy_generator,
    simulate,
    speed_along,
)

CONTROL_SCALE = 0.4  # controls of an action of 1


class HumanoidDir(LocomotionFamily, robot=Humanoid):
    """Humanoid in a target direction: 1.25 v . (cos, sin) - 0.1 sum ctrl^2 + 5."""

    name = "humanoid-dir"

    def splits(self) -> dict[str, Split]:
        """One split, `standard`; parameter `angle`, rad."""
        angles = legacy_generator().uniform(0.0, 2.0 * np.pi, 55)
        tasks = tuple(Task(id=i, reward={"angle": a}) for i, a in enumerate(angles.tolist()))
        return {"standard": Split(train=tasks[:50], test=tasks[50:])}

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]], threads: int = 1) -> Simulator:
        """One humanoid per entry; all of them move alike, so every entry must be empty."""
        return simulate(Humanoid, tasks_dynamics, edit=None, ends_when_fallen=True, threads=threads)

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 376"],
        action: Float32[np.ndarray, "N *rest 17"],
        next_observation: Float32[np.ndarray, "N *rest 376"],
        measurement: Float64[np.ndarray, "N *rest 2"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions."""
        forward = 0.25 * Humanoid.frame_skip * speed_along(task_rewards, measurement)
        effort = control_cost(0.1 * CONTROL_SCALE**2, action)
        return np.asarray(forward - effort + 5.0, np.float32)
