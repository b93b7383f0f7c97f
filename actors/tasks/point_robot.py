"""Point robots: a point in the plane that looks for a goal on a semicircle it cannot see.

    observation  position (x, y); every episode starts at (0, 0)
    action       a in [-1, 1]^2 moves the point by 0.1 a
    horizon      20 steps, then truncated; nothing terminates
    tasks        50 goals on the upper half of the unit circle, one drawn uniformly in each of 50
                 equal arcs (seed 1337); every fifth arc, the third one first, is held out

The reward looks at the position *after* the step, the transition's next observation: an action is
paid for where it leads, and the starting position, which no action can change, is not counted.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64

from causeway.actors.tasks.family import RestartableDynamics, Split, Starts, Step, Task

STEP_SIZE = 0.1  # distance along each axis that an action of 1 covers
TASK_SEED = 1337
NUM_TRAIN, NUM_TEST = 40, 10
GOAL_RADIUS = 0.2  # of the sparse reward's disc


class PointDynamics:
    """N points in the plane, which know of no goal."""

    def __init__(self, num_envs: int, horizon: int) -> None:
        self.num_envs = num_envs
        self._horizon = horizon
        self._position = np.zeros((num_envs, 2))  # float64: 20 steps of 0.1 add up without drift
        self._env_steps = np.zeros(num_envs, int)

    def reset(self, generators: Starts) -> Float32[np.ndarray, "N 2"]:
        """Every point at the origin; nothing is drawn."""
        return self.restart(np.ones(self.num_envs, bool), generators)

    def restart(
        self, ended: Bool[np.ndarray, "N"], generators: Starts
    ) -> Float32[np.ndarray, "N 2"]:
        """The marked points at the origin; nothing is drawn."""
        self._position = np.where(ended[:, None], 0.0, self._position)
        self._env_steps[ended] = 0
        return self._position.astype(np.float32)

    def step(self, action: Float32[np.ndarray, "N 2"]) -> Step:
        """Moves every point by 0.1 of its action."""
        self._position = self._position + STEP_SIZE * action
        self._env_steps += 1
        return Step(
            next_observation=self._position.astype(np.float32),
            measurement=np.zeros((self.num_envs, 0)),
            terminated=np.zeros(self.num_envs, bool),
            truncated=self._env_steps >= self._horizon,
        )


class PointRobot:
    """Dense reward: minus the distance to the goal."""

    name = "point-robot"
    observation_size = 2
    action_size = 2
    measurement_size = 0
    horizon = 20

    def splits(self) -> dict[str, Split]:
        """One split, `standard`: 40 train tasks (ids 0 to 39) and 10 test tasks (40 to 49)."""
        count = NUM_TRAIN + NUM_TEST
        arcs = np.arange(count)
        angles = (arcs + np.random.default_rng(TASK_SEED).uniform(size=count)) * np.pi / count
        # Train arcs surround each test arc: 40 free draws leave holes of some 20 degrees, and a
        # test task in one, or beyond the last, is a test of extrapolation.
        held_out = arcs % (count // NUM_TEST) == 2
        angles = np.concatenate([angles[~held_out], angles[held_out]])
        tasks = tuple(
            Task(id=i, reward={"goal_x": float(np.cos(angle)), "goal_y": float(np.sin(angle))})
            for i, angle in enumerate(angles)
        )
        return {"standard": Split(train=tasks[:NUM_TRAIN], test=tasks[NUM_TRAIN:])}

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]]) -> RestartableDynamics:
        """One point per entry; all of them move alike, so every entry must be empty."""
        given = sorted({name for parameters in tasks_dynamics for name in parameters})
        if given:
            raise ValueError(
                f"point robots have no dynamics parameters, got {', '.join(given)}: "
                "give an empty mapping for each environment"
            )
        return PointDynamics(len(tasks_dynamics), PointRobot.horizon)

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest 2"],
        action: Float32[np.ndarray, "N *rest 2"],
        next_observation: Float32[np.ndarray, "N *rest 2"],
        measurement: Float64[np.ndarray, "N *rest 0"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The rewards of N tasks' transitions, from the next observation alone."""
        goals = np.array([goal_of(parameters) for parameters in task_rewards])  # [N, 2]
        goals = goals.reshape(len(goals), *[1] * (next_observation.ndim - 2), 2)
        distance = np.linalg.norm(next_observation.astype(np.float64) - goals, axis=-1)
        return self._reward_at(distance).astype(np.float32)

    def optimal_return(self, task: Task) -> float:
        """The exact optimum of one episode.

        Actions fill a box, so each axis closes its own gap at 0.1 a step, whatever the other does:
        after t steps axis i can be at best max(|g_i| - 0.1 t, 0) away, both at once and at every t.
        The reward falls with the distance, so the sum over t of the reward at that distance is
        reached and cannot be beaten.
        """
        steps = np.arange(1, self.horizon + 1)[:, None]
        gaps = np.maximum(np.abs(goal_of(task.reward)) - STEP_SIZE * steps, 0.0)  # [T, 2]
        return float(self._reward_at(np.linalg.norm(gaps, axis=-1)).sum())

    def _reward_at(self, distance: np.ndarray) -> np.ndarray:
        return -distance


class SparsePointRobot(PointRobot):
    """Sparse reward: 1 - distance within 0.2 of the goal, else 0."""

    name = "sparse-point-robot"

    def _reward_at(self, distance: np.ndarray) -> np.ndarray:
        return np.where(distance <= GOAL_RADIUS, 1.0 - distance, 0.0)


def goal_of(parameters: Mapping[str, float]) -> Float64[np.ndarray, "2"]:
    """The goal's position, from a task's reward parameters."""
    return np.array([parameters["goal_x"], parameters["goal_y"]])
