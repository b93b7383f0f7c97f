"""FOCAL: an encoder that distance metric learning trains, and an actor kept near the data.

Li, Yang, Luo: *FOCAL: Efficient Fully-Offline Meta-Reinforcement Learning via Distance Metric
Learning and Behavior Regularization*, ICLR 2021, arXiv:2010.01112.

The latent of a task is the mean of one point per transition. Latents of one task are pulled
together, those of two are pushed apart; no other loss reaches the encoder. Purely offline.

Departs from the paper: a task's context is cut in two halves, so that every meta-batch has pairs of
one task; the inverse power of the distance is the authors' code's; the divergence penalty is on the
actor alone and its dual is bounded in place of a gradient penalty. Before any context, z is that of
a task that training met (the authors' evaluation always has context).
"""

from dataclasses import dataclass

import torch

from causeway.datasets.batches import MetaBatch
from causeway.learners.actor_critic import ActorCritic, InnerRL
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_based import ContextBased
from causeway.learners.context_config import ContextConfig
from causeway.learners.context_losses import distance_loss, halves_of
from causeway.learners.latent_policy import MeanPolicy, TaskMemory
from causeway.learners.networks import PointEncoder

OFFLINE = Stage(name="offline", trains=("encoder", "critics", "actor"), frozen=(), collects=False)


@dataclass(frozen=True, kw_only=True)
class FocalConfig(ContextConfig):
    """Hyperparameters of FOCAL. Defaults are the authors' unless a comment says otherwise."""

    inner_rl: InnerRL = "brac"
    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    latent_dim: int = 20
    distance_weight: float = 10.0  # of the metric learning loss

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_positive("distance_weight")


class Focal(ContextBased):
    """Deterministic latents by metric learning, behaviour-regularised actor and critics."""

    Config = FocalConfig
    STAGES = (OFFLINE,)
    config: FocalConfig
    _policy: MeanPolicy

    def __init__(self, observation_size: int, action_size: int, config: FocalConfig) -> None:
        o, a, z = observation_size, action_size, config.latent_dim
        following = o if config.next_observation_in_context else 0
        encoder = PointEncoder(o + a + 1 + following, z, config.encoder_hidden)
        rl = ActorCritic(o, a, z, config)
        policy = MeanPolicy(encoder, rl.actor, TaskMemory(z), config)
        super().__init__(config, rl, policy, {"encoder": encoder})

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The metric learning loss, and critics and actor on the latents it gives."""
        points = self._policy.points(batch.context)
        halves, z = halves_of(points, batch.context.mask)
        distance = distance_loss(halves, batch.task.repeat(2))
        self._met = z.detach()
        minimised, watched = self.rl.losses(
            batch.transitions,
            z.detach(),
            next_z=None,
            improves=stage.collects,
            generator=generator,
        )
        minimised["distance"] = self.config.distance_weight * distance
        watched["latent_std"] = z.detach().std(0, unbiased=False).mean()
        return Losses(minimised, watched)
