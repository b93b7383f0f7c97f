"""Collection that reads true rewards: for an online oracle alone, never for self-supervision.

What self-supervision reaches is held against the same training with the environment's rewards. Such
a run asks for it by name (`collection.true_rewards`), and its collectors are of another class: the
one of self-supervised methods has no way to a reward.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from causeway.actors.collector import Assignment, Collection, Collector, CollectorConfig
from causeway.actors.tasks.family import Family, Task, with_true_reward
from causeway.datasets.batches import Episode, RowLayout, Trajectory
from causeway.datasets.policy import AdaptivePolicy


class OracleCollector(Collector):
    """A collector whose rollouts are episodes with the environment's rewards.

    Args:
        policy: what acts; it need not label.
        family: where the tasks come from, with their true rewards.
        tasks: those it may be assigned.
        layout: sizes of observations and actions.
        config: how much is gathered in one task.
        seed: of the run.
        index: of this collector.
    """

    def __init__(
        self,
        policy: AdaptivePolicy,
        family: Family,
        tasks: Sequence[Task],
        layout: RowLayout,
        *,
        config: CollectorConfig,
        seed: int,
        index: int,
    ) -> None:
        super().__init__(
            policy,
            family.dynamics,
            layout,
            horizon=family.horizon,
            config=config,
            seed=seed,
            index=index,
        )
        self._family = family
        self._tasks = {task.id: task for task in tasks}

    def _begin(self, assignment: Assignment) -> "_RewardedCollection":
        task = self._tasks[assignment.task_id]
        plain = super()._begin(assignment)
        return _RewardedCollection(
            policy=plain.policy,
            layout=plain.layout,
            config=plain.config,
            assignment=assignment,
            generators=plain.generators,
            rewarded=lambda trajectory: with_true_reward(self._family, task, trajectory),
        )


@dataclass(kw_only=True)
class _RewardedCollection(Collection):
    """One assignment at work, rewarded as it is gathered."""

    rewarded: Callable[[Trajectory], Episode]

    def add(self, trajectories: list[Trajectory]) -> None:
        """Takes in another round, with the rewards that the environment gives for it."""
        super().add([self.rewarded(one) for one in trajectories if len(one) > 0])

    def rewards_of(self, trajectories: list[Trajectory]) -> list[np.ndarray]:
        """The rewards that they have."""
        return [one.reward for one in trajectories if isinstance(one, Episode)]
