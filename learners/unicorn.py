"""UNICORN: a decoder of what follows, and metric learning, bound the task's information together.

Li et al.: *Towards an Information Theoretic Framework of Context-Based Offline Meta-Reinforcement
Learning*, NeurIPS 2024, arXiv:2402.02429; the supervised variant.

The latent is FOCAL's, and with it a decoder reconstructs the change of the observation and the
reward of transitions that the context does not hold. The reconstruction bounds what the latent
knows of the task from one side, metric learning from the other; both train the encoder.

Departs from the paper: `awac` in place of BRAC by default, one weight stands for alpha / (1 -
alpha), and rollouts are labelled in an online stage, which the paper lacks. A decoder of rewards
alone labels them: where observations change by much more than rewards, the reconstruction tells
rewards badly. Before any context, z is that of a task that training met.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from causeway.datasets.batches import MetaBatch
from causeway.learners.actor_critic import ActorCritic
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_based import ContextBased
from causeway.learners.context_config import ContextConfig
from causeway.learners.context_losses import distance_loss, halves_of
from causeway.learners.latent_policy import DecodesRewards, MeanPolicy, TaskMemory
from causeway.learners.networks import (
    PointEncoder,
    RewardDecoder,
    TanhGaussianActor,
    TransitionDecoder,
)

OFFLINE = Stage(
    name="offline",
    trains=("encoder", "reconstructor", "decoder", "critics", "actor"),
    frozen=(),
    collects=False,
)
ONLINE = Stage(
    name="online",
    trains=("critics", "actor"),
    frozen=("encoder", "reconstructor", "decoder"),
    collects=True,
)


@dataclass(frozen=True, kw_only=True)
class UnicornConfig(ContextConfig):
    """Hyperparameters of UNICORN. Defaults are the authors' unless a comment says otherwise."""

    latent_dim: int = 20
    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    reconstructor_hidden: tuple[int, ...] = (64, 64)  # ours
    decoder_hidden: tuple[int, ...] = (64, 64)  # of the reward decoder that labels; ours
    distance_weight: float = 0.15  # alpha / (1 - alpha); hopper and walker: 1.5

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_not_negative("distance_weight")


def reconstruction_loss(
    change: Float[Tensor, "N B O"],
    reward: Float[Tensor, "N B"],
    true_change: Float[Tensor, "N B O"],
    true_reward: Float[Tensor, "N B"],
) -> Float[Tensor, ""]:
    """Squared error of what follows a transition, summed over its numbers.

        L = mean_{N, B} [ |ds_hat - ds|^2 + (r_hat - r)^2 ],    ds = s' - s

    Paper, sec. 3.3, eq. (12), with a Gaussian of unit variance for the likelihood.
    """
    return ((change - true_change).square().sum(-1) + (reward - true_reward).square()).mean()


class UnicornPolicy(MeanPolicy, DecodesRewards):
    """What acts: FOCAL's encoder, the actor, and the decoder that labels."""

    def __init__(
        self,
        encoder: PointEncoder,
        decoder: RewardDecoder,
        actor: TanhGaussianActor,
        config: UnicornConfig,
    ) -> None:
        super().__init__(encoder, actor, TaskMemory(config.latent_dim), config)
        self.decoder = decoder


class Unicorn(ContextBased):
    """FOCAL's latents, made to tell what follows."""

    Config = UnicornConfig
    STAGES = (OFFLINE, ONLINE)
    config: UnicornConfig
    _policy: UnicornPolicy

    def __init__(self, observation_size: int, action_size: int, config: UnicornConfig) -> None:
        o, a, z = observation_size, action_size, config.latent_dim
        following = o if config.next_observation_in_context else 0
        encoder = PointEncoder(o + a + 1 + following, z, config.encoder_hidden)
        self.reconstructor = TransitionDecoder(o, a, z, config.reconstructor_hidden)
        rl = ActorCritic(o, a, z, config)
        decoder = RewardDecoder(o + a + following, z, config.decoder_hidden)
        policy = UnicornPolicy(encoder, decoder, rl.actor, config)
        modules = {"encoder": encoder, "reconstructor": self.reconstructor, "decoder": decoder}
        super().__init__(config, rl, policy, modules)

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """Reconstruction and metric learning; critics, actor and reward decoder on the latents."""
        policy, t, learns_context = self._policy, batch.transitions, "encoder" in stage.trains
        with torch.set_grad_enabled(learns_context and torch.is_grad_enabled()):
            halves, z = halves_of(policy.points(batch.context), batch.context.mask)
        minimised, watched = self.rl.losses(
            t, z.detach(), next_z=None, improves=stage.collects, generator=generator
        )
        if learns_context:
            change, reward = self.reconstructor(t.observation, t.action, z)
            minimised["reconstruction"] = reconstruction_loss(
                change, reward, t.next_observation - t.observation, t.reward
            )
            distance = distance_loss(halves, batch.task.repeat(2))
            minimised["distance"] = self.config.distance_weight * distance
            minimised["reward"] = policy.label_loss(t, z.detach())
            watched["reconstructed_reward_error"] = (reward.detach() - t.reward).square().mean()
            self._met = z.detach()
        watched["latent_std"] = z.detach().std(0, unbiased=False).mean()
        return Losses(minimised, watched)
