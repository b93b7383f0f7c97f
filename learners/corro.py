"""CORRO: contrastive learning of task representations that the behaviour policy cannot bias.

Yuan and Lu: *Robust Task Representations for Offline Meta-Reinforcement Learning via Contrastive
Learning*, ICML 2022, arXiv:2206.10442.

An encoder maps one transition (s, a, r, s') to a unit vector. It learns to tell the anchor's task
from negatives that share the anchor's (s, a) and differ in (r, s') alone, so that which actions the
logs took is of no use to it. Attention over the context, trained by the critics alone, makes one z
of many vectors.

    cvae     a conditional VAE of (r, s') given (s, a), which can generate negatives
    encoder  the contrastive encoder
    offline  critics, actor, attention, and a decoder of rewards on z
    online   self-supervision as in SMAC, everything but critics and actor frozen

Departs from the paper: the reward decoder and the online stage, which the paper lacks; `awac` in
place of SAC, which is safe on whole replay buffers only; attention has no bias, which a softmax
would ignore; before any context, z is that of a task that training met.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch, MetaBatch
from causeway.learners.actor_critic import ActorCritic
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_based import ContextBased
from causeway.learners.context_config import ContextConfig
from causeway.learners.context_losses import info_nce
from causeway.learners.formulas import standard_normal
from causeway.learners.latent_policy import (
    DecodesRewards,
    PointPolicy,
    TaskMemory,
    transition_features,
)
from causeway.learners.networks import Perceptron, RewardDecoder, TanhGaussianActor

Negatives = Literal["auto", "generative", "reward_randomize"]
WATCHED_LATENTS = 4  # draws by which the decoder's use of its latent is watched

CVAE = Stage(
    name="cvae",
    trains=("cvae",),
    frozen=("encoder", "aggregator", "decoder", "critics", "actor"),
    collects=False,
)
ENCODER = Stage(
    name="encoder",
    trains=("encoder",),
    frozen=("cvae", "aggregator", "decoder", "critics", "actor"),
    collects=False,
)
OFFLINE = Stage(
    name="offline",
    trains=("aggregator", "decoder", "critics", "actor"),
    frozen=("cvae", "encoder"),
    collects=False,
)
ONLINE = Stage(
    name="online",
    trains=("critics", "actor"),
    frozen=("cvae", "encoder", "aggregator", "decoder"),
    collects=True,
)


@dataclass(frozen=True, kw_only=True)
class CorroConfig(ContextConfig):
    """Hyperparameters of CORRO. Defaults are the authors' unless a comment says otherwise."""

    encoder_hidden: tuple[int, ...] = (64, 64)
    decoder_hidden: tuple[int, ...] = (64, 64)  # of the reward decoder; ours
    # auto: generative where next_observation_in_context says that dynamics differ. A CVAE cannot
    # tell tasks apart where their (s, a) do not overlap, as under rewards that steer behaviour.
    negatives: Negatives = "auto"
    num_negatives: int = 16  # for each anchor
    anchors_per_task: int = 4  # of a context; 16 tasks make the authors' batch of 64
    contrast_temperature: float = 0.1  # divides
    reward_noise: float = 0.5  # in standard deviations of the batch's rewards
    cvae_hidden: tuple[int, ...] = (64,)
    cvae_latent_dim: int = 5
    cvae_kl_weight: float = 0.2

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_positive(
            "num_negatives",
            "anchors_per_task",
            "contrast_temperature",
            "reward_noise",
            "cvae_latent_dim",
        )
        self._require_not_negative("cvae_kl_weight")

    @property
    def generates(self) -> bool:
        """Whether negatives come from the CVAE."""
        if self.negatives == "auto":
            return self.next_observation_in_context
        return self.negatives == "generative"


# The losses, in the paper's order; the contrastive one is `context_losses.info_nce`.


def cvae_loss(
    predicted: Float[Tensor, "M P"],
    target: Float[Tensor, "M P"],
    mean: Float[Tensor, "M C"],
    log_variance: Float[Tensor, "M C"],
    *,
    kl_weight: float,
) -> Float[Tensor, ""]:
    """Reconstruction of the next observation and the reward, and the KL of the latent.

        L = MSE(s') + MSE(r) + kl_weight KL( N(mean, variance) || N(0, I) )

    Paper, sec. 4.2, eq. (6), with the authors' weight. Each MSE is a mean over all its numbers;
    the KL, in nats, is summed over latent dimensions and averaged over transitions.

    Args:
        predicted: next observation, then the reward in the last column.
        target: the same, as the logs have it.
        mean: of the latent.
        log_variance: of the latent.
        kl_weight: at least 0.
    """
    error = (predicted - target).square()
    kl = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum(-1).mean()
    return error[:, :-1].mean() + error[:, -1].mean() + kl_weight * kl


