"""Adaptation to a task by one's own trajectories: explore, adapt, and go on learning online.

Exploration is by a policy that was learned from logs alone. With `training_tasks` it is a behaviour
prior over the training tasks: each episode acts as the policy that is adapted to one of them, drawn
anew, so whole episodes differ in what they are after. With `noise` every episode acts on the prior.
Both add the policy's own action noise. Every run of every task is one environment of a batch, or of
a collector's batch: who plays the episodes is a parameter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from causeway.actors.contexts import Rows, stack_contexts
from causeway.actors.rollout import ActionChoice, Generators, check_choice
from causeway.actors.summary import Summary, summarise
from causeway.actors.task_players import Play, TaskPlayer, Turn
from causeway.actors.tasks.family import Family, Task, with_true_reward
from causeway.datasets.batches import ContextBatch, Episode, RowLayout
from causeway.datasets.policy import AdaptivePolicy, FineTuning, tunable

Exploration = Literal["noise", "training_tasks"]


@dataclass(frozen=True, kw_only=True)
class OnlineAdaptationConfig:
    """What a run of adaptation gathers. Defaults of the fine-tuning are MACAW's authors'."""

    repeats: int = 4  # runs per task
    exploration: Exploration = "noise"
    exploration_episodes: int = 4  # whole ones
    kept_episodes: int | None = None  # the best of these, whose rows are adapted to; None: all
    context_size: int = 256  # rows of logs: of a training task's, and of a test task's if given
    fine_tune_episodes: int = 0  # after the adaptation, each with the policy's noise
    episodes_before_tuning: int = 25  # of these, before the first steps
    evaluate_every: int = 5  # episodes of fine-tuning between two deterministic ones
    tuning_rows: int = 1024  # of those gathered, drawn anew for the steps behind each episode
    value_steps: int = 100  # of Adam, behind each episode
    policy_steps: int = 200
    value_rate: float = 1e-4  # ours: steps are in the layers' own weights, the authors' 1e-5 is not
    policy_rate: float = 1e-4

    def __post_init__(self) -> None:
        least = {"fine_tune_episodes": 0, "value_steps": 0, "policy_steps": 0}
        for name in (
            *("repeats", "exploration_episodes", "context_size", "fine_tune_episodes"),
            *("episodes_before_tuning", "evaluate_every", "tuning_rows"),
            *("value_steps", "policy_steps"),
        ):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(
                    f"OnlineAdaptationConfig.{name} must be at least {least.get(name, 1)}, "
                    f"got {getattr(self, name)}"
                )
        if self.kept_episodes is not None and not (
            1 <= self.kept_episodes <= self.exploration_episodes
        ):
            raise ValueError(
                "OnlineAdaptationConfig.kept_episodes must lie between 1 and exploration_episodes "
                f"({self.exploration_episodes}) or be null (all), got {self.kept_episodes}"
            )
        check_choice("OnlineAdaptationConfig", "exploration", Exploration, self.exploration)

    @property
    def tuning(self) -> FineTuning:
        """The steps behind each episode."""
        return FineTuning(
            value_steps=self.value_steps,
            policy_steps=self.policy_steps,
            value_rate=self.value_rate,
            policy_rate=self.policy_rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineAdaptation:
    """What every run of every task earned, S tasks; all but the exploration without noise."""

    tasks: tuple[Task, ...]
    unadapted: Summary
    explored: Summary | None  # mean over the episodes of exploration; None: adapted to logs
    adapted: Summary
    tuned: tuple[tuple[int, Summary], ...]  # after so many episodes of fine-tuning

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "task_ids": [task.id for task in self.tasks],
            "unadapted_return": self.unadapted.to_json(),
            "exploration_return": None if self.explored is None else self.explored.to_json(),
            "adapted_return": self.adapted.to_json(),
            "fine_tuned_returns": [
                {"episodes": episodes, **summary.to_json()} for episodes, summary in self.tuned
            ],
        }


def adapt_online(
    policy: AdaptivePolicy,
    family: Family,
    tasks: Sequence[Task],
    *,
    layout: RowLayout,
    config: OnlineAdaptationConfig,
    seed: int,
    training_contexts: Mapping[int, Rows],
    offline_contexts: Mapping[int, Rows] | None,
    play: Play | None,
) -> OnlineAdaptation:
    """Explores, adapts and, where asked to, goes on learning, in each of the tasks.

    Args:
        policy: what adapts and acts; a `TunablePolicy` where it is to go on learning.
        family: where the tasks come from, with their true rewards.
        tasks: at least one.
        layout: how transitions lie in rows.
        config: what is gathered.
        seed: results depend on it and on nothing else that is random.
        training_contexts: logs of training tasks, by id, for exploration by `training_tasks`.
        offline_contexts: logs of the tasks, by id, to adapt to in place of own episodes; None: own.
        play: plays the episodes, which are the same whoever does; None: this process.
    """
    if play is None:
        player = TaskPlayer(
            policy, family.dynamics, action_size=family.action_size, horizon=family.horizon
        )
        play = player.play
    runs = _Runs(policy, family, tasks, layout, config, seed, play)
    prior = policy.prior(runs.count)
    unadapted = runs.earn(runs.play(prior, "deterministic"))
    explored = None
    if offline_contexts is None:
        library = runs.library(training_contexts)
        episodes = [
            runs.play(prior if library is None else runs.drawn_from(library), "stochastic")
            for _ in range(config.exploration_episodes)
        ]
        explored = summarise(np.mean([runs.returns(one) for one in episodes], axis=0))
        belief = policy.adapt(runs.contexts(episodes))
    else:
        belief = policy.adapt(runs.logs([offline_contexts[task.id] for task in tasks]))
    adapted = runs.earn(runs.play(belief, "deterministic"))
    tuned = tuple(runs.fine_tune(belief)) if config.fine_tune_episodes else ()
    return OnlineAdaptation(
        tasks=tuple(tasks), unadapted=unadapted, explored=explored, adapted=adapted, tuned=tuned
    )


class _Runs:
    """All repetitions of all tasks, side by side."""

    def __init__(
        self,
        policy: AdaptivePolicy,
        family: Family,
        tasks: Sequence[Task],
        layout: RowLayout,
        config: OnlineAdaptationConfig,
        seed: int,
        play: Play,
    ) -> None:
        if not tasks:
            raise ValueError("adapt_online needs at least one task, got none")
        self._policy, self._family, self._layout, self._config = policy, family, layout, config
        self._tasks, self._play = tasks, play
        self._seed, self._num_played = seed, 0
        self._generators = Generators.from_key(seed)
        self.count = len(tasks) * config.repeats

    def play(self, belief: Tensor, actions: ActionChoice) -> list[Episode]:
        """One episode of every run, with true rewards."""
        self._num_played += 1
        beliefs = torch.split(belief, self._config.repeats)
        turns = [
            Turn(
                dynamics=task.dynamics,
                belief=own,
                actions=actions,
                key=(self._seed, self._num_played, place),
            )
            for place, (task, own) in enumerate(zip(self._tasks, beliefs, strict=True))
        ]
        return [
            with_true_reward(self._family, task, trajectory)
            for task, trajectories in zip(self._tasks, self._play(turns), strict=True)
            for trajectory in trajectories
        ]

    def returns(self, episodes: Sequence[Episode]) -> Float64[np.ndarray, "S"]:
        """Each task's return, mean over its runs."""
        every = np.array([episode.undiscounted_return for episode in episodes])
        return np.asarray(every.reshape(-1, self._config.repeats).mean(axis=1))

    def earn(self, episodes: Sequence[Episode]) -> Summary:
        """The same with its mean over tasks."""
        return summarise(self.returns(episodes))

    def library(self, training_contexts: Mapping[int, Rows]) -> Tensor | None:
        """The beliefs that exploration draws from, one per training task; None: the prior."""
        if self._config.exploration == "noise":
            return None
        if not training_contexts:
            raise ValueError(
                "exploration by 'training_tasks' needs the logs of training tasks, got none: give "
                "training_contexts, or explore by 'noise'"
            )
        chosen = [self._some(rows) for _, rows in sorted(training_contexts.items())]
        return self._policy.adapt(stack_contexts(chosen, self._layout))

    def drawn_from(self, library: Tensor) -> Tensor:
        """One of the library's beliefs for each run."""
        return library[
            torch.from_numpy(self._generators.numpy.integers(len(library), size=self.count))
        ]

    def contexts(self, episodes: Sequence[Sequence[Episode]]) -> ContextBatch:
        """Each run's own episodes, whole, as its context; the best of them where so few are kept.

        A behaviour that suits another task says little about this one, and much of it is bad.
        """
        count = self._config.kept_episodes or len(episodes)
        rows = []
        for run in range(self.count):
            own = sorted((one[run] for one in episodes), key=lambda e: -e.undiscounted_return)
            rows.append(np.concatenate([self._layout.pack(one) for one in own[:count]]))
        return stack_contexts(rows, self._layout)

    def logs(self, rows: Sequence[Rows]) -> ContextBatch:
        """Rows of each run's own draw out of its task's logs."""
        each = [self._some(of_task) for of_task in rows for _ in range(self._config.repeats)]
        return stack_contexts(each, self._layout)

    def fine_tune(self, belief: Tensor) -> list[tuple[int, Summary]]:
        """Returns while the policy learns from what it gathers; the buffer is empty at first."""
        config, policy = self._config, tunable(self._policy)
        gathered: list[list[Episode]] = []
        curve = []
        for episode in range(1, config.fine_tune_episodes + 1):
            gathered.append(self.play(belief, "stochastic"))
            if episode >= config.episodes_before_tuning:
                belief = policy.fine_tune(belief, self._tuning_rows(gathered), config.tuning)
            if episode % config.evaluate_every == 0 or episode == config.fine_tune_episodes:
                curve.append((episode, self.earn(self.play(belief, "deterministic"))))
        return curve

    def _tuning_rows(self, gathered: Sequence[Sequence[Episode]]) -> ContextBatch:
        rows = [
            np.concatenate([self._layout.pack(one[run]) for one in gathered])
            for run in range(self.count)
        ]
        size, generator = self._config.tuning_rows, self._generators.numpy
        return stack_contexts([_some_rows(one, size, generator) for one in rows], self._layout)

    def _some(self, rows: Rows) -> Rows:
        return _some_rows(rows, self._config.context_size, self._generators.numpy)


def _some_rows(rows: Rows, size: int, generator: np.random.Generator) -> Rows:
    """At most so many different rows, from anywhere."""
    if len(rows) <= size:
        return np.asarray(rows)
    return np.asarray(rows[generator.choice(len(rows), size, replace=False)])
