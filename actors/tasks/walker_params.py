"""Walkers with bodies of their own, which all want to go forward.

    reward       v + 1 - 0.001 sum a^2, with v the mean velocity along x over the step
    horizon      200 steps of 0.008 s, then truncated
    terminates   at a height outside (0.8, 2), or |angle| >= 1
    observation  17: qpos without x, qvel within [-10, 10]

Splits:

    standard   50 bodies, drawn with seed 1337; 40 / 10: masses, inertias and friction times 1.5^u,
               damping times 1.3^u, u uniform in [-3, 3] for each element (`physics.py`)
    macaw      50 bodies as published; test tasks 2, 12, 15, 39, 43

The alive bonus of 1 is paid on an episode's last step too; gymnasium's version 5 withholds it from
a robot that falls. Frame skip and model are gymnasium's (4 steps of 0.002 s); a published body sets
all masses, inertias, damping and friction of that model.

Sources: Rakelly et al. 2019 (PEARL), Mitchell et al. 2021 (MACAW).
"""

from collections.abc import Mapping, Sequence

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.robots import Walker
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.locomotion import (
    TASK_SEED,
    LocomotionFamily,
    control_cost,
    macaw_tasks,
    simulate,
    split_at,
)
from causeway.actors.tasks.physics import named_parameters, random_parameters, set_parameters

NUM_TRAIN, NUM_TEST = 40, 10
MACAW_TEST = (2, 12, 15, 39, 43)


class WalkerParams(LocomotionFamily, robot=Walker):
    """Walker with masses, inertias, damping and friction that differ: v + 1 - 0.001 sum a^2."""

    name = "walker-params"

    def splits(self) -> dict[str, Split]:
        """`standard` and `macaw`; 58 numbers to a body, named as in `physics.py`."""
        generator = np.random.default_rng(TASK_SEED)
        tasks = tuple(
            Task(id=i, dynamics=random_parameters(Walker, generator))
            for i in range(NUM_TRAIN + NUM_TEST)
        )
        macaw = [
            Task(id=i, dynamics=_published(fields))
            for i, fields in enumerate(macaw_tasks("walker_params"))
        ]
        train, test = split_at(macaw, MACAW_TEST)
        return {
            "standard": Split(train=tasks[:NUM_TRAIN], test=tasks[NUM_TRAIN:]),
            "macaw": Split(train=train, test=test),
        }

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]], threads: int = 1) -> Simulator:
        """One walker per entry; what an entry does not name is the model's own."""
        return simulate(Walker, tasks_dynamics, edit=_edit, ends_when_fallen=True, threads=threads)

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 17"],
        action: Float32[np.ndarray, "N *rest 6"],
        next_observation: Float32[np.ndarray, "N *rest 17"],
        measurement: Float64[np.ndarray, "N *rest 1"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions, by the same rule for all."""
        return np.asarray(measurement[..., 0] + 1.0 - control_cost(1e-3, action), np.float32)


def _published(fields: Mapping[str, list[float]]) -> dict[str, float]:
    """A published body's parameters by name."""
    return {
        name: value
        for field, values in fields.items()
        for name, value in named_parameters(Walker, field, np.array(values)).items()
    }


def _edit(model: mujoco.MjModel, parameters: Mapping[str, float]) -> None:
    set_parameters(Walker, model, parameters)
