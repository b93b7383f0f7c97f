"""Soft actor-critic that is told its task: the online agent whose lifetime becomes offline data.

Haarnoja et al.: *Soft Actor-Critic Algorithms and Applications*, 2018, arXiv:1812.05905, with the
task's true parameters in place of a latent z. One agent learns all tasks of a family at once, so
its replay is what PEARL's was to SMAC's authors: the lifetime of an agent in every task.

Departs from the paper: the actor and the entropy weight are stepped once every `actor_every`
updates of the critics, and observations are normalised by the replay's own moments. No discount at
time limits, as everywhere here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from causeway.datasets.batches import TransitionBatch
from causeway.learners.formulas import polyak_update_, squashed_draw
from causeway.learners.networks import Critics, TanhGaussianActor, call_detached
from causeway.learners.rl_losses import critic_loss, soft_actor_loss, soft_target
from causeway.learners.trainer import DivergedError

OBSERVATION_BOUND = 10.0  # standard deviations beyond which a normalised observation is clipped
MIN_STD = 1e-3  # of an observation's feature: one that hardly moves is not blown up


@dataclass(frozen=True, kw_only=True)
class ConditionedSacConfig:
    """Hyperparameters of the agent that is told its task."""

    hidden: tuple[int, ...] = (256, 256)  # of the actor and of each critic
    learning_rate: float = 1e-3  # of Adam, for all
    discount: float = 0.99
    polyak_rate: float = 0.005  # of the target critics, per update
    actor_every: int = 2  # updates of the critics for one of the actor
    reward_scale: float = 1.0  # for the critics alone
    target_entropy_per_action: float = -1.0  # nats per action dimension
    initial_entropy_weight: float = 0.1
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the networks' products, by autocast

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        for name in ("learning_rate", "reward_scale", "initial_entropy_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"ConditionedSacConfig.{name} must be > 0, got {getattr(self, name)}"
                )
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                "ConditionedSacConfig.hidden must be one or more widths of at least 1, "
                f"got {self.hidden}"
            )
        if not 0.0 <= self.discount < 1.0:
            raise ValueError(
                f"ConditionedSacConfig.discount must lie in [0, 1), got {self.discount}: "
                "the critics' fixed point needs a contraction. Did you mean 0.99?"
            )
        if not 0.0 < self.polyak_rate <= 1.0:
            raise ValueError(
                f"ConditionedSacConfig.polyak_rate must lie in (0, 1], got {self.polyak_rate}"
            )
        if self.actor_every < 1:
            raise ValueError(
                f"ConditionedSacConfig.actor_every must be at least 1, got {self.actor_every}"
            )


def entropy_weight_loss(
    log_entropy_weight: Float[Tensor, ""],
    log_prob: Float[Tensor, "N B"],
    *,
    target_entropy: float,
) -> Float[Tensor, ""]:
    """Raises alpha where the policy's entropy is below its target, and lowers it above.

        L_alpha = E [ -log(alpha) (log pi(a | s) + target_entropy) ]

    Paper, sec. 5, eq. (18). Departs from it: log alpha in place of alpha, as in the authors' code.
    `log_prob` gets no gradient.
    """
    return -(log_entropy_weight * (log_prob.detach() + target_entropy)).mean()


class ConditionedPolicy(nn.Module):
    """What acts: the actor, and how it normalises what it observes."""

    observation_mean: Tensor
    observation_std: Tensor

    def __init__(
        self, observation: int, action: int, condition: int, hidden: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.actor = TanhGaussianActor(observation, action, condition, hidden)
        self.register_buffer("observation_mean", torch.zeros(observation))
        self.register_buffer("observation_std", torch.ones(observation))

    def normalised(self, observation: Float[Tensor, "*batch O"]) -> Float[Tensor, "*batch O"]:
        """Observations in standard deviations from the mean, within bounds."""
        scaled = (observation - self.observation_mean) / self.observation_std
        return scaled.clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND)

    @torch.no_grad()
    def act(
        self,
        observation: Float[Tensor, "N O"],
        condition: Float[Tensor, "N P"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "N A"]:
        """The tanh of the mean, or of a draw where a generator is given."""
        mean, log_std = (
            x[:, 0] for x in self.actor(self.normalised(observation)[:, None], condition)
        )
        if generator is None:
            return torch.tanh(mean)
        noise = torch.randn(mean.shape, generator=generator)
        return squashed_draw(mean, log_std, noise)[0]


class ConditionedSac:
    """Twin critics, an actor and a learned entropy weight on [s; task].

    Args:
        observation_size: O.
        action_size: A.
        condition_size: P, the numbers that tell a task; 0 tells nothing.
        config: hyperparameters.
        seed: of the initial weights; torch's global generator is left as it was.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        condition_size: int,
        config: ConditionedSacConfig,
        *,
        seed: int,
    ) -> None:
        o, a, p = observation_size, action_size, condition_size
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = ConditionedPolicy(o, a, p, config.hidden)
            self.critics = Critics(o, a, p, config.hidden)
            self.target_critics = Critics(o, a, p, config.hidden)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.target_critics.requires_grad_(False)
        self.log_entropy_weight = torch.tensor(
            float(np.log(config.initial_entropy_weight)), requires_grad=True
        )
        self._target_entropy = config.target_entropy_per_action * a
        self._parameters = [
            *self.critics.parameters(),
            *self.policy.actor.parameters(),
            self.log_entropy_weight,
        ]
        self._optimiser = torch.optim.Adam(self._parameters, lr=config.learning_rate, fused=True)
        self.updates = 0

    def normalise_by(
        self, mean: Float[np.ndarray, "O"], standard_deviation: Float[np.ndarray, "O"]
    ) -> None:
        """Sets the moments that observations are normalised by."""
        self.policy.observation_mean.copy_(torch.from_numpy(mean))
        self.policy.observation_std.copy_(torch.from_numpy(standard_deviation).clamp_min(MIN_STD))

    def losses(
        self,
        t: TransitionBatch,
        condition: Float[Tensor, "N P"],
        generator: torch.Generator,
        *,
        with_actor: bool,
    ) -> dict[str, Tensor]:
        """The losses under the paper's names; steps nothing."""
        config = self.config
        s, next_s = (self.policy.normalised(x) for x in (t.observation, t.next_observation))
        entropy_weight = self.log_entropy_weight.exp()
        with torch.no_grad():
            next_action, next_log_prob = self._draw(next_s, condition, generator)
            next_q = self.target_critics(next_s, next_action, condition).float()
            target = soft_target(
                t.reward,
                t.terminated,
                next_q,
                next_log_prob,
                entropy_weight,
                reward_scale=config.reward_scale,
                discount=config.discount,
            )
        q = self.critics(s, t.action, condition).float()
        losses = {"critic": critic_loss(q, target)}
        if with_actor:
            action, log_prob = self._draw(s, condition, generator)
            own_q = call_detached(self.critics, s, action, condition).float()
            losses["actor"] = soft_actor_loss(own_q, log_prob, entropy_weight)
            losses["entropy_weight"] = entropy_weight_loss(
                self.log_entropy_weight, log_prob, target_entropy=self._target_entropy
            )
        return losses

    def update(
        self, t: TransitionBatch, condition: Float[Tensor, "N P"], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One step of the critics and, every `actor_every` updates, of the actor.

        Args:
            t: transitions of N tasks, with the rewards of these tasks.
            condition: what tells each task.
            generator: for the actions that the losses draw.

        Returns:
            The very tensors that were minimised.
        """
        with_actor = self.updates % self.config.actor_every == 0
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            losses = self.losses(t, condition, generator, with_actor=with_actor)
        self._optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        polyak_update_(
            self.target_critics.parameters(), self.critics.parameters(), self.config.polyak_rate
        )
        self.updates += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def check_finite(self) -> None:
        """Refuses weights that training has ruined.

        Raises:
            DivergedError: a weight is not finite.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self._parameters):
            raise DivergedError(
                f"the agent's weights must be finite, after update {self.updates} they are not: "
                "try a lower learning rate or precision float32"
            )

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, the optimiser's too: with `updates`, the whole agent."""
        tensors = {
            f"{name}.{k}": v for name, m in self._modules() for k, v in m.state_dict().items()
        }
        tensors["log_entropy_weight"] = self.log_entropy_weight.detach()
        for index, parameter in enumerate(self._parameters):
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"adam.{index}.{key}"] = value
        return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}

    def load_state(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Becomes the agent that gave this state."""
        for name, module in self._modules():
            prefix = f"{name}."
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        with torch.no_grad():
            self.log_entropy_weight.copy_(tensors["log_entropy_weight"])
        for index, parameter in enumerate(self._parameters):
            prefix = f"adam.{index}."
            mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if mine:
                self._optimiser.state[parameter] = {k: v.clone() for k, v in mine.items()}
        self.updates = updates

    def _modules(self) -> list[tuple[str, nn.Module]]:
        return [(n, getattr(self, n)) for n in ("policy", "critics", "target_critics")]

    def _draw(
        self, s: Tensor, condition: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        mean, log_std = (x.float() for x in self.policy.actor(s, condition))
        return squashed_draw(mean, log_std, torch.randn(mean.shape, generator=generator))
