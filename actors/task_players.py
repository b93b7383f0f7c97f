"""Episodes of several tasks' runs, played here or elsewhere: what is drawn is the same.

A player knows how the tasks move and nothing of what they reward. Every draw of a turn comes from a
key of its own, so a turn gives the same trajectories whoever plays it, and beside which others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from causeway.actors.rollout import ActionChoice, Generators
from causeway.actors.side_by_side import Manner, Share, rollout_side_by_side
from causeway.actors.tasks.family import Dynamics
from causeway.datasets.batches import Trajectory
from causeway.datasets.policy import AdaptivePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One episode of every run of a task."""

    dynamics: Mapping[str, float]  # the task's dynamics parameters
    belief: Tensor  # what each run acts on, one per run, [N, ...]
    actions: ActionChoice
    key: tuple[int, ...]  # of everything that is drawn; unlike any other turn's


Play = Callable[[Sequence[Turn]], list[list[Trajectory]]]
"""Plays turns that all act alike; gives each one's trajectories, one per run."""


class TaskPlayer:
    """Plays turns in this process, all at once.

    Args:
        policy: what acts.
        family_dynamics: how tasks move, as of a family.
        action_size: of the family.
        horizon: of the family, in environment steps.
    """

    def __init__(
        self,
        policy: AdaptivePolicy,
        family_dynamics: Callable[[Sequence[Mapping[str, float]]], Dynamics],
        *,
        action_size: int,
        horizon: int,
    ) -> None:
        self._policy, self._family_dynamics = policy, family_dynamics
        self._action_size, self._horizon = action_size, horizon
        # By what they are environments of: a player meets the same tasks again and again.
        self._dynamics: dict[tuple[tuple[tuple[str, float], ...], ...], Dynamics] = {}

    def play(self, turns: Sequence[Turn]) -> list[list[Trajectory]]:
        """Each turn's trajectories, one per run."""
        manner = Manner(
            action_size=self._action_size,
            horizon=self._horizon,
            latent_per="trajectory",
            actions=turns[0].actions,
        )
        shares = [
            Share(belief=turn.belief, generators=Generators.from_key(*turn.key)) for turn in turns
        ]
        return rollout_side_by_side(self._policy, self._dynamics_of(turns), shares, manner)

    def _dynamics_of(self, turns: Sequence[Turn]) -> Dynamics:
        entries = [turn.dynamics for turn in turns for _ in range(len(turn.belief))]
        key = tuple(tuple(sorted(entry.items())) for entry in entries)
        if key not in self._dynamics:
            self._dynamics[key] = self._family_dynamics(entries)
        return self._dynamics[key]