def randomised_rewards(
    reward: Float[Tensor, "M"], noise: Float[Tensor, "M n"], *, scale: float
) -> Float[Tensor, "M n"]:
    """Other rewards for each of M anchors: its own and noise of `scale` standard deviations.

    r* = r + scale std(r) noise, the standard deviation being that of the M anchors. Paper, sec.
    4.2; there the noise has a fixed size.
    """
    return reward[:, None] + scale * reward.std(unbiased=False) * noise


class TransitionVae(nn.Module):
    """What may follow (s, a) in any task: p(s', r | s, a, c), c ~ N(0, I)."""

    def __init__(self, observation: int, action: int, latent: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        given, told = observation + action, observation + 1
        self.encoder = Perceptron([given + told, *hidden, 2 * latent])
        self.decoder = Perceptron([given + latent, *hidden, told])

    def encode(
        self, given: Float[Tensor, "M I"], told: Float[Tensor, "M P"]
    ) -> tuple[Float[Tensor, "M C"], Float[Tensor, "M C"]]:
        """Mean and log-variance of c."""
        mean, log_variance = self.encoder(torch.cat([given, told], dim=-1)).float().chunk(2, -1)
        return mean, log_variance

    def decode(
        self, given: Float[Tensor, "*M I"], c: Float[Tensor, "*M C"]
    ) -> Float[Tensor, "*M P"]:
        """The next observation, then the reward in the last column."""
        told: Tensor = self.decoder(torch.cat([given, c], dim=-1))
        return told.float()


class DirectionEncoder(nn.Module):
    """One unit vector per transition."""

    def __init__(self, inputs: int, latent: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.body = Perceptron([inputs, *hidden, latent])

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch Z"]:
        """The directions."""
        return F.normalize(self.body(x).float(), dim=-1)


class AttentionAggregator(nn.Module):
    """One vector of many: a softmax over the context of a linear score, the authors' E2."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.score = nn.Linear(latent, 1, bias=False)

    def forward(
        self, points: Float[Tensor, "N K Z"], mask: Bool[Tensor, "N K"]
    ) -> Float[Tensor, "N Z"]:
        """The weighted sum; 0 where there is no context."""
        score: Tensor = self.score(points)[..., 0].float()
        # The least number in place of -inf: no transition at all must not give 0 / 0.
        weight = torch.where(mask, score, torch.finfo(score.dtype).min).softmax(1)
        return (torch.where(mask, weight, 0.0)[..., None] * points).sum(1)


class CorroPolicy(PointPolicy, DecodesRewards):
    """What acts: encoder, attention, actor, and the decoder that labels."""

    config: CorroConfig

    def __init__(
        self,
        encoder: DirectionEncoder,
        aggregator: AttentionAggregator,
        decoder: RewardDecoder,
        actor: TanhGaussianActor,
        config: CorroConfig,
    ) -> None:
        super().__init__(actor, TaskMemory(config.latent_dim), config.latent_dim)
        self.encoder, self.aggregator, self.decoder = encoder, aggregator, decoder
        self.config = config

    def points(self, context: ContextBatch) -> Float[Tensor, "N K Z"]:
        """Each transition's direction. Padding is blanked: what stands there must not be huge."""
        seen = transition_features(context, next_observation=True)
        points: Tensor = self.encoder(torch.where(context.mask[..., None], seen, 0.0))
        return points

    def embed(self, context: ContextBatch) -> Float[Tensor, "N Z"]:
        """Attention over the transitions' directions."""
        z: Tensor = self.aggregator(self.points(context), context.mask)
        return z


class Corro(ContextBased):
    """A contrastive encoder of single transitions, attention over them, and an inner RL."""

    Config = CorroConfig
    STAGES = (CVAE, ENCODER, OFFLINE, ONLINE)
    config: CorroConfig
    _policy: CorroPolicy

    def __init__(self, observation_size: int, action_size: int, config: CorroConfig) -> None:
        o, a, z = observation_size, action_size, config.latent_dim
        following = o if config.next_observation_in_context else 0
        self.cvae = TransitionVae(o, a, config.cvae_latent_dim, config.cvae_hidden)
        encoder = DirectionEncoder(2 * o + a + 1, z, config.encoder_hidden)
        aggregator = AttentionAggregator(z)
        decoder = RewardDecoder(o + a + following, z, config.decoder_hidden)
        rl = ActorCritic(o, a, z, config)
        policy = CorroPolicy(encoder, aggregator, decoder, rl.actor, config)
        modules = {
            "cvae": self.cvae,
            "encoder": encoder,
            "aggregator": aggregator,
            "decoder": decoder,
        }
        super().__init__(config, rl, policy, modules)

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The stage's own: the CVAE's, the contrastive one, or those of critics and actor."""
        if "cvae" in stage.trains:
            return self._cvae_losses(batch, generator)
        if "encoder" in stage.trains:
            return self._contrastive_losses(batch, generator)
        return self._rl_losses(batch, stage, generator)

    def _cvae_losses(self, batch: MetaBatch, generator: torch.Generator) -> Losses:
        t = batch.transitions
        given = torch.cat([t.observation, t.action], dim=-1).flatten(0, 1)
        told = torch.cat([t.next_observation, t.reward[..., None]], dim=-1).flatten(0, 1)
        mean, log_variance = self.cvae.encode(given, told)
        c = mean + torch.exp(0.5 * log_variance) * standard_normal(mean.shape, mean, generator)
        loss = cvae_loss(
            self.cvae.decode(given, c),
            told,
            mean,
            log_variance,
            kl_weight=self.config.cvae_kl_weight,
        )
        with torch.no_grad():
            drawn = self._generated(given, WATCHED_LATENTS, generator)
        return Losses({"cvae": loss}, {"negative_spread": _spread(drawn, told)})

    def _contrastive_losses(self, batch: MetaBatch, generator: torch.Generator) -> Losses:
        """Anchors and positives are different transitions of one context."""
        context, config = batch.context, self.config
        count = min(config.anchors_per_task, context.reward.shape[1] // 2)
        seen = transition_features(context, next_observation=True)
        anchor, positive = (
            seen[:, part].flatten(0, 1) for part in (slice(count), slice(count, 2 * count))
        )
        with torch.no_grad():
            negative, spread = self._negatives(anchor, batch, generator)
        encode = self._policy.encoder
        loss = info_nce(
            encode(anchor),
            encode(positive),
            encode(negative),
            temperature=config.contrast_temperature,
        )
        return Losses({"contrast": loss}, {"negative_spread": spread})

    def _negatives(
        self, anchor: Float[Tensor, "M I"], batch: MetaBatch, generator: torch.Generator
    ) -> tuple[Float[Tensor, "M n I"], Float[Tensor, ""]]:
        """Transitions with each anchor's (s, a), other (r, s'), and how far these spread."""
        o, a = batch.context.observation.shape[-1], batch.context.action.shape[-1]
        given, reward, following = torch.split(anchor, [o + a, 1, o], dim=-1)
        told = torch.cat([following, reward], dim=-1)
        count = self.config.num_negatives
        if self.config.generates:
            drawn = self._generated(given, count, generator)
        else:
            noise = standard_normal((len(anchor), count), anchor, generator)
            other = randomised_rewards(reward[:, 0], noise, scale=self.config.reward_noise)
            drawn = torch.cat([following[:, None].expand(-1, count, -1), other[..., None]], dim=-1)
        same = given[:, None].expand(-1, count, -1)
        return torch.cat([same, drawn[..., -1:], drawn[..., :-1]], dim=-1), _spread(drawn, told)

    def _generated(
        self, given: Float[Tensor, "M I"], count: int, generator: torch.Generator
    ) -> Float[Tensor, "M n P"]:
        """What the CVAE says may follow, from latents of its prior."""
        shape = (len(given), count, self.config.cvae_latent_dim)
        return self.cvae.decode(
            given[:, None].expand(-1, count, -1), standard_normal(shape, given, generator)
        )

    def _rl_losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """Critics, whose error alone trains the attention; actor; and the decoder on sg z."""
        policy, t = self._policy, batch.transitions
        with torch.no_grad():
            points = policy.points(batch.context)
        trains_attention = "aggregator" in stage.trains
        with torch.set_grad_enabled(trains_attention and torch.is_grad_enabled()):
            z = policy.aggregator(points, batch.context.mask)
        minimised, watched = self.rl.losses(
            t, z, next_z=None, improves=stage.collects, generator=generator
        )
        if "decoder" in stage.trains:
            minimised["reward"] = policy.label_loss(t, z.detach())
        if trains_attention:
            self._met = z.detach()
        watched["latent_std"] = z.detach().std(0, unbiased=False).mean()
        return Losses(minimised, watched)


def _spread(drawn: Float[Tensor, "M n P"], told: Float[Tensor, "M P"]) -> Float[Tensor, ""]:
    """How far negatives of one anchor lie apart, as a share of how far the logs' own values do.

    Near 0, a generator ignores its latent and its negatives are no negatives.
    """
    return (drawn.std(1, unbiased=False).mean() / told.std(0, unbiased=False).mean()).float()
