"""LDM: latent dynamics mixture, which trains on imaginary tasks between and beyond the real ones.

Lee and Chung: *Improving Generalization in Meta-RL with Imaginary Tasks from Latent Dynamics
Mixture*, NeurIPS 2021, arXiv:2105.13524.

A VAE reads a trajectory and decodes all its rewards, past and future, from what it believes after
each prefix. Mixtures of the latents that it has for real tasks are imaginary tasks: their rewards
are the decoder's. The decoder drops out half of what it reads, so that it must lean on the latent.
The policy has an encoder of its own, which RL alone trains.

    vae      the VAE on the logs
    offline  critics, actor and the policy's encoder, on real tasks and imaginary ones
    online   the same on self-labelled rollouts, a share of them labelled as imaginary tasks

Departs from the paper, which is online and on-policy: imaginary tasks are made of logged
transitions of the tasks that they are mixed of, relabelled by the decoder; their dynamics stay
real. With `decoded: task` the VAE decodes rewards of the task's other episodes too: in logs an
episode differs little from itself, and what it tells may be of the episode and not of the task. RL
is off-policy, its gradient reaches the policy's encoder through the critics alone, and the online
stage is SMAC's. Before any context, z is that of a task that training met.
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from causeway.datasets.batches import ContextBatch, MetaBatch, TransitionBatch
from causeway.learners.actor_critic import ActorCritic
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_based import ContextBased
from causeway.learners.context_config import ContextConfig
from causeway.learners.formulas import draw_gaussian, kl_between_gaussians, standard_normal
from causeway.learners.latent_policy import PointPolicy, TaskMemory
from causeway.learners.networks import TanhGaussianActor
from causeway.learners.sequences import LatentDynamicsVae, SequenceEncoder

B = TypeVar("B", ContextBatch, TransitionBatch)

VAE = Stage(
    name="vae", trains=("vae",), frozen=("policy_encoder", "critics", "actor"), collects=False
)
OFFLINE = Stage(
    name="offline",
    trains=("policy_encoder", "critics", "actor"),
    frozen=("vae",),
    collects=False,
)
ONLINE = replace(OFFLINE, name="online", collects=True)


@dataclass(frozen=True, kw_only=True)
class LdmConfig(ContextConfig):
    """Hyperparameters of LDM. Defaults are the authors' unless a comment says otherwise."""

    latent_dim: int = 16  # of the policy's own encoder; ours
    context_learning_rate: float = 1e-3
    dynamics_latent_dim: int = 5  # of the VAE; ant-goal: 10
    gru_size: int = 128
    decoder_hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.5  # of the decoder's inputs, never of its latent; also where it labels
    kl_weight: float = 1.0
    prefixes: int = 50  # of a trajectory, from each of which all of its rewards are decoded
    decoded: Literal["trajectory", "task"] = "trajectory"  # task: and rows of other episodes, ours
    imaginary_share: float = 0.2  # of imaginary tasks to real ones in a meta-batch, offline
    imaginary_label_share: float = 0.125  # of the rollouts labelled as imaginary tasks, online
    mixture_scale: float = 1.0  # beta: 1 interpolates between tasks, more extrapolates; ant-goal: 2
    mixture_tasks: int = 16  # that a label's mixture is of

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_positive("dynamics_latent_dim", "gru_size", "prefixes", "mixture_tasks")
        self._require_not_negative("kl_weight", "imaginary_share", "imaginary_label_share")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"LdmConfig.dropout must lie in [0, 1), got {self.dropout}")
        if self.imaginary_label_share > 1.0:
            raise ValueError(
                "LdmConfig.imaginary_label_share must lie in [0, 1], got "
                f"{self.imaginary_label_share}"
            )
        if not self.mixture_scale >= 1.0:
            raise ValueError(
                f"LdmConfig.mixture_scale must be at least 1, got {self.mixture_scale}: 1 mixes "
                "within the real tasks, more goes beyond them"
            )


# The losses and the mixture, in the paper's order.


def chain_kl(
    belief: Float[Tensor, "N T 2 Z"],
) -> Float[Tensor, "N T-1"]:
    """How much each transition adds to the belief: KL(q(m | tau_:t) || q(m | tau_:t-1)), nats.

    Paper, sec. 3.1, eq. (2). The first entry of the chain is the prior, N(0, I).
    """
    num_tasks, length = belief.shape[:2]
    after, before = belief[:, 1:].flatten(0, 1), belief[:, :-1].flatten(0, 1)
    return kl_between_gaussians(after, before).view(num_tasks, length - 1)


