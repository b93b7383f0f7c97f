"""What an algorithm is to the rest of the system: the Protocol that the trainer drives."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from causeway.datasets.batches import MetaBatch
from causeway.datasets.policy import AdaptivePolicy


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A named part of training: which networks train, and which data it wants."""

    name: str
    trains: tuple[str, ...]  # the algorithm's modules that the optimiser steps
    frozen: tuple[str, ...]  # those that this stage leaves as they are
    collects: bool  # whether collectors add rollouts meanwhile
    # What rewards these: the method's own decoder, or, for an oracle, the environment.
    labels: Literal["decoder", "environment"] = "decoder"


@dataclass(frozen=True, slots=True)
class Losses:
    """What one update minimises, and what it only watches."""

    minimised: dict[str, Tensor]  # scalars; the trainer steps on their sum and logs each
    watched: dict[str, Tensor]  # scalars for the log, without gradient

    def detached(self) -> "Losses":
        """The same numbers without their graph."""
        return Losses(
            {name: value.detach() for name, value in self.minimised.items()},
            {name: value.detach() for name, value in self.watched.items()},
        )


@runtime_checkable
class Algorithm(Protocol):
    """An offline meta-RL method: networks, stages and losses. It steps nothing and logs nothing.

    Its class is made as `Class(observation_size, action_size, config)` and says two things without
    being made: `Config`, the dataclass of its hyperparameters, and `STAGES`. A `Config` may have
    `outcome_discount`, see below. A class whose batches need contexts in time order says so by
    `READS_IN_ORDER = True`, and its policy by `reads_in_order`; one whose batches need no context
    by `READS_CONTEXT = False`.
    """

    STAGES: ClassVar[tuple[Stage, ...]]

    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order in which they run."""
        ...

    def modules(self) -> dict[str, nn.Module]:
        """Every module by name; all of them go into a checkpoint."""
        ...

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The stage's losses on one meta-batch; every draw comes from the generator."""
        ...

    def after_update(self, stage: Stage) -> None:
        """What follows the optimiser's step, such as moving target networks."""
        ...

    def policy(self) -> AdaptivePolicy:
        """The inference parts, sharing the trained tensors."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What Adam steps; a frozen module's gradient is None.

        Each group holds `params`, its learning rate `lr`, and where that decays `half_life`: the
        updates in which it halves, smoothly; None or absent keeps it.
        """
        ...


def outcome_discount(config: Any) -> float | None:
    """The discount of the returns to go that batches must bring, as the hyperparameters have it.

    None, or no such attribute: batches bring no `Outcomes`, and their rows are narrower.
    """
    discount: float | None = getattr(config, "outcome_discount", None)
    return discount
