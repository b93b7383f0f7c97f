"""Ants that run in a direction they are not told.

    reward       v . (cos, sin) - 0.5 sum a^2 - contact cost + 1, with v the mean velocity of the
                 torso over the step
    horizon      200 steps of 0.05 s, then truncated
    terminates   when the torso's height is outside [0.2, 1]
    observation  27: qpos without x and y, qvel

The contact cost, 5e-4 sum clip(contact force, -1, 1)^2, is inert: contact forces on bodies are 0
here (see `robots.py`), as they were for PEARL's and SMAC's authors. Gymnasium's Ant-v5 computes
them, and they cost it at most 0.04 a step. The alive bonus of 1 is paid on an episode's last step
too, as in those papers; Ant-v5 withholds it from a robot that falls.

Splits:

    smac    120 angles, uniform in [0, 360) degrees, seed 1337; 100 / 20
    macaw   50 angles as published; test tasks 6, 17, 23, 30, 41
    ldm     the four axes / the four diagonals

Sources: Rakelly et al. 2019 (PEARL), Pong et al. 2022 (SMAC), Mitchell et al. 2021 (MACAW),
Lee and Chung 2021 (LDM).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.robots import Ant
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.locomotion import (
    LocomotionFamily,
    control_cost,
    legacy_generator,
    macaw_tasks,
    simulate,
    speed_along,
    split_at,
)

MACAW_TEST = (6, 17, 23, 30, 41)


class AntDir(LocomotionFamily, robot=Ant):
    """Ant in a target direction: v . (cos, sin) - 0.5 sum a^2 + 1."""

    name = "ant-dir"

    def splits(self) -> dict[str, Split]:
        """`smac`, `macaw` and `ldm`; parameter `angle`, rad."""
        smac = _tasks(np.deg2rad(legacy_generator().uniform(0.0, 360.0, 120)))
        ldm = _tasks(np.deg2rad([0.0, 90.0, 180.0, 270.0, 45.0, 135.0, 225.0, 315.0]))
        train, test = split_at(_tasks(macaw_tasks("ant_dir")), MACAW_TEST)
        return {
            "smac": Split(train=smac[:100], test=smac[100:]),
            "macaw": Split(train=train, test=test),
            "ldm": Split(train=ldm[:4], test=ldm[4:]),
        }

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]], threads: int = 1) -> Simulator:
        """One ant per entry; all of them move alike, so every entry must be empty."""
        return simulate(Ant, tasks_dynamics, edit=None, ends_when_fallen=True, threads=threads)

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 27"],
        action: Float32[np.ndarray, "N *rest 8"],
        next_observation: Float32[np.ndarray, "N *rest 27"],
        measurement: Float64[np.ndarray, "N *rest 4"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions."""
        forward = speed_along(task_rewards, measurement[..., :2])
        return np.asarray(forward - control_cost(0.5, action) + 1.0, np.float32)


def _tasks(angles: Iterable[float]) -> tuple[Task, ...]:
    return tuple(Task(id=i, reward={"angle": float(angle)}) for i, angle in enumerate(angles))
