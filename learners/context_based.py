"""The skeleton of the context-based methods: named networks, an inner RL, a policy on [s; z].

A method adds its config, its losses as pure functions, its networks, and `losses`, which says what
is minimised in each stage.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from causeway.datasets.batches import MetaBatch
from causeway.learners.actor_critic import ActorCritic
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_config import ContextConfig
from causeway.learners.latent_policy import LatentPolicy, PointPolicy


class ContextBased(ABC):
    """What the context-based methods have in common.

    Args:
        config: of the method.
        rl: critics and actor on [s; z].
        policy: the inference parts; they share their networks with the other two.
        context_modules: every network that infers the task or predicts from it, by name.
    """

    STAGES: ClassVar[tuple[Stage, ...]]

    def __init__(
        self,
        config: ContextConfig,
        rl: ActorCritic,
        policy: LatentPolicy,
        context_modules: Mapping[str, nn.Module],
    ) -> None:
        self.config, self.rl = config, rl
        self._policy, self._context_modules = policy, dict(context_modules)
        self._met: Tensor | None = None  # the last update's latents, for a policy that remembers
        if isinstance(policy, PointPolicy):
            self._context_modules["memory"] = policy.memory

    def stages(self) -> tuple[Stage, ...]:
        """The stages in their order; where critics train or rest, so does what belongs to them."""
        extra = tuple(self.rl.extra)
        return tuple(
            replace(
                stage,
                trains=stage.trains + (extra if "critics" in stage.trains else ()),
                frozen=stage.frozen + (extra if "critics" in stage.frozen else ()),
            )
            for stage in self.STAGES
        )

    def modules(self) -> dict[str, nn.Module]:
        """Every network by name."""
        return self._context_modules | self.rl.modules()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One rate for what infers the task, one for what acts in it."""
        context = [p for module in self._context_modules.values() for p in module.parameters()]
        control = [
            p
            for name, module in self.rl.modules().items()
            if name != "target_critics"
            for p in module.parameters()
        ]
        return [
            {
                "params": context,
                "lr": self.config.context_learning_rate,
                "half_life": self.config.context_half_life,
            },
            {"params": control, "lr": self.config.learning_rate},
        ]

    def policy(self) -> LatentPolicy:
        """The inference parts, sharing the trained tensors."""
        return self._policy

    @abstractmethod
    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The stage's losses on one meta-batch; every draw comes from the generator."""

    def after_update(self, stage: Stage) -> None:
        """Target critics follow slowly, where critics train; new latents are remembered."""
        if "critics" in stage.trains:
            self.rl.after_update()
        if self._met is not None and isinstance(self._policy, PointPolicy):
            self._policy.memory.remember(self._met)
            self._met = None
