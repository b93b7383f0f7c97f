"""Meta-World's robot arm that reaches for goals, or pushes a puck to them, and is not told where.

    observation  39, Meta-World's, with the goal hidden
    action       4: the hand's way along x, y, z and the gripper's effort
    horizon      200 steps, then truncated; nothing terminates
    tasks        50 starts of the object with a goal each, drawn uniformly in Meta-World's own
                 ranges with seed 1337, at least 0.15 m apart on the table; 45 / 5
    reward       Meta-World's (its version "v2"), between 0 and 10. With near(d, m) = 1 where
                 d <= 0.05, else 1 / (1 + 9 ((d - 0.05) / m)^2):
      reach      10 near(|hand - goal|, |(0, 0.6, 0.2) - goal|)
      push       10 where |puck - goal| < 0.05; else, where hand and puck are within 0.02 of each
                 other and the gripper is open, 1 + 4 g + 5 near(|puck - goal|, |start - goal|);
                 else 2 g; with g Meta-World's reward of 0 to 1 for having the puck in the gripper

These stand for the Sawyer manipulation of Pong et al. 2022 (SMAC), which is not public. They need
the package metaworld, version 3, and that wants MuJoCo 3.3: install the extra `metaworld` in an
environment of its own.

Where the object starts is a parameter of the dynamics. A collector's environments have a goal that
is the same for all tasks.
"""

import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.gymnasium_dynamics import Environment, GymnasiumDynamics
from causeway.actors.tasks.family import Split, Task

HORIZON = 200
TASK_SEED = 1337
NUM_TRAIN, NUM_TEST = 45, 5
START_LOW, START_HIGH = (-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)  # m, of the object
REACH_LOW, REACH_HIGH = (-0.1, 0.8, 0.05), (0.1, 0.9, 0.3)  # m, of the goal
PUSH_LOW, PUSH_HIGH = (-0.1, 0.8, 0.01), (0.1, 0.9, 0.02)
LEAST_WAY = 0.15  # m, from start to goal on the table
HAND_START = (0.0, 0.6, 0.2)  # m
GOAL_RADIUS = 0.05  # m
NO_GOAL = (0.0, 0.9, 0.02)  # of the environments that collectors are given
AXES = ("x", "y", "z")


