"""Cheetahs that run at a speed they are not told.

    reward       -|v - v*| - 0.05 sum a^2, with v the mean velocity along x over the step
    horizon      200 steps of 0.05 s, then truncated; nothing terminates
    observation  20: qpos without x, qvel, position of the torso (which includes x)

Splits:

    smac                  PEARL's own tasks: 130 speeds, uniform in [0, 3], seed 1337; 100 / 30
    macaw                 40 speeds 0.075 (i + 1); test tasks 2, 7, 15, 23, 26
    macaw-extrapolate     the same speeds, 0 to 25 / 26 to 39
    ldm                   100 speeds, uniform in [0, 0.5] and [3, 3.5] by turns / 5 between

Sources: Rakelly et al. 2019 (PEARL), Mitchell et al. 2021 (MACAW), Lee and Chung 2021 (LDM). The
latter draws training tasks afresh for ever; ours are a fixed draw of them, seed 1337.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.robots import Cheetah
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.locomotion import (
    TASK_SEED,
    LocomotionFamily,
    control_cost,
    legacy_generator,
    parameter,
    simulate,
    split_at,
)

MACAW_TEST = (2, 7, 15, 23, 26)
LDM_TEST = (0.75, 1.25, 1.75, 2.25, 2.75)  # m/s


class CheetahVel(LocomotionFamily, robot=Cheetah):
    """Half-cheetah at a target speed: -|v - v*| - 0.05 sum a^2."""

    name = "cheetah-vel"

    def splits(self) -> dict[str, Split]:
        """`smac`, `macaw`, `macaw-extrapolate` and `ldm`; parameter `velocity`, m/s."""
        pearl = _tasks(legacy_generator().uniform(0.0, 3.0, 130))
        macaw = _tasks(0.075 * (i + 1) for i in range(40))
        outer = np.random.default_rng(TASK_SEED).uniform(0.0, 0.5, 100)
        outer[1::2] += 3.0
        ldm = _tasks([*outer, *LDM_TEST])
        train, test = split_at(macaw, MACAW_TEST)
        return {
            "smac": Split(train=pearl[:100], test=pearl[100:]),
            "macaw": Split(train=train, test=test),
            "macaw-extrapolate": Split(train=macaw[:26], test=macaw[26:]),
            "ldm": Split(train=ldm[:100], test=ldm[100:]),
        }

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
        error = np.abs(velocity - parameter(task_rewards, "velocity", velocity))
        return np.asarray(-error - control_cost(0.05, action), np.float32)


def _tasks(velocities: Iterable[float]) -> tuple[Task, ...]:
    return tuple(Task(id=i, reward={"velocity": float(v)}) for i, v in enumerate(velocities))
