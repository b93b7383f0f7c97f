"""What learners give and actors take: a policy that adapts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from causeway.datasets.batches import ContextBatch


@runtime_checkable
class AdaptivePolicy(Protocol):
    """The part of an algorithm that acts: all that an actor ever holds.

    Beliefs and latents are opaque tensors whose first axis is the environment or task, [N, ...]:
    mean and variance of a Gaussian here, adapted weights in a gradient-based method. Every
    method runs without gradients, and every draw comes from the generator it is given.
    """

    def prior(self, num_tasks: int) -> Tensor:
        """The belief before any context, one per task, [N, ...]."""
        ...

    def adapt(self, context: ContextBatch) -> Tensor:
        """The belief given each task's context, [N, ...]."""
        ...

    def draw(self, belief: Tensor, generator: torch.Generator) -> Tensor:
        """One latent per task, drawn from its belief, [N, ...]."""
        ...

    def act(self, observation: Tensor, latent: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions [N, A] in [-1, 1] for observations [N, O]; without a generator, deterministic."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The inference parts, for broadcast."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Takes broadcast weights."""
        ...


@runtime_checkable
class LabellingPolicy(AdaptivePolicy, Protocol):
    """A policy that tells rewards, too: what collection without rewards needs."""

    def label(
        self,
        context: ContextBatch,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Rewards [N, T] for N unlabelled trajectories, one latent drawn from each one's context.

        Args:
            context: labelled transitions of the task that each trajectory was collected in, [N, K].
            observation: [N, T, O].
            action: [N, T, A].
            next_observation: [N, T, O].
            generator: for the latents.
        """
        ...


def labelling(policy: AdaptivePolicy) -> LabellingPolicy:
    """The policy as one that labels.

    Raises:
        ValueError: it cannot.
    """
    if not isinstance(policy, LabellingPolicy):
        raise ValueError(
            f"rollouts without rewards need a policy that labels them, {type(policy).__name__} "
            "does not: train without a stage that collects, or with an algorithm that has a "
            "reward model, such as smac"
        )
    return policy


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """How a task's own weights go on from where they are, by Adam."""

    value_steps: int
    policy_steps: int
    value_rate: float
    policy_rate: float


@runtime_checkable
class TunablePolicy(AdaptivePolicy, Protocol):
    """A policy whose beliefs can be trained further: weights, and not what a latent is told by."""

    def fine_tune(self, belief: Tensor, context: ContextBatch, tuning: FineTuning) -> Tensor:
        """The beliefs, [N, ...], after steps on each one's own transitions."""
        ...


def tunable(policy: AdaptivePolicy) -> TunablePolicy:
    """The policy as one whose beliefs can be trained further.

    Raises:
        ValueError: they cannot.
    """
    if not isinstance(policy, TunablePolicy):
        raise ValueError(
            f"fine-tuning needs a policy whose beliefs can be trained, {type(policy).__name__} has "
            "none: leave it out, or train an algorithm whose beliefs are weights, such as macaw"
        )
    return policy


@runtime_checkable
class ActsOnNoise(Protocol):
    """What a policy may offer beside `AdaptivePolicy`: actions for noise that its caller has drawn.

    Collections that each have a generator of their own can then act in one pass.
    """

    def act_with_noise(self, observation: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
        """The actions [N, A] that `act` gives where it draws this standard normal noise [N, A]."""
        ...


def reads_in_order(policy: AdaptivePolicy) -> bool:
    """Whether the policy reads a context as a sequence: consecutive transitions in time order.

    Such a policy says so by an attribute of this name; to any other a context is a set.
    """
    return bool(getattr(policy, "reads_in_order", False))
