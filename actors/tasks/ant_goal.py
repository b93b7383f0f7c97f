"""Ants that look for a goal on the ground that they are not told.

    reward       -distance(xy, goal) - 0.1 sum a^2 - contact cost, with xy of the torso after the
                 step
    horizon      200 steps of 0.05 s, then truncated; nothing terminates
    observation  29: qpos, x and y included, and qvel: what it earns is told by where the ant is,
                 so without these no transition would tell the goal

The contact cost, 5e-4 sum clip(contact force, -1, 1)^2, is inert: contact forces on bodies are 0
here (see `robots.py`). The distance is Euclidean; PEARL and LDM add up |x| and |y|.

Splits:

    standard   130 goals, uniform on the disc of radius 3, seed 1337; 100 / 30
    ldm        100 goals, uniform on the disc of radius 1 and the ring from 2.5 to 3 together,
               seed 1337 / 4 goals on the axes at radius 1.75

Sources: Rakelly et al. 2019 (PEARL), Lee and Chung 2021 (LDM). The latter draws training tasks
afresh for ever; ours are a fixed draw of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.robots import PlacedAnt
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.locomotion import (
    TASK_SEED,
    LocomotionFamily,
    control_cost,
    parameter,
    simulate,
)

RADIUS = 3.0  # m, of the disc of goals
LDM_INNER, LDM_OUTER, LDM_TEST = 1.0, 2.5, 1.75  # m


class AntGoal(LocomotionFamily, robot=PlacedAnt):
    """Ant to a goal on the ground: -distance - 0.1 sum a^2."""

    name = "ant-goal"

    def splits(self) -> dict[str, Split]:
        """`standard` and `ldm`; parameters `goal_x` and `goal_y`, m."""
        generator = np.random.default_rng(TASK_SEED)
        angle, share = generator.uniform(size=(2, 130))
        standard = _tasks(RADIUS * np.sqrt(share), 2.0 * np.pi * angle)
        angle, share = generator.uniform(size=(2, 100))
        test_angles = np.arange(4) * np.pi / 2.0
        ldm = _tasks(
            np.concatenate([_ldm_radius(share), np.full(4, LDM_TEST)]),
            np.concatenate([2.0 * np.pi * angle, test_angles]),
        )
        return {
            "standard": Split(train=standard[:100], test=standard[100:]),
            "ldm": Split(train=ldm[:100], test=ldm[100:]),
        }

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]], threads: int = 1) -> Simulator:
        """One ant per entry; all of them move alike, so every entry must be empty."""
        return simulate(
            PlacedAnt, tasks_dynamics, edit=None, ends_when_fallen=False, threads=threads
        )

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 29"],
        action: Float32[np.ndarray, "N *rest 8"],
        next_observation: Float32[np.ndarray, "N *rest 29"],
        measurement: Float64[np.ndarray, "N *rest 4"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions."""
        x, y = measurement[..., 2], measurement[..., 3]
        distance = np.hypot(
            x - parameter(task_rewards, "goal_x", x), y - parameter(task_rewards, "goal_y", y)
        )
        return np.asarray(-distance - control_cost(0.1, action), np.float32)


def _ldm_radius(share: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """Radii that spread goals evenly over disc and ring, from shares of their joint area."""
    inner, ring = LDM_INNER**2, RADIUS**2 - LDM_OUTER**2
    area = share * (inner + ring)
    return np.sqrt(np.where(area < inner, area, area - inner + LDM_OUTER**2))


def _tasks(radius: Float64[np.ndarray, "N"], angle: Float64[np.ndarray, "N"]) -> tuple[Task, ...]:
    goals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return tuple(
        Task(id=i, reward={"goal_x": x, "goal_y": y}) for i, (x, y) in enumerate(goals.tolist())
    )
