"""Collectors: unlabelled rollouts for self-supervision, in tasks whose reward they cannot read.

A collector holds a policy, a way to make dynamics, and labelled transitions from a task's logs. It
holds no reward function, no goal and no family: where it needs a reward, to infer what it acts on,
it asks the policy's own decoder for one.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causeway.actors.contexts import Rows, stack_contexts
from causeway.actors.rollout import (
    ActionChoice,
    Generators,
    LatentPer,
    check_choice,
)
from causeway.actors.side_by_side import Manner, Share, rollout_side_by_side
from causeway.actors.tasks.family import Dynamics
from causeway.datasets.batches import RowLayout, Trajectory
from causeway.datasets.draws import subsample
from causeway.datasets.policy import AdaptivePolicy, labelling, reads_in_order

Version = tuple[int, int]  # generation, updates


@dataclass(frozen=True, kw_only=True)
class CollectorConfig:
    """How much a collector gathers in one task, and on which latents."""

    num_envs: int = 10  # environments of one assignment stepped together, at most
    batch_envs: int = 64  # environments of all assignments stepped together, at most
    threads: int = 1  # that share the assignments; each steps so many environments together
    prior_env_steps: int = 400  # at least so many with z ~ prior
    posterior_env_steps: int = 600  # then at least so many with z ~ posterior
    context_size: int | None = 64  # transitions; more are subsampled to it, None takes all
    latent_per: LatentPer = "trajectory"  # the SMAC authors' code: "step"
    actions: ActionChoice = "stochastic"  # "deterministic" gathers just what adaptation will meet

    def __post_init__(self) -> None:
        for name in ("num_envs", "batch_envs", "threads", "context_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"CollectorConfig.{name} must be at least 1, got {value}")
        steps = (self.prior_env_steps, self.posterior_env_steps)
        if min(steps) < 0 or max(steps) == 0:
            raise ValueError(
                "CollectorConfig.prior_env_steps and posterior_env_steps must not be negative "
                f"and not both be 0, got {steps[0]} and {steps[1]}"
            )
        check_choice("CollectorConfig", "latent_per", LatentPer, self.latent_per)
        check_choice("CollectorConfig", "actions", ActionChoice, self.actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One collection in one task. It carries nothing of what the task rewards but old labels."""

    task_id: int
    dynamics: Mapping[str, float]  # the task's dynamics parameters
    labelling_context: Rows  # labelled transitions from the task's offline data
    sequence: int  # unlike any other assignment's of the run


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What one assignment gathered, and with which weights."""

    task_id: int
    trajectories: list[Trajectory]
    version: Version
    collector: int
    sequence: int

    @property
    def env_steps(self) -> int:
        """How many environment steps the trajectories took."""
        return sum(len(trajectory) for trajectory in self.trajectories)


class Collector:
    """Acts in assigned tasks with the latest weights it was given.

    A rollout depends on the seed, the assignment and the weights: not on which collector ran it,
    what that one ran before, or what stood beside it in the list.
    """

    def __init__(
        self,
        policy: AdaptivePolicy,
        family_dynamics: Callable[[Sequence[Mapping[str, float]]], Dynamics],
        layout: RowLayout,
        *,
        horizon: int,
        config: CollectorConfig,
        seed: int,
        index: int,
    ) -> None:
        self._policy = policy
        self._layout = layout
        self._config = config
        manner = Manner(
            action_size=layout.action_size,
            horizon=horizon,
            latent_per=config.latent_per,
            actions=config.actions,
        )
        self._seed = seed
        self._index = index
        self._version: Version | None = None
        self._teams = [
            _Team(policy, family_dynamics, manner, config) for _ in range(config.threads)
        ]

    def __repr__(self) -> str:
        return f"Collector[{self._index}]"

    @property
    def version(self) -> Version | None:
        """Generation and updates of the weights that it acts with; None before the first."""
        return self._version

    def set_weights(self, state: Mapping[str, np.ndarray | Tensor], version: Version) -> None:
        """Takes weights, of which it keeps a copy; older ones than it has are refused."""
        if self._version is not None and version < self._version:
            raise ValueError(
                f"weights of version {version} arrived after version {self._version}: "
                "the weight store must hand out versions in order"
            )
        self._policy.load_state_dict({name: _own(value) for name, value in state.items()})
        self._version = version

    def collect(self, assignments: Sequence[Assignment]) -> list[Rollout]:
        """One rollout for each assignment, as many of them side by side as there is room for."""
        if self._version is None:
            raise ValueError(
                f"{self!r} must have weights before it collects: "
                "call set_weights, or what it gathers comes from a policy that no one trained"
            )
        collections = [self._begin(assignment) for assignment in assignments]
        waiting, teams = deque(collections), self._teams[: len(collections)]
        if len(teams) > 1:
            at_most = ceil(len(collections) / len(teams))  # so that no team takes another's share
            # A new thread takes over torch's number of threads once it has asked for it.
            with ThreadPoolExecutor(len(teams), initializer=torch.get_num_threads) as pool:
                for done in [pool.submit(team.work_off, waiting, at_most) for team in teams]:
                    done.result()
        elif teams:
            teams[0].work_off(waiting, len(collections))
        return [self._rollout_of(one, self._version) for one in collections]

    def _begin(self, assignment: Assignment) -> "Collection":
        generators = Generators.from_key(self._seed, assignment.sequence)
        return Collection(self._policy, self._layout, self._config, assignment, generators)

    def _rollout_of(self, collection: "Collection", version: Version) -> Rollout:
        return Rollout(
            task_id=collection.assignment.task_id,
            trajectories=collection.trajectories,
            version=version,
            collector=self._index,
            sequence=collection.assignment.sequence,
        )


class _Team:
    """Environments, and the thread that steps them."""

    def __init__(
        self,
        policy: AdaptivePolicy,
        make_dynamics: Callable[[Sequence[Mapping[str, float]]], Dynamics],
        manner: Manner,
        config: CollectorConfig,
    ) -> None:
        self._policy, self._make_dynamics = policy, make_dynamics
        self._manner, self._config = manner, config
        self._dynamics: tuple[tuple[Any, ...], Dynamics] | None = None  # the last, and of what

    def work_off(self, waiting: "deque[Collection]", at_most: int) -> None:
        """Completes collections until none waits; other teams may take from the same ones.

        Args:
            waiting: those that nobody is at.
            at_most: how many are at work side by side, where there is room for so many.
        """
        at_most = min(at_most, self._places())
        at_work: list[Collection] = []
        while True:
            with contextlib.suppress(IndexError):  # no more wait
                while len(at_work) < at_most:
                    at_work.append(waiting.popleft())
            if not at_work:
                return
            self._roll(at_work)
            at_work = [one for one in at_work if not one.is_complete]

    def _roll(self, collections: "list[Collection]") -> None:
        """One episode in every environment of all the collections."""
        shares = [
            Share(belief=one.next_belief(self._lanes()), generators=one.generators)
            for one in collections
        ]
        gathered = rollout_side_by_side(
            self._policy,
            self._dynamics_of([one.assignment.dynamics for one in collections]),
            shares,
            self._manner,
        )
        for one, trajectories in zip(collections, gathered, strict=True):
            one.add(trajectories)

    def _dynamics_of(self, tasks_dynamics: Sequence[Mapping[str, float]]) -> Dynamics:
        """Environments of these tasks, so many of each; the last ones again where they fit."""
        parameters = tuple(tuple(sorted(one.items())) for one in tasks_dynamics)
        if self._dynamics is None or self._dynamics[0] != parameters:
            lanes = self._lanes()
            entries = [one for one in tasks_dynamics for _ in range(lanes)]
            self._dynamics = (parameters, self._make_dynamics(entries))
        return self._dynamics[1]

    def _lanes(self) -> int:
        """As many environments as can be used at once, without gathering far beyond the goal."""
        longest = max(self._config.prior_env_steps, self._config.posterior_env_steps)
        return min(self._config.num_envs, ceil(longest / self._manner.horizon))

    def _places(self) -> int:
        """How many collections are at work at once."""
        return max(1, self._config.batch_envs // self._lanes())


@dataclass
class Collection:
    """One assignment at work: what it has seen, labelled by the policy's decoder where needed."""

    policy: AdaptivePolicy
    layout: RowLayout
    config: CollectorConfig
    assignment: Assignment
    generators: Generators
    trajectories: list[Trajectory] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)  # of the first trajectories, with labels
    env_steps: int = 0
    prior_env_steps: int | None = None  # taken on the prior; None as long as that goes on

    @property
    def is_complete(self) -> bool:
        """Whether enough was gathered, on the prior and on the posterior."""
        on_prior = self.env_steps if self.prior_env_steps is None else self.prior_env_steps
        return (
            on_prior >= self.config.prior_env_steps
            and self.env_steps - on_prior >= self.config.posterior_env_steps
        )

    def next_belief(self, num_envs: int) -> Tensor:
        """What the next episode of each of its environments acts on."""
        if self.prior_env_steps is None:
            if self.env_steps < self.config.prior_env_steps:
                return self.policy.prior(num_envs)
            self.prior_env_steps = self.env_steps
            # The very first trajectory of this part explores on the prior, as the authors' does.
            return self._belief(num_envs, 1)
        return self._belief(num_envs, 0)

    def add(self, trajectories: list[Trajectory]) -> None:
        """Takes in another round of trajectories, less what only a true reward could read.

        A simulation that diverged at once has left an empty one, which nobody keeps.
        """
        gathered = [one.without_measurement() for one in trajectories if len(one) > 0]
        if not gathered:
            raise ValueError(
                f"task {self.assignment.task_id}'s dynamics must survive their first step, all of "
                f"{len(trajectories)} environments diverged: check the task's dynamics parameters"
            )
        self.trajectories += gathered
        self.env_steps += sum(len(trajectory) for trajectory in gathered)

    def _belief(self, num_envs: int, num_prior: int) -> Tensor:
        """The prior for the first `num_prior` environments, the posterior for the others.

        Each environment infers its posterior from a draw of its own out of everything gathered; as
        long as nothing is, all of them act on the prior.
        """
        if not self.trajectories or num_prior >= num_envs:
            return self.policy.prior(num_envs)
        rows = self._labelled_rows()
        contexts = [self._subsampled(rows) for _ in range(num_envs - num_prior)]
        posterior = self.policy.adapt(stack_contexts(contexts, self.layout))
        return torch.cat([self.policy.prior(num_prior), posterior]) if num_prior else posterior

    def _subsampled(self, rows: Rows) -> Rows:
        return subsample(
            rows,
            self.config.context_size,
            self.generators.numpy,
            in_order=reads_in_order(self.policy),
        )

    def _labelled_rows(self) -> Rows:
        """Everything gathered; what has no label yet is labelled first."""
        if unlabelled := self.trajectories[len(self.rows) :]:
            rewards = self.rewards_of(unlabelled)
            self.rows += [
                self.layout.pack(trajectory.labelled(reward))
                for trajectory, reward in zip(unlabelled, rewards, strict=True)
            ]
        return np.concatenate(self.rows)

    def rewards_of(self, trajectories: list[Trajectory]) -> list[np.ndarray]:
        """Each trajectory's rewards, as the decoder tells them from a context of logged data."""
        contexts = [self._subsampled(self.assignment.labelling_context) for _ in trajectories]
        rewards = (
            labelling(self.policy)
            .label(
                stack_contexts(contexts, self.layout),
                padded([trajectory.observation for trajectory in trajectories]),
                padded([trajectory.action for trajectory in trajectories]),
                padded([trajectory.next_observation for trajectory in trajectories]),
                self.generators.torch,
            )
            .numpy()
        )
        return [
            rewards[n, : len(trajectory)].astype(np.float32)
            for n, trajectory in enumerate(trajectories)
        ]


def padded(arrays: Sequence[np.ndarray]) -> Tensor:
    """Arrays of [T, ...] as one tensor [N, longest T, ...], with zeros behind the short ones."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(a) for a in arrays], batch_first=True)


def _own(value: np.ndarray | Tensor) -> Tensor:
    """A copy that the policy may keep: arrays from a shared store are read-only and go away."""
    return value.detach().clone() if isinstance(value, Tensor) else torch.tensor(value)
