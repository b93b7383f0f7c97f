"""Cheetahs heavier or lighter, stiffer or looser than they were, which all want to go forward.

    reward       v - 0.1 sum a^2, with v the mean velocity along x over the step, as gymnasium's
    horizon      200 steps of 0.05 s, then truncated; nothing terminates
    observation  20: qpos without x, qvel, position of the torso (which includes x)
    tasks        all masses times one factor, all joints' damping times another; inertias stay
    train        both factors in {0.75, 0.85, 1, 1.15, 1.25}: 25 tasks
    test         both beyond that: 5 tasks in each of four corners, where a factor is in [0.2, 0.5]
                 or in [1.5, 1.8], drawn uniformly with seed 1337

Source: Mu et al. 2022 (DOMINO), whose robot and training factors these are. How far the corners
reach and how many tasks are drawn in them is our choice.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import mujoco
import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.robots import Cheetah
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.locomotion import (
    TASK_SEED,
    LocomotionFamily,
    control_cost,
    simulate,
)

TRAIN_FACTORS = (0.75, 0.85, 1.0, 1.15, 1.25)
TEST_RANGES = ((0.2, 0.5), (1.5, 1.8))
TASKS_PER_CORNER = 5


class CheetahMassDamping(LocomotionFamily, robot=Cheetah):
    """Half-cheetah with masses and damping that differ: v - 0.1 sum a^2."""

    name = "cheetah-mass-damping"

    def splits(self) -> dict[str, Split]:
        """One split, `domino`; parameters `mass_factor` and `damping_factor`."""
        generator = np.random.default_rng(TASK_SEED)
        inner = [(mass, damping) for mass in TRAIN_FACTORS for damping in TRAIN_FACTORS]
        outer = [
            (float(generator.uniform(*masses)), float(generator.uniform(*dampings)))
            for masses, dampings in product(TEST_RANGES, repeat=2)
            for _ in range(TASKS_PER_CORNER)
        ]
        tasks = tuple(
            Task(id=i, dynamics={"mass_factor": mass, "damping_factor": damping})
            for i, (mass, damping) in enumerate(inner + outer)
        )
        return {"domino": Split(train=tasks[: len(inner)], test=tasks[len(inner) :])}

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]], threads: int = 1) -> Simulator:
        """One cheetah per entry; a factor that an entry does not name is 1."""
        return simulate(
            Cheetah, tasks_dynamics, edit=_edit, ends_when_fallen=False, threads=threads
        )

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 20"],
        action: Float32[np.ndarray, "N *rest 6"],
        next_observation: Float32[np.ndarray, "N *rest 20"],
        measurement: Float64[np.ndarray, "N *rest 1"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions, by the same rule for all."""
        return np.asarray(measurement[..., 0] - control_cost(0.1, action), np.float32)


def _edit(model: mujoco.MjModel, parameters: Mapping[str, float]) -> None:
    """Scales the model's masses and damping."""
    fields = {"mass_factor": model.body_mass, "damping_factor": model.dof_damping}
    for name, factor in parameters.items():
        if name not in fields:
            raise ValueError(f"dynamics parameters must be among {', '.join(fields)}, got {name!r}")
        if not 0.0 < factor < np.inf:
            raise ValueError(f"dynamics parameter {name} must be above 0, got {factor}")
        fields[name] *= factor
