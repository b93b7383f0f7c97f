"""The inner RL that context-based methods share: critics and an actor on [s; z].

Which method it is, is a choice: `awac | iql | sac | brac`; `rl_losses.py` has their equations.
Where z comes from, and whether a critic's gradient reaches it, is the business of the caller.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causeway.datasets.batches import TransitionBatch
from causeway.learners.formulas import (
    polyak_update_,
    squashed_draw,
    standard_normal,
    tanh_gaussian_log_prob,
)
from causeway.learners.networks import (
    Critics,
    LogRatio,
    StateValue,
    TanhGaussianActor,
    call_detached,
)
from causeway.learners.rl_losses import (
    Weighting,
    actor_loss,
    advantage_weights,
    critic_loss,
    critic_target,
    divergence_loss,
    effective_sample_share,
    expectile_loss,
    reparameterised_loss,
    soft_actor_loss,
    soft_target,
)

InnerRL = Literal["awac", "iql", "sac", "brac"]
Named = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """Hyperparameters of the inner RL. Defaults are those of SMAC's authors."""

    inner_rl: InnerRL = "awac"
    critic_hidden: tuple[int, ...] = (300, 300, 300)
    actor_hidden: tuple[int, ...] = (300, 300, 300)
    learning_rate: float = 3e-4  # of Adam, for critics and actor
    discount: float = 0.99
    polyak_rate: float = 0.005  # of the target critics, per update
    reward_scale: float = 5.0  # for the critics alone: decoders see unscaled rewards
    temperature: float = 100.0  # divides advantages: larger is closer to behaviour cloning
    weighting: Weighting = "batch_softmax"  # of awac and iql; the papers: "exponential"
    max_weight: float = 100.0  # ours: bounds exp() on outliers; for "exponential" alone
    reparameterised_weight: float = 1.0  # of -Q(s, a~, z) with awac and iql, online alone
    expectile: float = 0.7  # of iql
    entropy_weight: float = 0.2  # of sac, in scaled reward units per nat
    divergence_weight: float = 0.2  # of brac, in scaled reward units per nat

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        name = type(self).__name__
        self._require_positive("learning_rate", "reward_scale", "temperature", "max_weight")
        self._require_not_negative("reparameterised_weight", "entropy_weight", "divergence_weight")
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(
                f"{name}.discount must lie in [0, 1), got {self.discount}: "
                "the critics' fixed point needs a contraction. Did you mean 0.99?"
            )
        if not 0.0 < self.polyak_rate <= 1.0:
            raise ValueError(f"{name}.polyak_rate must lie in (0, 1], got {self.polyak_rate}")
        if not 0.0 < self.expectile < 1.0:
            raise ValueError(f"{name}.expectile must lie in (0, 1), got {self.expectile}")

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{type(self).__name__}.{name} must be > 0, got {getattr(self, name)}"
                )

    def _require_not_negative(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"{type(self).__name__}.{name} must be >= 0, got {getattr(self, name)}"
                )


