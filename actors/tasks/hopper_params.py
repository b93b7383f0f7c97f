"""Hoppers with bodies of their own, which all want to go forward.

    reward       v + 1 - 0.001 sum a^2, with v the mean velocity along x over the step
    horizon      200 steps of 0.008 s, then truncated
    terminates   at height <= 0.7, |angle| >= 0.2, or any other number of the state beyond 100
    observation  11: qpos without x, qvel within [-10, 10]
    tasks        50 bodies, drawn with seed 1337; 40 / 10: masses, inertias and friction times
                 1.5^u, damping times 1.3^u, u uniform in [-3, 3] for each element (`physics.py`)

The alive bonus of 1 is paid on an episode's last step too; gymnasium's version 5 withholds it from
a robot that falls. Frame skip and model are gymnasium's (4 steps of 0.002 s).

Source: Rakelly et al. 2019 (PEARL), after the rand-param-envs of Finn et al.
"""

from collections.abc import Mapping, Sequence

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.robots import Hopper
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.locomotion import (
    TASK_SEED,
    LocomotionFamily,
    control_cost,
    simulate,
)
from causeway.actors.tasks.physics import random_parameters, set_parameters

NUM_TRAIN, NUM_TEST = 40, 10


class HopperParams(LocomotionFamily, robot=Hopper):
    """Hopper with masses, inertias, damping and friction that differ: v + 1 - 0.001 sum a^2."""

    name = "hopper-params"

    def splits(self) -> dict[str, Split]:
        """One split, `standard`; 34 numbers to a body, named as in `physics.py`."""
        generator = np.random.default_rng(TASK_SEED)
        tasks = tuple(
            Task(id=i, dynamics=random_parameters(Hopper, generator))
            for i in range(NUM_TRAIN + NUM_TEST)
        )
        return {"standard": Split(train=tasks[:NUM_TRAIN], test=tasks[NUM_TRAIN:])}

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]], threads: int = 1) -> Simulator:
        """One hopper per entry; what an entry does not name is the model's own."""
        return simulate(Hopper, tasks_dynamics, edit=_edit, ends_when_fallen=True, threads=threads)

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 11"],
        action: Float32[np.ndarray, "N *rest 3"],
        next_observation: Float32[np.ndarray, "N *rest 11"],
        measurement: Float64[np.ndarray, "N *rest 1"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions, by the same rule for all."""
        return np.asarray(measurement[..., 0] + 1.0 - control_cost(1e-3, action), np.float32)


def _edit(model: mujoco.MjModel, parameters: Mapping[str, float]) -> None:
    set_parameters(Hopper, model, parameters)