def elbo_loss(
    predicted: Float[Tensor, "N P K"],
    reward: Float[Tensor, "N K"],
    kl: Float[Tensor, "N P"],
    *,
    kl_weight: float,
) -> Float[Tensor, ""]:
    """Minus the evidence lower bound of the rewards, from the beliefs after P prefixes.

        L = mean_{N, P} [ sum_k (r_hat(s_k, a_k, s_{k+1}, m_t) - r_k)^2 + kl_weight KL_t ]

    Paper, sec. 3.1, eqs. (1) and (2): k runs over past and future alike. Departs from it: the mean
    over tasks and prefixes, in place of their sum.
    """
    error = (predicted - reward[:, None]).square().sum(-1)  # [N, P]
    return (error + kl_weight * kl).mean()


def mixture_weights(exponential: Float[Tensor, "I n Z"], *, scale: float) -> Float[Tensor, "I n Z"]:
    """Weights of n real latents in each dimension of I imaginary ones; they sum to 1.

        alpha ~ beta Dirichlet(1, ..., 1) - (beta - 1) / n

    Paper, sec. 3.2, eq. (3). With beta = 1 none is negative: the mixture lies between the tasks.

    Args:
        exponential: draws of the exponential distribution: normalised, they are the Dirichlet's.
        scale: beta, at least 1.
    """
    dirichlet = exponential / exponential.sum(1, keepdim=True)
    return scale * dirichlet - (scale - 1.0) / exponential.shape[1]


def mixed(latents: Float[Tensor, "n Z"], weights: Float[Tensor, "I n Z"]) -> Float[Tensor, "I Z"]:
    """The imaginary latents: m_hat_j = sum_k alpha_kj m_kj in each dimension j."""
    return (weights * latents).sum(1)


class LdmPolicy(PointPolicy):
    """What acts: the policy's own encoder and actor; and the VAE that labels."""

    reads_in_order = True

    def __init__(
        self,
        encoder: SequenceEncoder,
        vae: LatentDynamicsVae,
        actor: TanhGaussianActor,
        config: LdmConfig,
    ) -> None:
        super().__init__(actor, TaskMemory(config.latent_dim), config.latent_dim)
        self.encoder, self.vae, self.config = encoder, vae, config
        self.dynamics_memory = TaskMemory(config.dynamics_latent_dim)

    def embed(self, context: ContextBatch) -> Float[Tensor, "N Z"]:
        """What the policy's encoder has read in the end."""
        z: Tensor = self.encoder.last(context)
        return z

    @torch.no_grad()
    def label(
        self,
        context: ContextBatch,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        generator: torch.Generator,
    ) -> Float[Tensor, "N T"]:
        """Rewards of whole trajectories, from real beliefs and, for a share, from mixtures.

        Dropout stays on, as in the paper. A mixture is of latents that training met last.
        """
        config, belief = self.config, self.vae.belief(context)[:, -1]
        real = draw_gaussian(belief, standard_normal(belief[:, 0].shape, belief, generator))
        known = self.dynamics_memory.latents
        count = min(config.mixture_tasks, len(known))
        chosen = torch.randperm(len(known), generator=generator, device=known.device)[:count]
        draws = _exponential((len(real), count, known.shape[1]), known, generator)
        mixture = mixed(known[chosen], mixture_weights(draws, scale=config.mixture_scale))
        share = torch.rand(len(real), 1, generator=generator, device=real.device)
        m = torch.where(share < config.imaginary_label_share, mixture, real)
        reward: Tensor = self.vae.decoder(observation, action, next_observation, m, generator)
        return reward


