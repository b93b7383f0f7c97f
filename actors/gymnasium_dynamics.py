"""Dynamics of any `gymnasium.Env`: slower than a simulator of ours, and for whatever there is.

A family of one's own says which environment it is, what a task changes in it, what a reward reads,
and how a reward is reckoned:

    class PendulumGravity:
        name = "pendulum-gravity"
        observation_size, action_size, measurement_size, horizon = 3, 1, 1, 200

        def splits(self):
            tasks = [Task(id=i, dynamics={"gravity": 8.0 + i}) for i in range(5)]
            return {"standard": Split(train=tuple(tasks[:4]), test=tuple(tasks[4:]))}

        @staticmethod
        def dynamics(tasks_dynamics):
            return GymnasiumDynamics(
                lambda: gymnasium.make("Pendulum-v1"),
                tasks_dynamics,
                set_task=lambda env, parameters: setattr(env.unwrapped, "g", parameters["gravity"]),
                measure=lambda env, reward, info: [reward],
                measurement_size=1,
                horizon=PendulumGravity.horizon,
            )

        def reward(self, task_rewards, observation, action, next_observation, measurement):
            return measurement[..., 0].astype(np.float32)

        def optimal_return(self, task):
            return None

Here the environment's own reward is alike for all tasks, so it may be measured. A reward that
differs between tasks is best reckoned in `reward`, from the task's reward parameters and from what
`measure` reads of the environment's state: collectors, who are given `dynamics` alone, cannot reach
it then. Where the two cannot be parted, put the goal among the dynamics parameters and measure the
environment's reward. A collector's process then holds the goal, though nothing it gathers does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Space
from jaxtyping import Bool, Float32, UInt8

from causeway.actors.tasks.family import Starts, Step, one_for_each

Environment = gymnasium.Env[Any, Any]
Measure = Callable[[Environment, float, Mapping[str, Any]], Sequence[float] | np.ndarray]
SEED_LIMIT = 2**31


class GymnasiumDynamics:
    """N gymnasium environments, stepped one after the other.

    Actions in [-1, 1] are stretched to the environments' own limits. Each episode is reset with a
    seed, drawn from its environment's generator. An environment whose observation is not finite
    has diverged.
    """

    def __init__(
        self,
        make: Callable[[], Environment],
        tasks_dynamics: Sequence[Mapping[str, float]],
        *,
        set_task: Callable[[Environment, Mapping[str, float]], object],
        measure: Measure | None,
        measurement_size: int,
        horizon: int,
    ) -> None:
        """Makes the environments.

        Args:
            make: gives an environment whose observations and actions are vectors.
            tasks_dynamics: one entry for each environment.
            set_task: puts an entry into an environment, before each of its episodes.
            measure: what a true reward reads of an environment after a step, of the reward that
                it gave and of its info; None for nothing.
            measurement_size: how many numbers that is.
            horizon: steps after which an episode is truncated, where it has not ended before.
        """
        if not tasks_dynamics:
            raise ValueError("tasks_dynamics must have an entry for each environment, got none")
        self.num_envs = len(tasks_dynamics)
        self._environments = [make() for _ in tasks_dynamics]
        self._tasks_dynamics = list(tasks_dynamics)
        self._set_task, self._measure, self._horizon = set_task, measure, horizon
        size = _vector_space("observation", self._environments[0].observation_space).shape[0]
        actions = _vector_space("action", self._environments[0].action_space)
        if not actions.is_bounded():
            raise ValueError(f"actions of {self._environments[0]} must have limits, got {actions}")
        self._middle = (actions.high + actions.low) / 2.0
        self._reach = (actions.high - actions.low) / 2.0
        self._observation = np.zeros((self.num_envs, size), np.float32)
        self._measurement = np.zeros((self.num_envs, measurement_size))
        self._running = np.zeros(self.num_envs, bool)
        self._env_steps = np.zeros(self.num_envs, int)

    def reset(self, generators: Starts) -> Float32[np.ndarray, "N O"]:
        """Starts an episode in every environment."""
        return self.restart(np.ones(self.num_envs, bool), generators)

    def restart(
        self, ended: Bool[np.ndarray, "N"], generators: Starts
    ) -> Float32[np.ndarray, "N O"]:
        """Starts a new episode in the marked environments and leaves the others as they are."""
        each = one_for_each(generators, self.num_envs)
        for n in np.flatnonzero(ended).tolist():
            self._set_task(self._environments[n], self._tasks_dynamics[n])
            seed = int(each[n].integers(SEED_LIMIT))
            self._observation[n], _ = self._environments[n].reset(seed=seed)
        self._running |= ended
        self._env_steps[ended] = 0
        return self._observation.copy()

    def step(self, action: Float32[np.ndarray, "N A"]) -> Step:
        """One step of every environment whose episode goes on; actions are clipped to [-1, 1]."""
        controls = self._middle + self._reach * np.clip(action, -1.0, 1.0)
        self._env_steps += 1
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        for n in np.flatnonzero(self._running).tolist():
            environment = self._environments[n]
            self._observation[n], reward, terminated[n], truncated[n], info = environment.step(
                controls[n]
            )
            if self._measure is not None:
                self._measurement[n] = self._measure(environment, float(reward), info)
        finite = np.isfinite(self._observation).all(1) & np.isfinite(self._measurement).all(1)
        diverged = self._running & ~finite
        self._observation[~finite], self._measurement[~finite] = 0.0, 0.0
        truncated |= diverged | (self._env_steps >= self._horizon)
        self._running &= ~(terminated | truncated)
        return Step(
            next_observation=self._observation.copy(),
            measurement=self._measurement.copy(),
            terminated=terminated & ~diverged,
            truncated=truncated,
            diverged=diverged,
        )

    def picture(self, env: int) -> UInt8[np.ndarray, "H W 3"]:
        """One environment as it shows itself.

        Raises:
            ValueError: it was not made to.
        """
        environment = self._environments[env]
        if environment.render_mode != "rgb_array":
            raise ValueError(
                f"{environment} must be made with render_mode='rgb_array' to be looked at, got "
                f"{environment.render_mode!r}"
            )
        return np.asarray(environment.render())


def _vector_space(what: str, space: Space[Any]) -> Box:
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise ValueError(
            f"the environment's {what} space must be a Box of one axis, got {space}: wrap it, for "
            "instance in gymnasium.wrappers.FlattenObservation"
        )
    return space
