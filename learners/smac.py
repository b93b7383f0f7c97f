"""SMAC: semi-supervised meta actor-critic, our flagship.

Pong, Nair, Smith, Huang, Levine: *Offline Meta-Reinforcement Learning with Online
Self-Supervision*, ICML 2022, arXiv:2107.03974.

Offline, PEARL's encoder infers z from labelled context, a decoder predicts rewards from z, and an
advantage-weighted actor stays near the logs. But the context that the policy later gathers by
itself differs from the logs, and its z with it. So, online, collectors act without any reward, the
frozen decoder labels what they saw with a z from *offline* context, and actor and critics train on:
they meet the z of their own exploration, and the shift closes.

Departs from the paper, each a typed option of `SmacConfig`: the actor's weights (`weighting`), the
KL weight and its mean over tasks (`kl_weight`, `kl_over_tasks`), the latent of the next action
(`next_latent`), what the decoder reconstructs (`reward_error`), and whether the encoder goes on to
learn from the frozen decoder's labels (`online_encoder`). Departs from the authors' code: target
critics start as copies, and losses are taken before any network is stepped.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from causeway.datasets.batches import MetaBatch
from causeway.learners.actor_critic import ActorCritic
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_based import ContextBased
from causeway.learners.context_config import ContextConfig
from causeway.learners.context_losses import kl_loss, reward_loss
from causeway.learners.formulas import draw_gaussian, kl_to_standard_normal, standard_normal
from causeway.learners.latent_policy import DecodesRewards, GaussianPolicy
from causeway.learners.networks import GaussianEncoder, RewardDecoder, TanhGaussianActor

OFFLINE = Stage(
    name="offline", trains=("encoder", "decoder", "critics", "actor"), frozen=(), collects=False
)
ONLINE = Stage(
    name="online", trains=("critics", "actor"), frozen=("encoder", "decoder"), collects=True
)


@dataclass(frozen=True, kw_only=True)
class SmacConfig(ContextConfig):
    """Hyperparameters of SMAC. Defaults are the authors' unless a comment says otherwise."""

    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    decoder_hidden: tuple[int, ...] = (64, 64)
    kl_weight: float = 0.1  # the paper: 1, with the summed reward error
    kl_over_tasks: Literal["mean", "sum"] = "mean"  # PEARL: "sum"
    reward_error: Literal["rl_batch", "context_sum"] = "rl_batch"  # the paper: "context_sum"
    next_latent: Literal["same", "fresh"] = "same"  # authors' code: "fresh"
    online_encoder: Literal["frozen", "trained"] = "frozen"  # the paper: "frozen"

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_not_negative("kl_weight")


class SmacPolicy(GaussianPolicy, DecodesRewards):
    """What acts: encoder, actor, and the decoder that labels. A belief is [N, 2, Z]."""

    def __init__(
        self,
        encoder: GaussianEncoder,
        decoder: RewardDecoder,
        actor: TanhGaussianActor,
        config: SmacConfig,
    ) -> None:
        super().__init__(encoder, actor, config)
        self.decoder = decoder


class Smac(ContextBased):
    """PEARL's encoder, an advantage-weighted actor, and a decoder that labels online rewards."""

    Config = SmacConfig
    STAGES = (OFFLINE, ONLINE)
    config: SmacConfig
    _policy: SmacPolicy

    def __init__(self, observation_size: int, action_size: int, config: SmacConfig) -> None:
        o, a, z = observation_size, action_size, config.latent_dim
        following = o if config.next_observation_in_context else 0
        self.encoder = GaussianEncoder(o + a + 1 + following, z, config.encoder_hidden)
        self.decoder = RewardDecoder(o + a + following, z, config.decoder_hidden)
        rl = ActorCritic(o, a, z, config)
        policy = SmacPolicy(self.encoder, self.decoder, rl.actor, config)
        super().__init__(config, rl, policy, {"encoder": self.encoder, "decoder": self.decoder})

    def stages(self) -> tuple[Stage, ...]:
        """The stages in their order; where the encoder learns online, it is not frozen there."""
        stages = super().stages()
        if self.config.online_encoder == "frozen":
            return stages
        learning = replace(stages[1], trains=("encoder", *stages[1].trains), frozen=("decoder",))
        return stages[0], learning

    def policy(self) -> SmacPolicy:
        """The inference parts, sharing the trained tensors."""
        return self._policy

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The losses of the paper's sec. 5 under its names; one z per task, shared by all."""
        learns_context = "encoder" in stage.trains
        with torch.set_grad_enabled(learns_context and torch.is_grad_enabled()):
            belief = self._policy.belief(batch.context)
            z = draw_gaussian(belief, standard_normal(belief[:, 0].shape, belief, generator))
        minimised: dict[str, Tensor] = {}
        if learns_context:
            minimised |= self._context_losses(batch, belief, z)
        next_z = None
        if self.config.next_latent == "fresh":
            next_z = draw_gaussian(belief.detach(), standard_normal(z.shape, z, generator))
        rl_losses, watched = self.rl.losses(
            batch.transitions,
            z.detach(),
            next_z=next_z,
            improves=stage.collects,
            generator=generator,
        )
        watched["kl_to_prior"] = kl_to_standard_normal(belief.detach()).mean()
        return Losses(minimised | rl_losses, watched)

    def _context_losses(self, batch: MetaBatch, belief: Tensor, z: Tensor) -> dict[str, Tensor]:
        """What alone trains encoder and decoder."""
        config = self.config
        on_context = config.reward_error == "context_sum"
        data = batch.context if on_context else batch.transitions
        mask = batch.context.mask if on_context else None
        predicted = self._policy.reward(data.observation, data.action, data.next_observation, z)
        return {
            "reward": reward_loss(predicted, data.reward, mask, reduction=config.reward_error),
            "kl": kl_loss(belief, kl_weight=config.kl_weight, over_tasks=config.kl_over_tasks),
        }
