"""A family's tasks as a `gymnasium.vector.VectorEnv`, whose reward is each task's own.

For evaluators, generators of data and other people's algorithms. Collectors are given dynamics,
which hold no reward, and never this.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float, Float32

from causeway.actors.tasks.family import Dynamics, Family, RestartableDynamics, Task

Seeds = int | Sequence[int | None] | None


class FamilyVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """One environment per task, stepped together, each ended and started by itself.

    An environment that has ended starts anew in the step after, as gymnasium's own vector
    environments do by default: that step gives its first observation and a reward of 0. Where a
    simulation diverges its episode is truncated, `info["diverged"]` marks it, and what the step
    gives belongs to no episode.
    """

    def __init__(self, family: Family, tasks: Sequence[Task], dynamics: Dynamics) -> None:
        """Sets up the environments.

        Args:
            family: gives the rewards.
            tasks: one for each environment.
            dynamics: the family's, of just these tasks.
        """
        if not isinstance(dynamics, RestartableDynamics):
            raise ValueError(
                f"dynamics of family {family.name!r} must have `restart` to be a vector "
                f"environment, {type(dynamics).__name__} has none"
            )
        if dynamics.num_envs != len(tasks):
            raise ValueError(
                f"dynamics must be of as many environments as there are tasks, {len(tasks)}, "
                f"got {dynamics.num_envs}"
            )
        self.num_envs = len(tasks)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = Box(-np.inf, np.inf, (family.observation_size,), np.float32)
        self.single_action_space = Box(-1.0, 1.0, (family.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._family, self._dynamics = family, dynamics
        self._rewards = [task.reward for task in tasks]
        self._generators = [np.random.default_rng() for _ in tasks]
        self._observation = np.zeros(self.observation_space.shape or (), np.float32)
        self._ended = np.ones(self.num_envs, bool)

    def reset(
        self, *, seed: Seeds = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32[np.ndarray, "N O"], dict[str, Any]]:
        """Starts an episode in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: environment i is seeded with seed + i, or with its own of a sequence; None goes
                on with the random states that there are.
            options: may hold `reset_mask`, [N], the environments to reset.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        for i, one in enumerate(seeds or ()):
            if one is not None:
                self._generators[i], _ = seeding.np_random(one)
        everyone = np.ones(self.num_envs, bool)
        mask: np.ndarray = (options or {}).get("reset_mask", everyone)
        self._observation = self._dynamics.restart(mask, self._generators)
        self._ended = self._ended & ~mask
        return self._observation.copy(), {}

    def step(
        self, actions: Float[np.ndarray, "N A"]
    ) -> tuple[
        Float32[np.ndarray, "N O"],
        Float32[np.ndarray, "N"],
        Bool[np.ndarray, "N"],
        Bool[np.ndarray, "N"],
        dict[str, Any],
    ]:
        """Observations, rewards, terminations, truncations and infos of N environments."""
        action = np.clip(np.asarray(actions, np.float32), -1.0, 1.0)
        step = self._dynamics.step(action)
        following, waiting = step.next_observation, self._ended
        reward = self._family.reward(
            self._rewards, self._observation, action, following, step.measurement
        )
        terminated, truncated = step.terminated & ~waiting, step.truncated & ~waiting
        if waiting.any():
            following = self._dynamics.restart(waiting, self._generators)
            reward = np.where(waiting, np.float32(0.0), reward)
        info = {}
        if step.diverged is not None and (step.diverged & ~waiting).any():
            info["diverged"] = step.diverged & ~waiting
            truncated |= info["diverged"]
        self._observation, self._ended = following, terminated | truncated
        return following.copy(), reward, terminated, truncated, info