class ActorCritic:
    """Critics, their targets, an actor, and what else the chosen method trains."""

    def __init__(
        self, observation_size: int, action_size: int, latent_dim: int, config: ActorCriticConfig
    ) -> None:
        sizes = (observation_size, action_size, latent_dim)
        self.config = config
        self.critics = Critics(*sizes, config.critic_hidden)
        self.target_critics = Critics(*sizes, config.critic_hidden)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.target_critics.requires_grad_(False)
        self.actor = TanhGaussianActor(*sizes, config.actor_hidden)
        self.extra: dict[str, nn.Module] = {}
        match config.inner_rl:
            case "iql":
                self.value = StateValue(observation_size, latent_dim, config.critic_hidden)
                self.extra["value"] = self.value
            case "brac":
                self.log_ratio = LogRatio(*sizes, config.critic_hidden)
                self.extra["log_ratio"] = self.log_ratio

    def modules(self) -> dict[str, nn.Module]:
        """Every network by name; `critics`, `actor` and the extra ones are trained."""
        return {
            "critics": self.critics,
            "target_critics": self.target_critics,
            "actor": self.actor,
            **self.extra,
        }

    def losses(
        self,
        t: TransitionBatch,
        z: Float[Tensor, "N Z"],
        *,
        next_z: Float[Tensor, "N Z"] | None,
        improves: bool,
        generator: torch.Generator,
    ) -> tuple[Named, Named]:
        """What is minimised and what is watched.

        Args:
            t: the transitions.
            z: one per task. The critics' own error alone sends it a gradient.
            next_z: of the next actions and their values; None takes z.
            improves: whether awac and iql add policy improvement through the critics.
            generator: of every draw.
        """
        q = self.critics(t.observation, t.action, z).float()  # [E, N, B]
        z = z.detach()
        target = self._target(t, z if next_z is None else next_z.detach(), generator)
        mean, log_std = (x.float() for x in self.actor(t.observation, z))
        minimised = {"critic": critic_loss(q, target)}
        watched = {"q_mean": q.detach().mean(), "policy_std": log_std.detach().exp().mean()}
        own_action, own_log_prob = squashed_draw(
            mean, log_std, standard_normal(mean.shape, mean, generator)
        )
        if self.config.inner_rl in ("awac", "iql"):
            improves = improves and self.config.reparameterised_weight > 0
            with torch.set_grad_enabled(improves and torch.is_grad_enabled()):
                own_q = call_detached(self.critics, t.observation, own_action, z).float()
            log_prob = tanh_gaussian_log_prob(t.action, mean, log_std)
            more, share = self._regression(t, z, q.amin(0) - own_q.amin(0), log_prob)
            watched["effective_sample_share"] = share
            if improves:
                more["reparameterised"] = reparameterised_loss(
                    own_q, weight=self.config.reparameterised_weight
                )
            return minimised | more, watched
        own_q = call_detached(self.critics, t.observation, own_action, z).float()
        if self.config.inner_rl == "sac":
            actor = soft_actor_loss(own_q, own_log_prob, self.config.entropy_weight)
            return minimised | {"actor": actor}, watched
        return minimised | self._regularised(t, z, own_action, own_q), watched

    def after_update(self) -> None:
        """Target critics follow slowly."""
        polyak_update_(
            self.target_critics.parameters(), self.critics.parameters(), self.config.polyak_rate
        )

    @torch.no_grad()
    def _target(
        self, t: TransitionBatch, z: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "N B"]:
        """The critics' target, by the method's own notion of a state's value."""
        config = self.config
        scale = {"reward_scale": config.reward_scale, "discount": config.discount}
        if config.inner_rl == "iql":
            value = self.value(t.next_observation, z).float()
            return critic_target(t.reward, t.terminated, value[None], **scale)
        mean, log_std = (x.float() for x in self.actor(t.next_observation, z))
        action, log_prob = squashed_draw(
            mean, log_std, standard_normal(mean.shape, mean, generator)
        )
        q = self.target_critics(t.next_observation, action, z).float()
        if config.inner_rl == "sac":
            weight = config.entropy_weight
            return soft_target(t.reward, t.terminated, q, log_prob, weight, **scale)
        return critic_target(t.reward, t.terminated, q, **scale)

    def _regression(
        self, t: TransitionBatch, z: Tensor, advantage: Tensor, log_prob: Tensor
    ) -> tuple[Named, Tensor]:
        """The weighted regression onto the data's actions, and how even its weights are.

        IQL takes another advantage than the one given, and fits the V that it needs for it.
        """
        config, minimised = self.config, Named()
        if config.inner_rl == "iql":
            with torch.no_grad():
                q = self.target_critics(t.observation, t.action, z).float()
            value = self.value(t.observation, z).float()
            minimised["value"] = expectile_loss(value, q, expectile=config.expectile)
            advantage = q.amin(0) - value
        weight = advantage_weights(
            advantage,
            weighting=config.weighting,
            temperature=config.temperature,
            max_weight=config.max_weight,
        )
        minimised["actor"] = actor_loss(log_prob, weight)
        return minimised, effective_sample_share(weight)

    def _regularised(
        self, t: TransitionBatch, z: Tensor, own_action: Tensor, own_q: Tensor
    ) -> Named:
        """BRAC's actor, which pays for its divergence, and the dual that measures it."""
        s, weight = t.observation, self.config.divergence_weight
        penalty = call_detached(self.log_ratio, s, own_action, z).float().mean()
        own = self.log_ratio(s, own_action.detach(), z).float()
        data = self.log_ratio(s, t.action, z).float()
        return {
            "actor": reparameterised_loss(own_q, weight=1.0) + weight * penalty,
            "divergence": divergence_loss(own, data),
        }
