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
from typing import Any, Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch, MetaBatch, TransitionBatch
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.formulas import (
    draw_gaussian,
    kl_to_standard_normal,
    polyak_update_,
    product_of_gaussians,
    tanh_gaussian_log_prob,
)
from causeway.learners.networks import (
    Critics,
    GaussianEncoder,
    RewardDecoder,
    TanhGaussianActor,
)

Weighting = Literal["batch_softmax", "task_softmax", "exponential"]

OFFLINE = Stage(
    name="offline", trains=("encoder", "decoder", "critics", "actor"), frozen=(), collects=False
)
ONLINE = Stage(
    name="online", trains=("critics", "actor"), frozen=("encoder", "decoder"), collects=True
)


@dataclass(frozen=True, kw_only=True)
class SmacConfig:
    """Hyperparameters of SMAC. Defaults are the authors' unless a comment says otherwise."""

    latent_dim: int = 5
    encoder_hidden: tuple[int, ...] = (200, 200, 200)
    decoder_hidden: tuple[int, ...] = (64, 64)
    critic_hidden: tuple[int, ...] = (300, 300, 300)
    actor_hidden: tuple[int, ...] = (300, 300, 300)
    next_observation_in_context: bool = False  # True where dynamics differ between tasks
    learning_rate: float = 3e-4  # of Adam, for critics and actor
    context_learning_rate: float = (
        3e-4  # of Adam, for encoder and decoder; the authors' is the same
    )
    context_half_life: int | None = None  # updates in which that rate halves; ours, None keeps it
    discount: float = 0.99
    polyak_rate: float = 0.005  # of the target critics, per update
    reward_scale: float = 5.0  # for the critics alone: the decoder sees unscaled rewards
    temperature: float = 100.0  # divides advantages: larger is closer to behaviour cloning
    weighting: Weighting = "batch_softmax"  # the paper: "exponential"
    max_weight: float = 100.0  # ours: bounds exp() on outliers; for "exponential" alone
    kl_weight: float = 0.1  # the paper: 1, with the summed reward error
    kl_over_tasks: Literal["mean", "sum"] = "mean"  # PEARL: "sum"
    reward_error: Literal["rl_batch", "context_sum"] = "rl_batch"  # the paper: "context_sum"
    next_latent: Literal["same", "fresh"] = "same"  # authors' code: "fresh"
    reparameterised_weight: float = 1.0  # of -Q(s, a~, z) in the actor's loss, online alone

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        positive = (
            "latent_dim",
            "learning_rate",
            "context_learning_rate",
            "reward_scale",
            "temperature",
            "max_weight",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"SmacConfig.{name} must be > 0, got {getattr(self, name)}")
        for name in ("kl_weight", "reparameterised_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"SmacConfig.{name} must be >= 0, got {getattr(self, name)}")
        if self.context_half_life is not None and self.context_half_life < 1:
            raise ValueError(
                "SmacConfig.context_half_life must be at least 1 update, or null for a rate that "
                f"stays as it is, got {self.context_half_life}"
            )
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(
                f"SmacConfig.discount must lie in [0, 1), got {self.discount}: "
                "the critics' fixed point needs a contraction. Did you mean 0.99?"
            )
        if not 0.0 < self.polyak_rate <= 1.0:
            raise ValueError(f"SmacConfig.polyak_rate must lie in (0, 1], got {self.polyak_rate}")


# The losses, in the paper's order. Each stops the gradients that it must not send.


def critic_target(
    reward: Float[Tensor, "N B"],
    terminated: Bool[Tensor, "N B"],
    next_q: Float[Tensor, "E N B"],
    *,
    reward_scale: float,
    discount: float,
) -> Float[Tensor, "N B"]:
    """The critics' regression target; a time limit bootstraps, a true end does not.

        y = c r + discount (1 - terminated) min_k Q'_k(s', a', z)

    Paper, sec. 5.1, with the twin critics of the authors' code. Sends no gradient.

    Args:
        reward: unscaled, as the environment or the decoder gave it.
        terminated: true ends only, never time limits.
        next_q: target critics at s' and a' ~ pi(.|s', z).
        reward_scale: c.
        discount: in [0, 1).
    """
    bootstrap = torch.where(terminated, 0.0, next_q.amin(0))
    return (reward_scale * reward + discount * bootstrap).detach()


def critic_loss(q: Float[Tensor, "E N B"], target: Float[Tensor, "N B"]) -> Float[Tensor, ""]:
    """Squared error to the target: mean over transitions, sum over the critics.

        L_critic = sum_k E_{B, z} [ (Q_k(s, a, z) - y)^2 ]

    Paper, sec. 5.1. `target` gets no gradient.
    """
    return (q - target.detach()).square().mean((1, 2)).sum()


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


def advantage_weights(
    advantage: Float[Tensor, "N B"],
    *,
    weighting: Weighting,
    temperature: float,
    max_weight: float,
) -> Float[Tensor, "N B"]:
    """How much each transition counts in the actor's regression; sends no gradient.

    w = exp(A / temperature), clipped at max_weight     "exponential": paper, sec. 5.1
    w = n softmax(A / temperature) over the meta-batch  "batch_softmax": the authors' code
    w = B softmax(A / temperature) over each task       "task_softmax": no task eats another's
    """
    scaled = (advantage / temperature).detach()
    match weighting:
        case "exponential":
            return scaled.exp().clamp(max=max_weight)
        case "batch_softmax":
            return scaled.flatten().softmax(0).view_as(scaled) * scaled.numel()
        case "task_softmax":
            return scaled.softmax(1) * scaled.shape[1]
        case _:
            assert_never(weighting)


def actor_loss(log_prob: Float[Tensor, "N B"], weight: Float[Tensor, "N B"]) -> Float[Tensor, ""]:
    """Advantage-weighted regression onto the data's own actions.

        L_actor = -E_{B, z} [ w(A) log pi(a | s, z) ]
        A(s, a, z) = min_k Q_k(s, a, z) - min_k Q_k(s, a~, z)

    Paper, sec. 5.1. Departs from it: the value of a state is Q at a fresh action a~ ~ pi,
    as in the authors' code (there is no V network). `weight` gets no gradient.
    """
    return -(weight.detach() * log_prob).mean()


def reparameterised_loss(q: Float[Tensor, "E N B"], *, weight: float) -> Float[Tensor, ""]:
    """-weight * E[ min_k Q_k(s, a~, z) ], through a~: the online stage's policy improvement.

    Authors' code; not in the paper's equations. The caller passes critics whose parameters are
    detached, so that the gradient reaches the actor alone. There is no entropy term.
    """
    return -weight * q.amin(0).mean()


def effective_sample_share(weight: Float[Tensor, "N B"]) -> Float[Tensor, ""]:
    """Kish's effective sample size as a share of the batch, worst task: 1 is uniform weights."""
    size = weight.sum(1).square() / weight.square().sum(1).clamp_min(1e-30)
    return (size / weight.shape[1]).amin()


class SmacPolicy(nn.Module):
    """What acts: encoder, actor, and the decoder that labels. A belief is [N, 2, Z]."""

    def __init__(
        self,
        encoder: GaussianEncoder,
        decoder: RewardDecoder,
        actor: TanhGaussianActor,
        config: SmacConfig,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.actor = encoder, decoder, actor
        self.config = config

    def belief(self, context: ContextBatch) -> Float[Tensor, "N 2 Z"]:
        """q(z | h): the product of one Gaussian per transition; differentiable."""
        parts = [context.observation, context.action, context.reward[..., None]]
        if self.config.next_observation_in_context:
            parts.append(context.next_observation)
        mean, variance = self.encoder(torch.cat(parts, dim=-1))
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

    @torch.no_grad()
    def prior(self, num_tasks: int) -> Float[Tensor, "N 2 Z"]:
        """N(0, I) for each task."""
        shape = (num_tasks, self.config.latent_dim)
        device = next(self.parameters()).device
        return torch.stack([torch.zeros(shape, device=device), torch.ones(shape, device=device)], 1)

    @torch.no_grad()
    def adapt(self, context: ContextBatch) -> Float[Tensor, "N 2 Z"]:
        """The belief given each task's context."""
        return self.belief(context)

    @torch.no_grad()
    def draw(self, belief: Tensor, generator: torch.Generator) -> Float[Tensor, "N Z"]:
        """One z per task."""
        noise = torch.randn(belief[:, 0].shape, generator=generator, device=belief.device)
        return draw_gaussian(belief, noise)

    @torch.no_grad()
    def act(
        self, observation: Tensor, latent: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "N A"]:
        """The tanh of the mean, or of a draw where a generator is given."""
        mean, log_std = (x[:, 0] for x in self.actor(observation[:, None], latent))
        if generator is None:
            return torch.tanh(mean)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return torch.tanh(mean + log_std.exp() * noise)

    @torch.no_grad()
    def act_with_noise(
        self, observation: Tensor, latent: Tensor, noise: Tensor
    ) -> Float[Tensor, "N A"]:
        """What `act` gives where it draws this noise."""
        mean, log_std = (x[:, 0] for x in self.actor(observation[:, None], latent))
        return torch.tanh(mean + log_std.exp() * noise)

    @torch.no_grad()
    def label(
        self,
        context: ContextBatch,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        generator: torch.Generator,
    ) -> Float[Tensor, "N T"]:
        """Rewards of whole trajectories, one z per trajectory from its (offline) context.

        Paper, sec. 5.2: the decoder only ever sees z from offline context, so it has no shift in
        z; a wrong label amounts to a different, still valid, task.
        """
        z = self.draw(self.belief(context), generator)
        return self.reward(observation, action, next_observation, z)


class Smac:
    """PEARL's encoder, an advantage-weighted actor, and a decoder that labels online rewards."""

    Config = SmacConfig
    STAGES = (OFFLINE, ONLINE)

    def __init__(self, observation_size: int, action_size: int, config: SmacConfig) -> None:
        o, a, z = observation_size, action_size, config.latent_dim
        following = o if config.next_observation_in_context else 0
        self.config = config
        self.encoder = GaussianEncoder(o + a + 1 + following, z, config.encoder_hidden)
        self.decoder = RewardDecoder(o + a + following, z, config.decoder_hidden)
        self.critics = Critics(o, a, z, config.critic_hidden)
        self.target_critics = Critics(o, a, z, config.critic_hidden)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.target_critics.requires_grad_(False)
        self.actor = TanhGaussianActor(o, a, z, config.actor_hidden)
        self._policy = SmacPolicy(self.encoder, self.decoder, self.actor, config)

    def stages(self) -> tuple[Stage, ...]:
        """Offline meta-training, then online self-supervision."""
        return self.STAGES

    def modules(self) -> dict[str, nn.Module]:
        """Every network by name."""
        names = ("encoder", "decoder", "critics", "target_critics", "actor")
        return {name: getattr(self, name) for name in names}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One rate for what infers the task, one for what acts in it."""
        context = [*self.encoder.parameters(), *self.decoder.parameters()]
        control = [*self.critics.parameters(), *self.actor.parameters()]
        return [
            {
                "params": context,
                "lr": self.config.context_learning_rate,
                "half_life": self.config.context_half_life,
            },
            {"params": control, "lr": self.config.learning_rate},
        ]

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
        rl_losses, watched = self._rl_losses(
            batch.transitions, belief.detach(), z.detach(), stage, generator
        )
        watched["kl_to_prior"] = kl_to_standard_normal(belief.detach()).mean()
        return Losses(minimised | rl_losses, watched)

    def after_update(self, stage: Stage) -> None:
        """Target critics follow slowly."""
        polyak_update_(
            self.target_critics.parameters(), self.critics.parameters(), self.config.polyak_rate
        )

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

    def _rl_losses(
        self,
        t: TransitionBatch,
        belief: Tensor,
        z: Tensor,
        stage: Stage,
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Critics and actor on [s; z]; z gets no gradient from either."""
        config = self.config
        q = self.critics(t.observation, t.action, z).float()  # [E, N, B]
        mean, log_std = (x.float() for x in self.actor(t.observation, z))
        with torch.no_grad():
            next_z = z
            if config.next_latent == "fresh":
                next_z = draw_gaussian(belief, self._noise(z, generator))
            next_mean, next_log_std = self.actor(t.next_observation, next_z)
            next_action = self._sample(next_mean.float(), next_log_std.float(), generator)
            next_q = self.target_critics(t.next_observation, next_action, next_z).float()
        target = critic_target(
            t.reward,
            t.terminated,
            next_q,
            reward_scale=config.reward_scale,
            discount=config.discount,
        )
        improves = stage.collects and config.reparameterised_weight > 0
        own_action = self._sample(mean, log_std, generator)
        with torch.set_grad_enabled(improves and torch.is_grad_enabled()):
            own_q = self._detached_critics(t.observation, own_action, z).float()
        weight = advantage_weights(
            q.amin(0) - own_q.amin(0),
            weighting=config.weighting,
            temperature=config.temperature,
            max_weight=config.max_weight,
        )
        log_prob = tanh_gaussian_log_prob(t.action, mean, log_std)
        minimised = {"critic": critic_loss(q, target), "actor": actor_loss(log_prob, weight)}
        if improves:
            minimised["reparameterised"] = reparameterised_loss(
                own_q, weight=config.reparameterised_weight
            )
        watched = {
            "q_mean": q.detach().mean(),
            "effective_sample_share": effective_sample_share(weight),
            "policy_std": log_std.detach().exp().mean(),
        }
        return minimised, watched

    def _detached_critics(self, s: Tensor, a: Tensor, z: Tensor) -> Tensor:
        """Q that passes gradients to the action and none to the critics' parameters."""
        frozen = {name: p.detach() for name, p in self.critics.named_parameters()}
        q: Tensor = torch.func.functional_call(self.critics, frozen, (s, a, z))
        return q

    def _sample(self, mean: Tensor, log_std: Tensor, generator: torch.Generator) -> Tensor:
        return torch.tanh(mean + log_std.exp() * self._noise(mean, generator))

    @staticmethod
    def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=generator, device=like.device)
