"""Rounds: environments of many tasks stepped for one horizon, rewarded as each task rewards.

In a round every environment starts anew and, where its dynamics can restart, starts again whenever
an episode ends early. So a round needs nothing of the round before it, and a run of rounds can be
taken up again after any of them.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from causeway.actors.tasks.family import Dynamics, Family, RestartableDynamics, Step, Task
from causeway.datasets.batches import RowLayout
from causeway.datasets.episodes import TRUNCATED, flags_of

Act = Callable[[Float32[np.ndarray, "N O"]], Float32[np.ndarray, "N A"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round gave: rows of transitions, episode after episode. R rows, J episodes."""

    rows: Float32[np.ndarray, "R W"]  # as `RowLayout` says, then the M measurements
    task: Int64[np.ndarray, "J"]  # each episode's task, by its place among the tasks
    length: Int64[np.ndarray, "J"]  # its steps; the sum is R
    whole: Bool[np.ndarray, "J"]  # False where the round ended before the episode did

    @property
    def begins(self) -> Int64[np.ndarray, "J"]:
        """The first row of each episode."""
        return np.asarray(np.cumsum(self.length) - self.length, np.int64)

    def returns(self, layout: RowLayout) -> np.ndarray:
        """Each episode's undiscounted return, [J]."""
        reward = self.rows[:, layout.observation_size + layout.action_size].astype(np.float64)
        return np.add.reduceat(reward, self.begins) if len(self.length) else np.zeros(0)

    @classmethod
    def concatenate(cls, rounds: "Sequence[Round]") -> "Round":
        """The rounds' episodes, one round after the other."""
        names = ("rows", "task", "length", "whole")
        return cls(**{n: np.concatenate([getattr(r, n) for r in rounds]) for n in names})


class RoundPlayer:
    """Plays rounds in environments that each keep their task.

    Args:
        family: whose dynamics and rewards.
        tasks: one for each environment.
        places: each environment's task, by its place among all tasks.
        threads: of the simulator, where the family's dynamics take any.
    """

    def __init__(
        self, family: Family, tasks: Sequence[Task], places: Sequence[int], *, threads: int
    ) -> None:
        self._family = family
        self._layout = RowLayout(family.observation_size, family.action_size)
        self._rewards = [task.reward for task in tasks]
        self._places = np.asarray(places, np.int64)
        self._dynamics = _make_dynamics(family, tasks, threads)

    def play(self, act: Act, generator: np.random.Generator) -> Round:
        """One round: the family's horizon in every environment.

        Args:
            act: the actions for the observations.
            generator: for the starts of episodes.

        Returns:
            Its episodes. One that the round's end cuts off counts as truncated there; what an
            environment does after an early end, where it cannot restart, belongs to none.
        """
        observation = self._dynamics.reset(generator)
        observations, actions, steps = [], [], []
        for index in range(self._family.horizon):
            action = np.clip(act(observation), -1.0, 1.0).astype(np.float32)
            step = self._dynamics.step(action)
            observations.append(observation)
            actions.append(action)
            steps.append(step)
            observation = step.next_observation
            is_last = index == self._family.horizon - 1
            if not is_last and step.ended.any() and isinstance(self._dynamics, RestartableDynamics):
                observation = self._dynamics.restart(step.ended, generator)
        return self._cut(self._rows(np.stack(observations, 1), np.stack(actions, 1), steps), steps)

    def _rows(
        self, observation: np.ndarray, action: np.ndarray, steps: list[Step]
    ) -> Float32[np.ndarray, "N T W"]:
        """What was seen in every environment, rewarded as its task rewards."""
        following = np.stack([step.next_observation for step in steps], 1)
        measurement = np.stack([step.measurement for step in steps], 1)
        reward = self._family.reward(self._rewards, observation, action, following, measurement)
        rows = self._layout.rows(
            observation=observation,
            action=action,
            reward=reward,
            next_observation=following,
            terminated=np.stack([step.terminated for step in steps], 1),
            truncated=np.stack([step.truncated for step in steps], 1),
        )
        return np.concatenate([rows, measurement.astype(np.float32)], axis=-1)

    def _cut(self, rows: Float32[np.ndarray, "N T W"], steps: list[Step]) -> Round:
        """The episodes in what was seen."""
        ended = np.stack([step.ended for step in steps], 1)
        diverged = np.stack([_diverged(step) for step in steps], 1)
        restarts = isinstance(self._dynamics, RestartableDynamics)
        pieces, task, length, whole = [], [], [], []
        for env, place in enumerate(self._places.tolist()):
            for begin, end in _spans(ended[env], restarts):
                stop = end - int(diverged[env, end - 1])  # a diverged step belongs to no episode
                if stop == begin:
                    continue
                piece = rows[env, begin:stop].copy()
                is_whole = bool(ended[env, end - 1])
                if not is_whole or stop < end:
                    flags_of(piece[:, : self._layout.width])[-1, TRUNCATED] = True
                pieces.append(piece)
                task.append(place)
                length.append(stop - begin)
                whole.append(is_whole)
        return Round(
            rows=np.concatenate(pieces) if pieces else rows[0, :0],
            task=np.array(task, np.int64),
            length=np.array(length, np.int64),
            whole=np.array(whole, bool),
        )


def _spans(ended: Bool[np.ndarray, "T"], restarts: bool) -> list[tuple[int, int]]:
    """First row and end of each episode of one environment."""
    ends = (np.flatnonzero(ended) + 1).tolist()
    if not restarts:
        ends = ends[:1]
    if not ends or (restarts and ends[-1] < len(ended)):
        ends.append(len(ended))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _diverged(step: Step) -> Bool[np.ndarray, "N"]:
    return np.zeros(len(step.terminated), bool) if step.diverged is None else step.diverged


def _make_dynamics(family: Family, tasks: Sequence[Task], threads: int) -> Dynamics:
    parameters = [task.dynamics for task in tasks]
    make: Any = family.dynamics
    if "threads" in inspect.signature(make).parameters:
        dynamics: Dynamics = make(parameters, threads=threads)
        return dynamics
    return family.dynamics(parameters)
