"""A scripted behaviour for point robots: it knows the goal and is deliberately not good at it.

Offline data should be the kind that logs are made of: aimed at the task more often than not, slow,
noisy, with some episodes that had nothing to do with the task at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from causeway.actors.rollout import Generators, run_episodes
from causeway.actors.tasks.family import Family, Split, Task, with_true_reward
from causeway.actors.tasks.point_robot import STEP_SIZE, goal_of
from causeway.datasets.batches import Episode


@dataclass(frozen=True, kw_only=True)
class ScriptedBehaviour:
    """How well, and how wrongly, episodes aim at the goal.

    An episode walks to its own target at its own speed. The target is the goal turned about the
    start by the episode's heading error or, in a share of the episodes, another point of the arc.
    """

    heading_noise: float = 0.5  # rad, standard deviation of an episode's heading error
    action_noise: float = 0.3  # standard deviation per step and axis, actions lie in [-1, 1]
    random_share: float = 0.25  # of the episodes: a target that is uniform, whatever the task
    speed_low: float = 0.3  # of the largest straight step that a box of actions allows, uniform
    speed_high: float = 0.9  # per episode
    max_action: float = 0.98  # it never goes to the limit of 1, where a squashed policy's density
    # is extreme and a likelihood sees little else

    def __post_init__(self) -> None:
        for name in ("heading_noise", "action_noise"):
            if getattr(self, name) < 0.0:
                raise ValueError(
                    f"ScriptedBehaviour.{name} must be at least 0, got {getattr(self, name)}"
                )
        if not 0.0 <= self.random_share <= 1.0:
            raise ValueError(
                f"ScriptedBehaviour.random_share must lie in [0, 1], got {self.random_share}: "
                "it is a share of the episodes"
            )
        if not 0.0 < self.speed_low <= self.speed_high <= 1.0:
            raise ValueError(
                "ScriptedBehaviour.speed_low and speed_high must satisfy "
                f"0 < speed_low <= speed_high <= 1, got {self.speed_low} and {self.speed_high}"
            )
        if not 0.0 < self.max_action <= 1.0:
            raise ValueError(
                f"ScriptedBehaviour.max_action must lie in (0, 1], got {self.max_action}"
            )

    def plan(
        self, goal: Float64[np.ndarray, "2"], num_episodes: int, generator: np.random.Generator
    ) -> "EpisodePlans":
        """What each episode is up to: drawn once, kept until its end."""
        error = generator.normal(0.0, self.heading_noise, num_episodes)
        cos, sin = np.cos(error), np.sin(error)
        aimed = np.stack([cos * goal[0] - sin * goal[1], sin * goal[0] + cos * goal[1]], axis=1)
        angle = generator.uniform(0.0, np.pi, num_episodes)  # as the family draws its goals
        elsewhere = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        is_random = generator.random(num_episodes) < self.random_share
        return EpisodePlans(
            behaviour=self,
            target=np.where(is_random[:, None], elsewhere, aimed),
            speed=generator.uniform(self.speed_low, self.speed_high, num_episodes),
        )


@dataclass(frozen=True, kw_only=True)
class EpisodePlans:
    """E episodes' targets and speeds."""

    behaviour: ScriptedBehaviour
    target: Float64[np.ndarray, "E 2"]
    speed: Float64[np.ndarray, "E"]  # fraction of the largest straight step

    def act(
        self, observation: Float32[np.ndarray, "E 2"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "E 2"]:
        """A noisy step of each episode towards its target, in [-1, 1]."""
        way = (self.target - observation) / STEP_SIZE  # in full steps
        way /= np.maximum(np.abs(way).max(axis=1, keepdims=True), 1.0)  # straight, within the box
        noise = generator.normal(0.0, self.behaviour.action_noise, way.shape)
        limit = self.behaviour.max_action
        action = np.clip(self.speed[:, None] * way + noise, -limit, limit)
        return np.asarray(action, np.float32)


def has_script(family: Family) -> bool:
    """Whether the scripted behaviour can make data of the family's first split."""
    split = next(iter(family.splits().values()))
    return all(_is_scripted(family, task) for task in split.tasks)


def _is_scripted(family: Family, task: Task) -> bool:
    """It walks in the plane, towards a goal."""
    return {"goal_x", "goal_y"} <= set(task.reward) and family.observation_size == 2


def collect_scripted(
    family: Family,
    split: Split,
    options: ScriptedBehaviour,
    *,
    episodes_per_task: int,
    seed: int,
) -> Iterator[tuple[Task, list[Episode]]]:
    """Episodes of every task of the split, train and test, with true rewards.

    A task's episodes depend on the seed and the task's id alone, not on the tasks beside it.
    """
    if episodes_per_task < 1:
        raise ValueError(f"episodes_per_task must be at least 1, got {episodes_per_task}")
    for task in split.tasks:
        if not _is_scripted(family, task):
            raise ValueError(
                "the scripted behaviour needs points in the plane, with goal_x and goal_y, task "
                f"{task.id} of family {family.name!r} has "
                f"{', '.join(task.reward) or 'no reward parameters'}: collect its data from the "
                "lifetime of an agent instead"
            )
    # From here on lazily: what cannot be is refused before anything is played.
    return (
        (task, _episodes(family, task, options, episodes_per_task, _generator(seed, task)))
        for task in split.tasks
    )


def _generator(seed: int, task: Task) -> np.random.Generator:
    return Generators.from_key(seed, task.id).numpy


def _episodes(
    family: Family,
    task: Task,
    options: ScriptedBehaviour,
    num_episodes: int,
    generator: np.random.Generator,
) -> list[Episode]:
    plans = options.plan(goal_of(task.reward), num_episodes, generator)
    trajectories = run_episodes(
        family.dynamics([task.dynamics] * num_episodes),
        lambda observation: plans.act(observation, generator),
        horizon=family.horizon,
        generator=generator,
    )
    return [with_true_reward(family, task, trajectory) for trajectory in trajectories]
