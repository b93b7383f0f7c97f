"""The words that every layer shares: trajectories, episodes and batches, and the table of axes.

Axes, here and nowhere else. `T` leads where there is one, else `N` leads:

    T  time steps of one trajectory        O  observation features
    N  tasks of a meta-batch (or envs)     A  action features
    B  transitions per task (RL batch)     Z  latent dimensions
    K  transitions of one context          E  members of an ensemble
    U  updates in a block                  W  columns of a row
    M  features of a measurement

A scalar per transition has no trailing 1: a reward is [N, B], never [N, B, 1].
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What an actor saw and did, in time order, **without** any reward."""

    observation: Float32[np.ndarray, "T O"]
    action: Float32[np.ndarray, "T A"]  # in [-1, 1]
    next_observation: Float32[np.ndarray, "T O"]
    terminated: Bool[np.ndarray, "T"]  # a true end: no bootstrap past it
    truncated: Bool[np.ndarray, "T"]  # a time limit: the bootstrap goes on
    # What a true reward reads beside these. It stays in the memory of who stepped the environments:
    # no file holds it, and what a collector hands on has None.
    measurement: Float64[np.ndarray, "T M"] | None = None

    def __len__(self) -> int:
        return len(self.observation)

    def labelled(self, reward: Float32[np.ndarray, "T"]) -> "Episode":
        """This trajectory with a reward for each of its steps."""
        if reward.shape != (len(self),):
            raise ValueError(
                f"reward must have one entry for each of the trajectory's {len(self)} steps, "
                f"got shape {reward.shape}"
            )
        mine = {field.name: getattr(self, field.name) for field in fields(Trajectory)}
        return Episode(**mine, reward=reward)

    def without_measurement(self) -> "Trajectory":
        """The same with nothing in it but what may travel."""
        return replace(self, measurement=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode(Trajectory):
    """A trajectory whose every step has a reward, true or labelled."""

    reward: Float32[np.ndarray, "T"]

    @property
    def undiscounted_return(self) -> float:
        """The sum of the rewards."""
        return float(self.reward.sum(dtype=np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """How the episode of each transition went on, to its end; B may be K, of a context.

    It is told before any rows are drawn, so it does not depend on which are.
    """

    return_to_go: Shaped[Tensor, "N B"]  # discounted sum of the rewards from this one to the end
    steps_to_go: Shaped[Tensor, "N B"]  # transitions from this one to the last, which has 1
    final_observation: Shaped[Tensor, "N B O"]  # the last transition's next observation
    final_terminated: Bool[Tensor, "N B"]  # whether the last transition is a true end


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionBatch:
    """Transitions for the RL update, drawn apart from the context that infers z."""

    observation: Shaped[Tensor, "N B O"]
    action: Shaped[Tensor, "N B A"]  # in [-1, 1]
    reward: Shaped[Tensor, "N B"]  # as the environment gave it: never scaled here
    next_observation: Shaped[Tensor, "N B O"]
    terminated: Bool[Tensor, "N B"]
    truncated: Bool[Tensor, "N B"]
    outcomes: Outcomes | None = None  # where the layout keeps them


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBatch:
    """Transitions of one task each, from which a belief over z is inferred."""

    observation: Shaped[Tensor, "N K O"]
    action: Shaped[Tensor, "N K A"]
    reward: Shaped[Tensor, "N K"]
    next_observation: Shaped[Tensor, "N K O"]
    mask: Bool[Tensor, "N K"]  # True where there is a transition, False where there is padding
    outcomes: Outcomes | None = None  # where the layout keeps them


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaBatch:
    """One meta-batch: N tasks, each with a context and, drawn apart from it, transitions."""

    task: Int64[Tensor, "N"]
    context: ContextBatch
    transitions: TransitionBatch


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How one transition lies in a row of float32: the form of the cache and of blocks.

    observation [O], action [A], reward, next_observation [O], outcome where kept [3 + O],
    terminated, truncated. The outcome is return_to_go, steps_to_go, final_terminated and
    final_observation; flags are 0 or 1.
    """

    observation_size: int
    action_size: int
    outcome_discount: float | None = None  # of the returns to go, in [0, 1]; None keeps no outcome

    @property
    def width(self) -> int:
        """W, the number of columns."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        o, a = self.observation_size, self.action_size
        return [o, a, 1, o, 0 if self.outcome_discount is None else 3 + o, 2]

    def pack(self, episode: Episode) -> Float32[np.ndarray, "T W"]:
        """The episode's transitions as rows, in time order."""
        columns = [
            episode.observation,
            episode.action,
            episode.reward[:, None],
            episode.next_observation,
            *self._outcome_columns(episode),
            episode.terminated[:, None],
            episode.truncated[:, None],
        ]
        return np.concatenate([np.asarray(c, np.float32) for c in columns], axis=1)

    def transitions(self, rows: Shaped[Tensor, "N B W"]) -> TransitionBatch:
        """The rows' fields, as views where the type allows it."""
        observation, action, reward, following, outcome, flags = self._split(rows)
        return TransitionBatch(
            observation=observation,
            action=action,
            reward=reward,
            next_observation=following,
            terminated=flags[..., 0] > 0.5,
            truncated=flags[..., 1] > 0.5,
            outcomes=self._outcomes(outcome),
        )

    def context(
        self, rows: Shaped[Tensor, "N K W"], mask: Bool[Tensor, "N K"] | None = None
    ) -> ContextBatch:
        """The rows as a context; without a mask, every row counts."""
        observation, action, reward, following, outcome, _ = self._split(rows)
        if mask is None:
            mask = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
        return ContextBatch(
            observation=observation,
            action=action,
            reward=reward,
            next_observation=following,
            mask=mask,
            outcomes=self._outcomes(outcome),
        )

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        observation, action, reward, *others = torch.split(rows, self._sizes, dim=-1)
        return observation, action, reward[..., 0], *others

    def _outcomes(self, columns: Tensor) -> Outcomes | None:
        if self.outcome_discount is None:
            return None
        return Outcomes(
            return_to_go=columns[..., 0],
            steps_to_go=columns[..., 1],
            final_terminated=columns[..., 2] > 0.5,
            final_observation=columns[..., 3:],
        )

    def _outcome_columns(self, episode: Episode) -> list[np.ndarray]:
        if self.outcome_discount is None or len(episode) == 0:
            return [np.zeros((len(episode), self._sizes[4]), np.float32)]
        length = len(episode)
        return_to_go = np.empty((length, 1))
        following = 0.0
        for step in reversed(range(length)):
            following = episode.reward[step] + self.outcome_discount * following
            return_to_go[step] = following
        return [
            return_to_go,
            np.arange(length, 0, -1)[:, None],
            np.full((length, 1), episode.terminated[-1]),
            np.repeat(episode.next_observation[-1:], length, axis=0),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaBlock:
    """U meta-batches as plain arrays: what a task stream hands to the learner in one piece."""

    task: Int64[np.ndarray, "U N"]
    context: Float32[np.ndarray, "U N K W"]
    transitions: Float32[np.ndarray, "U N B W"]

    def __len__(self) -> int:
        return len(self.task)

    def meta_batch(self, update: int, layout: RowLayout, device: torch.device) -> MetaBatch:
        """The meta-batch of one update on the device; a part of the block itself if it is there."""
        return MetaBatch(
            task=_to_tensor(self.task[update], device),
            context=layout.context(_to_tensor(self.context[update], device)),
            transitions=layout.transitions(_to_tensor(self.transitions[update], device)),
        )

    @classmethod
    def concatenate(cls, blocks: "list[MetaBlock]") -> "MetaBlock":
        """The blocks' updates, one block after the other."""
        return cls(
            **{f.name: np.concatenate([getattr(b, f.name) for b in blocks]) for f in fields(cls)}
        )


def _to_tensor(array: Shaped[np.ndarray, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """The array on the device: as it is where it can be, as a copy where it is read-only."""
    if device.type == "cpu" and array.flags.writeable:
        return torch.from_numpy(array)
    return torch.tensor(array, device=device)
