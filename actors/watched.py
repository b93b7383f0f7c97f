"""Dynamics that are watched: what they did last, and what a task gives for it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from causeway.actors.tasks.family import Dynamics, Family, Starts, Step


class Seen(NamedTuple):
    """One time step of N environments."""

    observation: Float32[np.ndarray, "N O"]  # before it
    action: Float32[np.ndarray, "N A"]
    step: Step
    counts: Bool[np.ndarray, "N"]  # where it belongs to an episode


class Watched:
    """Dynamics that keep the last step they took; they do what they did."""

    def __init__(self, dynamics: Dynamics) -> None:
        self._dynamics = dynamics
        self.num_envs = dynamics.num_envs
        self.last: Seen | None = None

    def reset(self, generators: Starts) -> Float32[np.ndarray, "N O"]:
        """Starts an episode in every environment."""
        self._observation = self._dynamics.reset(generators)
        self._running = np.ones(self.num_envs, bool)
        return self._observation

    def step(self, action: Float32[np.ndarray, "N A"]) -> Step:
        """One time step in every environment."""
        step = self._dynamics.step(action)
        counts = self._running if step.diverged is None else self._running & ~step.diverged
        self.last = Seen(self._observation, action, step, counts)
        self._observation, self._running = step.next_observation, self._running & ~step.ended
        return step


def step_reward(
    family: Family, task_rewards: Sequence[Mapping[str, float]], seen: Seen
) -> Float32[np.ndarray, "N"]:
    """The true reward of each environment's step; it means nothing where the step does not count.

    Args:
        family: of the environments.
        task_rewards: reward parameters of each environment's task.
        seen: the step.
    """
    reward = family.reward(
        task_rewards,
        seen.observation[:, None],
        seen.action[:, None],
        seen.step.next_observation[:, None],
        seen.step.measurement[:, None],
    )
    return np.asarray(reward[:, 0], np.float32)