class Ldm(ContextBased):
    """A latent-dynamics VAE that imagines tasks, and a recurrent encoder that RL trains."""

    Config = LdmConfig
    STAGES = (VAE, OFFLINE, ONLINE)
    READS_IN_ORDER = True
    config: LdmConfig
    _policy: LdmPolicy

    def __init__(self, observation_size: int, action_size: int, config: LdmConfig) -> None:
        o, a = observation_size, action_size
        self.vae = LatentDynamicsVae(
            o,
            a,
            config.dynamics_latent_dim,
            gru_size=config.gru_size,
            decoder_hidden=config.decoder_hidden,
            dropout=config.dropout,
            decodes_states=config.next_observation_in_context,
        )
        encoder = SequenceEncoder(o, a, config.latent_dim, gru_size=config.gru_size)
        rl = ActorCritic(o, a, config.latent_dim, config)
        policy = LdmPolicy(encoder, self.vae, rl.actor, config)
        modules = {
            "vae": self.vae,
            "policy_encoder": encoder,
            "dynamics_memory": policy.dynamics_memory,
        }
        self._met_dynamics: Tensor | None = None
        super().__init__(config, rl, policy, modules)

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The VAE's on real data alone, or those of RL on real and imaginary tasks."""
        if "vae" in stage.trains:
            return self._vae_losses(batch, generator)
        num_real = len(batch.task)
        if not stage.collects:
            with torch.no_grad():
                belief = self.vae.belief(batch.context)[:, -1]
                m = draw_gaussian(belief, standard_normal(belief[:, 0].shape, belief, generator))
                self._met_dynamics = m
                batch = self.with_imaginary_tasks(batch, m, generator)
        z = self._policy.encoder.last(batch.context)
        self._met = z.detach()[:num_real]
        minimised, watched = self.rl.losses(
            batch.transitions, z, next_z=None, improves=stage.collects, generator=generator
        )
        watched["latent_std"] = z.detach().std(0, unbiased=False).mean()
        return Losses(minimised, watched)

    def after_update(self, stage: Stage) -> None:
        """Also remembers the latents of the real tasks, for the mixtures of labels."""
        super().after_update(stage)
        if self._met_dynamics is not None:
            self._policy.dynamics_memory.remember(self._met_dynamics)
            self._met_dynamics = None

    def with_imaginary_tasks(
        self, batch: MetaBatch, m: Float[Tensor, "N Z"], generator: torch.Generator
    ) -> MetaBatch:
        """The meta-batch and, behind its tasks, imaginary ones made of their transitions.

        An imaginary task has the context of one task of its mixture, and transitions of all, drawn
        in proportion to what is positive of their weights; both with the decoder's rewards. Its id
        is -1.
        """
        count = round(self.config.imaginary_share * len(m))
        if count == 0:
            return batch
        draws = _exponential((count, *m.shape), m, generator)
        weights = mixture_weights(draws, scale=self.config.mixture_scale)
        imaginary = mixed(m, weights)
        shares = weights.clamp_min(0.0).mean(-1)  # [I, N]
        owner = torch.multinomial(shares, 1, generator=generator)[:, 0]
        size = batch.transitions.reward.shape[1]
        owners = torch.multinomial(shares, size, replacement=True, generator=generator)
        row = torch.randint(size, owners.shape, generator=generator, device=m.device)
        context = _taken(batch.context, (owner,))
        transitions = _taken(batch.transitions, (owners, row))
        return MetaBatch(
            task=torch.cat([batch.task, torch.full_like(owner, -1)]),
            context=_joined(batch.context, self._relabelled(context, imaginary, generator)),
            transitions=_joined(
                batch.transitions, self._relabelled(transitions, imaginary, generator)
            ),
        )

    def _relabelled(self, part: B, m: Tensor, generator: torch.Generator) -> B:
        reward = self.vae.decoder(
            part.observation, part.action, part.next_observation, m, generator
        )
        return replace(part, reward=reward)

    def _vae_losses(self, batch: MetaBatch, generator: torch.Generator) -> Losses:
        """The bound of all rewards from the beliefs after some prefixes."""
        config, context, others = self.config, batch.context, batch.transitions
        chain = self.vae.belief(context)  # [N, K + 1, 2, Z]
        kl = chain_kl(chain)
        length = kl.shape[1]
        order = torch.randperm(length, generator=generator, device=kl.device)
        chosen = order[: config.prefixes]
        belief = chain[:, 1:][:, chosen].flatten(0, 1)  # [N * P, 2, Z]
        m = draw_gaussian(belief, standard_normal(belief[:, 0].shape, belief, generator))
        names = ("observation", "action", "next_observation", "reward")
        decoded = [getattr(context, name) for name in names]
        if config.decoded == "task":
            pairs = zip(decoded, (getattr(others, name) for name in names), strict=True)
            decoded = [torch.cat(pair, dim=1) for pair in pairs]
        *inputs, reward = decoded
        whole = [part.repeat_interleave(len(chosen), 0) for part in inputs]
        predicted = self.vae.decoder(*whole, m, generator).view(len(kl), len(chosen), -1)
        minimised = {
            "elbo": elbo_loss(predicted, reward, kl[:, chosen], kl_weight=config.kl_weight)
        }
        if self.vae.state_decoder is not None:
            states = self.vae.state_decoder(whole[0], whole[1], m, generator)
            minimised["state"] = (states - whole[2]).square().sum((1, 2)).mean()
        error = (predicted.detach() - reward[:, None]).square().mean()
        return Losses(minimised, {"reward_error": error, "kl_per_step": kl.detach().mean()})


def _taken(batch: B, index: tuple[Tensor, ...]) -> B:
    """The same fields at these places."""
    fields = {name: value[index] for name, value in _fields(batch).items()}
    return replace(batch, **fields, outcomes=None)


def _joined(first: B, second: B) -> B:
    """The tasks of the first and, behind them, those of the second."""
    others = _fields(second)
    fields = {name: torch.cat([value, others[name]]) for name, value in _fields(first).items()}
    return replace(first, **fields, outcomes=None)


def _fields(batch: ContextBatch | TransitionBatch) -> dict[str, Tensor]:
    names = [name for name in batch.__dataclass_fields__ if name != "outcomes"]
    return {name: getattr(batch, name) for name in names}


def _exponential(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of the exponential distribution, positive even where a uniform draw is 0."""
    uniform = torch.rand(shape, generator=generator, device=like.device)
    return (-torch.log1p(-uniform)).clamp_min(1e-12)
