"""What an algorithm is to the rest of the system: the Protocol that the trainer drives."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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
    collects: bool  # whether collectors add unlabelled rollouts meanwhile


@dataclass(frozen=True, slots=True)
class Losses:
    """What one update minimises, and what it only watches."""

    minimised: dict[str, Tensor]  # scalars; the trainer steps on their sum and logs each
    watched: dict[str, Tensor]  # scalars for the log, without gradient


@runtime_checkable
class Algorithm(Protocol):
    """An offline meta-RL method: networks, stages and losses. It steps nothing and logs nothing."""

    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order in which they run."""

    def modules(self) -> dict[str, nn.Module]:
        """Every module by name; all of them go into a checkpoint."""

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The stage's losses on one meta-batch; every draw comes from the generator."""

    def after_update(self, stage: Stage) -> None:
        """What follows the optimiser's step, such as moving target networks."""

    def policy(self) -> AdaptivePolicy:
        """The inference parts, sharing the trained tensors."""

    def trained_parameters(self, stage: Stage) -> Iterable[nn.Parameter]:
        """The parameters that the stage's optimiser steps."""
