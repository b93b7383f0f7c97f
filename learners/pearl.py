"""PEARL: probabilistic embeddings for actor-critic RL, offline, and online as the oracle.

Rakelly, Zhou, Quillen, Finn, Levine: *Efficient Off-Policy Meta-Reinforcement Learning via
Probabilistic Context Variables*, ICML 2019, arXiv:1903.08254.

A product of one Gaussian per transition is the belief over z. The critics' error and a KL to the
prior train the encoder; the actor sees z without gradient.

Offline it is a baseline that nothing keeps near the data. Its online stage reads the environment's
true rewards: it is no method for logs but the oracle that self-supervision is held against, and
runs only where `collection.true_rewards` says so.

Departs from the paper: twin critics with targets in place of a separate value network, losses are
taken before any network is stepped, and `inner_rl` may be another than `sac`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from causeway.datasets.batches import MetaBatch
from causeway.learners.actor_critic import ActorCritic, InnerRL
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_based import ContextBased
from causeway.learners.context_config import ContextConfig
from causeway.learners.context_losses import kl_loss
from causeway.learners.formulas import draw_gaussian, kl_to_standard_normal, standard_normal
from causeway.learners.latent_policy import GaussianPolicy
from causeway.learners.networks import GaussianEncoder

OFFLINE = Stage(name="offline", trains=("encoder", "critics", "actor"), frozen=(), collects=False)
ONLINE = Stage(
    name="online",
    trains=("encoder", "critics", "actor"),
    frozen=(),
    collects=True,
    labels="environment",
)


@dataclass(frozen=True, kw_only=True)
class PearlConfig(ContextConfig):
    """Hyperparameters of PEARL. Defaults are the authors' unless a comment says otherwise."""

    inner_rl: InnerRL = "sac"
    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    entropy_weight: float = 1.0
    kl_weight: float = 0.1
    kl_over_tasks: Literal["mean", "sum"] = "sum"

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_not_negative("kl_weight")


class Pearl(ContextBased):
    """An encoder that the critics train, and an actor that trusts them."""

    Config = PearlConfig
    STAGES = (OFFLINE, ONLINE)
    config: PearlConfig
    _policy: GaussianPolicy

    def __init__(self, observation_size: int, action_size: int, config: PearlConfig) -> None:
        o, a, z = observation_size, action_size, config.latent_dim
        following = o if config.next_observation_in_context else 0
        encoder = GaussianEncoder(o + a + 1 + following, z, config.encoder_hidden)
        rl = ActorCritic(o, a, z, config)
        policy = GaussianPolicy(encoder, rl.actor, config)
        super().__init__(config, rl, policy, {"encoder": encoder})

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """Critics' and actor's, and the KL of the belief; one z per task."""
        config = self.config
        belief = self._policy.belief(batch.context)
        noise = standard_normal(belief[:, 0].shape, belief, generator)
        minimised: dict[str, Tensor]
        minimised, watched = self.rl.losses(
            batch.transitions,
            draw_gaussian(belief, noise),
            next_z=None,
            improves=stage.collects,
            generator=generator,
        )
        minimised["kl"] = kl_loss(
            belief, kl_weight=config.kl_weight, over_tasks=config.kl_over_tasks
        )
        watched["kl_to_prior"] = kl_to_standard_normal(belief.detach()).mean()
        return Losses(minimised, watched)
