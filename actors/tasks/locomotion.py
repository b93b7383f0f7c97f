"""What families over MuJoCo robots share: sizes, simulators, and the pieces of their rewards."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, ClassVar

import mujoco
import numpy as np
from jaxtyping import Float, Float64

from causeway.actors.robots import Robot, load_model
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Task

HORIZON = 200  # environment steps, as in PEARL, MACAW and SMAC
TASK_SEED = 1337

Edit = Callable[[mujoco.MjModel, Mapping[str, float]], None]


class LocomotionFamily:
    """A family over one robot: `class MyFamily(LocomotionFamily, robot=Cheetah)`."""

    name: ClassVar[str]
    observation_size: int
    action_size: int
    measurement_size: int
    horizon = HORIZON

    def __init_subclass__(cls, robot: type[Robot]) -> None:
        cls.observation_size = robot.observation_size
        cls.action_size = robot.action_size
        cls.measurement_size = robot.measurement_size

    def optimal_return(self, task: Task) -> None:
        """Not known."""


def simulate(
    robot: type[Robot],
    tasks_dynamics: Sequence[Mapping[str, float]],
    *,
    edit: Edit | None,
    ends_when_fallen: bool,
    threads: int,
) -> Simulator:
    """One robot per entry.

    Args:
        robot: what to simulate.
        tasks_dynamics: dynamics parameters of each; they must be empty where nothing reads them.
        edit: puts a task's dynamics parameters into a model of its own; None for families whose
            tasks all move alike.
        ends_when_fallen: whether an episode terminates when its robot falls.
        threads: of the native code.
    """
    if edit is None:
        if given := sorted({name for parameters in tasks_dynamics for name in parameters}):
            raise ValueError(
                f"tasks of this family over {robot.__name__} have no dynamics parameters, got "
                f"{', '.join(given)}: give an empty mapping for each environment"
            )
        models = [load_model(robot)] * len(tasks_dynamics)
    else:
        models = [
            _edited(robot, edit, tuple(sorted(parameters.items()))) for parameters in tasks_dynamics
        ]
    return Simulator(
        robot, models, horizon=HORIZON, ends_when_fallen=ends_when_fallen, threads=threads
    )


@lru_cache(maxsize=256)  # collectors ask for a task's model again and again
def _edited(
    robot: type[Robot], edit: Edit, parameters: tuple[tuple[str, float], ...]
) -> mujoco.MjModel:
    """A model of its own, with the constants that MuJoCo derives from what was edited."""
    model = copy.copy(load_model(robot))
    edit(model, dict(parameters))
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def parameter(
    task_rewards: Sequence[Mapping[str, float]], name: str, like: Float[np.ndarray, "N *rest"]
) -> Float64[np.ndarray, "N *ones"]:
    """One reward parameter of N tasks, shaped to go with an array [N, ...]."""
    values = np.array([parameters[name] for parameters in task_rewards], np.float64)
    return values.reshape(-1, *[1] * (like.ndim - 1))


def speed_along(
    task_rewards: Sequence[Mapping[str, float]], velocity: Float64[np.ndarray, "N *rest 2"]
) -> Float64[np.ndarray, "N *rest"]:
    """The part of planar velocities that goes in each task's direction, its parameter `angle`."""
    angle = parameter(task_rewards, "angle", velocity[..., 0])
    return np.asarray(np.cos(angle) * velocity[..., 0] + np.sin(angle) * velocity[..., 1])


def control_cost(
    weight: float, action: Float[np.ndarray, "*rest A"]
) -> Float64[np.ndarray, "*rest"]:
    """The cost of effort: weight * sum a^2."""
    return np.asarray(weight * np.einsum("...a,...a->...", action, action, dtype=np.float64))


def macaw_tasks(family: str) -> list[Any]:
    """Parameters of MACAW's tasks as its authors published them: `ant_dir`, `walker_params`."""
    text = files(__package__).joinpath("macaw_tasks.json").read_text(encoding="utf-8")
    tasks: list[Any] = json.loads(text)[family]
    return tasks


def split_at(tasks: Sequence[Task], test_ids: Sequence[int]) -> tuple[tuple[Task, ...], ...]:
    """The tasks that are trained on, and those of the given ids, which are held out."""
    held_out = [task for task in tasks if task.id in test_ids]
    return tuple(task for task in tasks if task.id not in test_ids), tuple(held_out)


def legacy_generator() -> np.random.RandomState:
    """The generator that PEARL and its followers draw tasks from; no newer one gives the same."""
    return np.random.RandomState(TASK_SEED)
