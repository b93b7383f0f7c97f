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
(`next_latent`), and what the decoder reconstructs (`reward_error`). Departs from the authors' code:
target critics start as copies, and losses are taken before any network is stepped.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from causeway.datasets.batches import ContextBatch, MetaBatch
from causeway.learners.actor_critic import ActorCritic
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_based import ContextBased, ContextConfig
from causeway.learners.formulas import (
    draw_gaussian,
    kl_to_standard_normal,
    product_of_gaussians,
)
from causeway.learners.latent_policy import GaussianPolicy, transition_features
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

    decoder_hidden: tuple[int, ...] = (64, 64)
    kl_weight: float = 0.1  # the paper: 1, with the summed reward error
    kl_over_tasks: Literal["mean", "sum"] = "mean"  # PEARL: "sum"
    reward_error: Literal["rl_batch", "context_sum"] = "rl_batch"  # the paper: "context_sum"
    next_latent: Literal["same", "fresh"] = "same"  # authors' code: "fresh"

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_not_negative("kl_weight")


# What trains the context; `rl_losses.py` has what trains critics and actor.


def reward_loss(
    predicted: Float[Tensor, "N B"],
    reward: Float[Tensor, "N B"],
    mask: Bool[Tensor, "N B"] | None,
    *,
    reduction: Literal["rl_batch", "context_sum"],
) -> Float[Tensor, ""]:
    """The decoder's squared error on unscaled rewards; it trains decoder and encoder.

        L_reward = E [ (r_hat(s, a, z) - r)^2 ]                      "rl_batch"
        L_reward = E_tasks [ sum_{(s,a,r) in h} (r_hat(s, a, z) - r)^2 ]  "context_sum"

    Paper, sec. 5.1, is the second. Departs from it by default: the mean over the RL
    batch, as in the authors' code, where the loss does not grow with the size of the context.

    Args:
        predicted: by the decoder.
        reward: unscaled.
        mask: True for real transitions; None where there is no padding.
        reduction: which of the two.
    """
    error = (predicted - reward).square()
    if mask is not None:
        error = torch.where(mask, error, 0.0)
    match reduction:
        case "rl_batch":
            return error.mean() if mask is None else error.sum() / mask.sum().clamp_min(1)
        case "context_sum":
            return error.sum(1).mean()
        case _:
            assert_never(reduction)


def kl_loss(
    belief: Float[Tensor, "N 2 Z"], *, kl_weight: float, over_tasks: Literal["mean", "sum"]
) -> Float[Tensor, ""]:
    """kl_weight * KL(q(z|h) || N(0, I)): nats, summed over Z, mean (or PEARL's sum) over tasks."""
    kl = kl_to_standard_normal(belief)
    return kl_weight * (kl.mean() if over_tasks == "mean" else kl.sum())


class SmacPolicy(GaussianPolicy):
    """What acts: encoder, actor, and the decoder that labels. A belief is [N, 2, Z]."""

    def __init__(
        self,
        encoder: GaussianEncoder,
        decoder: RewardDecoder,
        actor: TanhGaussianActor,
        config: SmacConfig,
    ) -> None:
        super().__init__(actor, config.latent_dim)
        self.encoder, self.decoder = encoder, decoder
        self.config = config

    def belief(self, context: ContextBatch) -> Float[Tensor, "N 2 Z"]:
        """q(z | h): the product of one Gaussian per transition; differentiable."""
        seen = transition_features(
            context, next_observation=self.config.next_observation_in_context
        )
        mean, variance = self.encoder(seen)
        return product_of_gaussians(mean.float(), variance.float(), context.mask)

    def reward(
        self, observation: Tensor, action: Tensor, next_observation: Tensor, z: Tensor
    ) -> Float[Tensor, "N B"]:
        """r_hat, in the environment's units; differentiable."""
        parts = [observation, action]
        if self.config.next_observation_in_context:
            parts.append(next_observation)
        predicted: Tensor = self.decoder(torch.cat(parts, dim=-1), z)
        return predicted


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

    def policy(self) -> SmacPolicy:
        """The inference parts, sharing the trained tensors."""
        return self._policy

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The losses of the paper's sec. 5 under its names; one z per task, shared by all."""
        learns_context = "encoder" in stage.trains
        with torch.set_grad_enabled(learns_context and torch.is_grad_enabled()):
            belief = self._policy.belief(batch.context)
            z = draw_gaussian(belief, self._noise(belief[:, 0], generator))
        minimised: dict[str, Tensor] = {}
        if learns_context:
            minimised |= self._context_losses(batch, belief, z)
        next_z = None
        if self.config.next_latent == "fresh":
            next_z = draw_gaussian(belief.detach(), self._noise(z, generator))
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
            "reward": reward_loss(
                predicted.float(), data.reward, mask, reduction=config.reward_error
            ),
            "kl": kl_loss(belief, kl_weight=config.kl_weight, over_tasks=config.kl_over_tasks),
        }

    @staticmethod
    def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device)