class MetaworldReach:
    """Meta-World's arm reaches for a hidden goal (extra `metaworld`)."""

    name = "metaworld-reach"
    observation_size = 39
    action_size = 4
    measurement_size = 3  # where the hand is
    horizon = HORIZON

    def splits(self) -> dict[str, Split]:
        """One split, `standard`: goals `goal_x` to `goal_z`, starts `start_x` to `start_z`, m."""
        return {"standard": _draw(REACH_LOW, REACH_HIGH)}

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]]) -> GymnasiumDynamics:
        """One arm per entry, each with its object's start."""
        return _dynamics("reach-v3", tasks_dynamics, _measure_reach, 3)

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 39"],
        action: Float32[np.ndarray, "N *rest 4"],
        next_observation: Float32[np.ndarray, "N *rest 39"],
        measurement: Float64[np.ndarray, "N *rest 3"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions."""
        goal = _goals(task_rewards, measurement)
        away = np.linalg.norm(measurement - goal, axis=-1)
        return np.asarray(10.0 * _near(away, _distance(HAND_START, goal)), np.float32)

    def optimal_return(self, task: Task) -> None:
        """Not known."""


class MetaworldPush:
    """Meta-World's arm pushes a puck to a hidden goal (extra `metaworld`)."""

    name = "metaworld-push"
    observation_size = 39
    action_size = 4
    measurement_size = 9  # puck, its start, distance of hand and puck, gripper's opening, grasp
    horizon = HORIZON

    def splits(self) -> dict[str, Split]:
        """One split, `standard`: goals `goal_x` to `goal_z`, starts `start_x` to `start_z`, m."""
        return {"standard": _draw(PUSH_LOW, PUSH_HIGH)}

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]]) -> GymnasiumDynamics:
        """One arm per entry, each with its puck's start."""
        return _dynamics("push-v3", tasks_dynamics, _measure_push, 9)

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 39"],
        action: Float32[np.ndarray, "N *rest 4"],
        next_observation: Float32[np.ndarray, "N *rest 39"],
        measurement: Float64[np.ndarray, "N *rest 9"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions."""
        puck, start = measurement[..., :3], measurement[..., 3:6]
        hand_to_puck, opening, grasp = (measurement[..., n] for n in (6, 7, 8))
        goal = np.broadcast_to(_goals(task_rewards, puck), puck.shape).copy()
        goal[..., 2] = start[..., 2]  # goals lie at the height of the puck
        away = np.linalg.norm(puck - goal, axis=-1)
        at_hand = 1.0 + 4.0 * grasp + 5.0 * _near(away, np.linalg.norm(start - goal, axis=-1))
        reward = np.where((hand_to_puck < 0.02) & (opening > 0.0), at_hand, 2.0 * grasp)
        return np.where(away < GOAL_RADIUS, 10.0, reward).astype(np.float32)

    def optimal_return(self, task: Task) -> None:
        """Not known."""


def _draw(goal_low: Sequence[float], goal_high: Sequence[float]) -> Split:
    generator, tasks = np.random.default_rng(TASK_SEED), list[Task]()
    while len(tasks) < NUM_TRAIN + NUM_TEST:
        start = generator.uniform(START_LOW, START_HIGH)
        goal = generator.uniform(goal_low, goal_high)
        if np.linalg.norm((goal - start)[:2]) >= LEAST_WAY:
            tasks.append(
                Task(
                    id=len(tasks),
                    reward={f"goal_{axis}": v for axis, v in zip(AXES, goal.tolist(), strict=True)},
                    dynamics={
                        f"start_{axis}": v for axis, v in zip(AXES, start.tolist(), strict=True)
                    },
                )
            )
    return Split(train=tuple(tasks[:NUM_TRAIN]), test=tuple(tasks[NUM_TRAIN:]))


def _dynamics(
    environment: str,
    tasks_dynamics: Sequence[Mapping[str, float]],
    measure: Any,
    measurement_size: int,
) -> GymnasiumDynamics:
    for parameters in tasks_dynamics:
        if set(parameters) != {f"start_{axis}" for axis in AXES}:
            raise ValueError(
                "dynamics parameters of Meta-World's families must be start_x, start_y and "
                f"start_z, got {', '.join(sorted(parameters)) or 'none'}"
            )
    try:
        import metaworld
    except ImportError as error:
        raise ImportError(
            "Meta-World's families need the package metaworld: pip install 'causeway[metaworld]' "
            "in an environment of its own, because it wants MuJoCo 3.3"
        ) from error
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    return GymnasiumDynamics(
        ALL_V3_ENVIRONMENTS[environment],
        tasks_dynamics,
        set_task=partial(_set_start, metaworld.Task, environment),
        measure=measure,
        measurement_size=measurement_size,
        horizon=HORIZON,
    )


def _set_start(
    task: Any, name: str, environment: Environment, parameters: Mapping[str, float]
) -> None:
    """Tells the environment where its object starts, in the form that Meta-World wants."""
    start = [parameters[f"start_{axis}"] for axis in AXES]
    data = {
        "env_cls": type(environment),
        "rand_vec": np.array([*start, *NO_GOAL]),
        "partially_observable": True,
    }
    environment.unwrapped.set_task(task(env_name=name, data=pickle.dumps(data)))  # type: ignore[attr-defined]


def _measure_reach(
    environment: Any, reward: float, info: Mapping[str, Any]
) -> Float64[np.ndarray, "3"]:
    return np.array(environment.unwrapped.tcp_center)


def _measure_push(
    environment: Any, reward: float, info: Mapping[str, Any]
) -> Float64[np.ndarray, "9"]:
    arm = environment.unwrapped
    puck = arm.get_body_com("obj")
    to_puck = np.linalg.norm(puck - arm.tcp_center)
    opening = arm._last_stable_obs[3]
    return np.array([*puck, *arm.obj_init_pos, to_puck, opening, info["grasp_reward"]])


def _goals(
    task_rewards: Sequence[Mapping[str, float]], like: Float64[np.ndarray, "N *rest 3"]
) -> Float64[np.ndarray, "N *ones 3"]:
    goals = np.array([[task[f"goal_{axis}"] for axis in AXES] for task in task_rewards])
    return goals.reshape(-1, *[1] * (like.ndim - 2), 3)


def _distance(
    place: Sequence[float], goal: Float64[np.ndarray, "*rest 3"]
) -> Float64[np.ndarray, "*rest"]:
    return np.asarray(np.linalg.norm(goal - np.array(place), axis=-1))


def _near(
    away: Float64[np.ndarray, "*#rest"], margin: Float64[np.ndarray, "*#rest"]
) -> Float64[np.ndarray, "*#rest"]:
    """Meta-World's measure of nearness: 1 within the goal's radius, 0.1 at the margin beyond it."""
    beyond = np.maximum(away - GOAL_RADIUS, 0.0) / margin
    return np.asarray(1.0 / (1.0 + 9.0 * beyond**2))
