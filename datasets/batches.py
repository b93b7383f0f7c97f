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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import repeat

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from torch import Tensor

from causeway.datasets.episodes import FINAL_TERMINATED, TERMINATED, TRUNCATED, flags_of


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


ROW_FIELDS = ("observation", "action", "reward", "next_observation")  # of either batch
LINE_COLUMNS = 16  # of float32 in a cache line of the processor
MAX_PADDING = 0.2  # of a row, to make it as long as whole lines


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How one transition lies in a row of float32: the form of the cache and of blocks.

    observation [O], action [A], reward, next_observation [O], outcome where kept [2 + O], flags.
    The outcome is return_to_go, steps_to_go and final_observation. The last column is not a number:
    its four bytes are the flags, each 0 or 1, so that a batch has even these as views. Zeros before
    it make the row as long as whole cache lines, where they are few: it is read faster then.
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
        sizes = [o, a, 1, o, 0 if self.outcome_discount is None else 2 + o]
        needed = sum(sizes) + 1
        padding = -needed % LINE_COLUMNS
        return [*sizes, padding if padding <= MAX_PADDING * needed else 0, 1]

    def pack(self, episode: Episode) -> Float32[np.ndarray, "T W"]:
        """The episode's transitions as rows, in time order."""
        rows = self.rows(
            observation=episode.observation,
            action=episode.action,
            reward=episode.reward,
            next_observation=episode.next_observation,
            outcome=self._outcome(episode),
            terminated=episode.terminated,
            truncated=episode.truncated,
        )
        if self.outcome_discount is not None:
            flags_of(rows)[:, FINAL_TERMINATED] = episode.terminated[-1:]
        return rows

    def rows(
        self,
        *,
        observation: Shaped[np.ndarray, "*B O"],
        action: Shaped[np.ndarray, "*B A"],
        reward: Shaped[np.ndarray, "*B"],
        next_observation: Shaped[np.ndarray, "*B O"],
        terminated: Shaped[np.ndarray, "*B"],
        truncated: Shaped[np.ndarray, "*B"],
        outcome: Shaped[np.ndarray, "*B X"] | None = None,
    ) -> Float32[np.ndarray, "*B W"]:
        """Transitions as rows; the outcome is as `pack` tells it, if the layout keeps one."""
        columns = [observation, action, reward[..., None], next_observation]
        columns += [] if outcome is None else [outcome]
        columns += [np.zeros((*reward.shape, sum(self._sizes[-2:])))]
        rows = np.concatenate([np.asarray(c, np.float32) for c in columns], axis=-1)
        flags = flags_of(rows)
        flags[..., TERMINATED], flags[..., TRUNCATED] = terminated, truncated
        return rows

    def transitions(self, rows: Shaped[Tensor, "N B W"]) -> TransitionBatch:
        """The rows' fields, as views where the type allows it."""
        return next(self.transitions_of_each(rows[None]))

    def context(
        self, rows: Shaped[Tensor, "N K W"], mask: Bool[Tensor, "N K"] | None = None
    ) -> ContextBatch:
        """The rows as a context; without a mask, every row counts."""
        return next(self.contexts_of_each(rows[None], None if mask is None else mask[None]))

    def transitions_of_each(self, rows: Shaped[Tensor, "U N B W"]) -> Iterator[TransitionBatch]:
        """The transitions of U updates; a whole block at once spares most of torch's overhead."""
        *columns, outcome, flags = self._split(rows)
        columns += [flags[..., TERMINATED], flags[..., TRUNCATED]]
        names = (*ROW_FIELDS, "terminated", "truncated")
        each_outcomes = self._outcomes_of_each(outcome, flags)
        for outcomes, each in zip(each_outcomes, _unbound(columns), strict=True):
            yield TransitionBatch(**dict(zip(names, each, strict=True)), outcomes=outcomes)

    def contexts_of_each(
        self, rows: Shaped[Tensor, "U N K W"], mask: Bool[Tensor, "U N K"] | None = None
    ) -> Iterator[ContextBatch]:
        """The contexts of U updates; see `context`."""
        if rows.shape[-2] == 0 and len(rows) > 1:  # nothing tells them apart: one does for all
            alone = self.context(rows[0], None if mask is None else mask[0])
            yield from repeat(alone, len(rows))
            return
        *columns, outcome, flags = self._split(rows)
        if mask is None:
            mask = torch.ones(rows.shape[:-1], dtype=torch.bool, device=rows.device)
        names = (*ROW_FIELDS, "mask")
        each_outcomes = self._outcomes_of_each(outcome, flags)
        for outcomes, each in zip(each_outcomes, _unbound([*columns, mask]), strict=True):
            yield ContextBatch(**dict(zip(names, each, strict=True)), outcomes=outcomes)

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        if rows.numel() == 0:
            rows = rows.new_empty(rows.shape)  # with strides that the view below can have
        observation, action, reward, next_observation, outcome, _, flags = torch.split(
            rows, self._sizes, dim=-1
        )
        return (
            observation,
            action,
            reward[..., 0],
            next_observation,
            outcome,
            flags.view(torch.bool),
        )

    def _outcomes_of_each(
        self, columns: Shaped[Tensor, "U N B X"], flags: Bool[Tensor, "U N B 4"]
    ) -> Iterator[Outcomes | None]:
        if self.outcome_discount is None:
            yield from repeat(None, len(columns))
            return
        parts = [columns[..., 0], columns[..., 1], columns[..., 2:], flags[..., FINAL_TERMINATED]]
        for to_go, steps, final_observation, final_terminated in _unbound(parts):
            yield Outcomes(
                return_to_go=to_go,
                steps_to_go=steps,
                final_observation=final_observation,
                final_terminated=final_terminated,
            )

    def _outcome(self, episode: Episode) -> Shaped[np.ndarray, "T X"] | None:
        if self.outcome_discount is None:
            return None
        length = len(episode)
        return_to_go = np.empty((length, 1))
        following = 0.0
        for step in reversed(range(length)):
            following = episode.reward[step] + self.outcome_discount * following
            return_to_go[step] = following
        final_observation = np.repeat(episode.next_observation[-1:], length, axis=0)
        steps_to_go = np.arange(length, 0, -1)[:, None]
        return np.concatenate([return_to_go, steps_to_go, final_observation], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaBlock:
    """U meta-batches as plain arrays: what a task stream hands to the learner in one piece."""

    task: Int64[np.ndarray, "U N"]
    context: Float32[np.ndarray, "U N K W"]
    transitions: Float32[np.ndarray, "U N B W"]

    def __len__(self) -> int:
        return len(self.task)

    def meta_batches(self, layout: RowLayout, device: torch.device) -> Iterator[MetaBatch]:
        """Each update's meta-batch on the device; a part of the block itself if it is there."""
        parts = zip(
            _to_tensor(self.task, device).unbind(),
            layout.contexts_of_each(_to_tensor(self.context, device)),
            layout.transitions_of_each(_to_tensor(self.transitions, device)),
            strict=True,
        )
        for task, context, transitions in parts:
            yield MetaBatch(task=task, context=context, transitions=transitions)

    @classmethod
    def concatenate(cls, blocks: "list[MetaBlock]") -> "MetaBlock":
        """The blocks' updates, one block after the other."""
        return cls(
            **{f.name: np.concatenate([getattr(b, f.name) for b in blocks]) for f in fields(cls)}
        )


def _unbound(columns: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The parts of all columns along their first axis."""
    return zip(*(column.unbind() for column in columns), strict=True)


def _to_tensor(array: Shaped[np.ndarray, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """The array on the device: as it is where it can be, as a copy where it is read-only."""
    if device.type == "cpu" and array.flags.writeable:
        return torch.from_numpy(array)
    return torch.tensor(array, device=device)
