"""Policies that act with weights of each task's own, and actor-critics that regress on returns.

MACAW and its baselines share these: networks, options, and how returns, advantages and the weights
of the regression come about. See `awr` for the losses and `weight_transform` for the networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch
from causeway.datasets.policy import FineTuning
from causeway.learners.awr import (
    Sample,
    advantage_weights,
    bootstrapped_returns,
    gaussian_log_prob,
    lambda_returns,
    regression_loss,
    value_loss,
)
from causeway.learners.weight_transform import Theta, TransformedPolicy, TransformedValue


@dataclass(frozen=True, kw_only=True)
class Departures:
    """Where the authors' code and the corrected method differ."""

    head_rectifies_action: bool
    bootstrap_past_true_end: bool
    weight_floor: bool
    advantage_epsilon: float


AUTHORS = Departures(
    head_rectifies_action=True,
    bootstrap_past_true_end=True,
    weight_floor=False,
    advantage_epsilon=0.0,
)
FIXED = Departures(
    head_rectifies_action=False,
    bootstrap_past_true_end=False,
    weight_floor=True,
    advantage_epsilon=1e-6,
)


@dataclass(frozen=True, kw_only=True)
class GaussianConfig:
    """Hyperparameters of policies with weights of each task's own. Defaults: MACAW's authors'."""

    hidden: tuple[int, ...] = (100, 100, 100)  # of every network's body
    latent_dim: int | None = 100  # of each layer's weight transform; None: plain layers
    action_std: float = 0.2  # of the policy, per dimension, before actions are clipped
    policy_learning_rate: float = 1e-4  # of Adam

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        self.expect_positive("action_std", "policy_learning_rate")
        if not self.hidden or min(self.hidden) < 1:
            self.refuse("hidden", "must be one or more widths of at least 1")
        if self.latent_dim is not None:
            self.expect_at_least_one("latent_dim")

    def expect_positive(self, *names: str) -> None:
        """Raises ValueError for the first of the fields that is not above 0."""
        for name in names:
            if not getattr(self, name) > 0:
                self.refuse(name, "must be > 0")

    def expect_at_least_one(self, *names: str) -> None:
        """Raises ValueError for the first of the fields that is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                self.refuse(name, "must be at least 1")

    def refuse(self, name: str, what: str, advice: str = "") -> NoReturn:
        """Raises ValueError that names the field, what must hold, what was given, what to do."""
        hint = f": {advice}" if advice else ""
        given = getattr(self, name)
        raise ValueError(f"{type(self).__name__}.{name} {what}, got {given}{hint}")


@dataclass(frozen=True, kw_only=True)
class AwrConfig(GaussianConfig):
    """Hyperparameters of actor-critics that regress on returns. Defaults are MACAW's authors'."""

    discount: float = 0.99
    fidelity: Literal["fixed", "authors"] = "fixed"  # sets the four below where they are null
    head_rectifies_action: bool | None = None  # authors: true, so negative actions vanish
    bootstrap_past_true_end: bool | None = None  # authors: true
    weight_floor: bool | None = None  # whether weights are at least 1 / max_weight; authors: false
    advantage_epsilon: float | None = None  # added to the standard deviation; authors: 0
    value_targets: Literal["monte_carlo", "td_lambda"] = "monte_carlo"
    trace_decay: float = 0.95  # lambda, under td_lambda
    temperature: float = 1.0  # divides standardised advantages
    max_weight: float = 20.0
    value_learning_rate: float = 1e-5  # of Adam

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self.expect_positive("temperature", "value_learning_rate")
        if not 0.0 < self.discount < 1.0:
            self.refuse("discount", "must lie in (0, 1)", "did you mean 0.99?")
        if not 0.0 <= self.trace_decay <= 1.0:
            self.refuse("trace_decay", "must lie in [0, 1]", "1 gives Monte-Carlo returns")
        if not self.max_weight > 1.0:
            self.refuse("max_weight", "must be > 1", "an average advantage has the weight 1")

    @property
    def outcome_discount(self) -> float:
        """The discount of the returns that batches bring."""
        return self.discount

    @property
    def departures(self) -> Departures:
        """What `fidelity` and the options that overrule it come to."""
        chosen = FIXED if self.fidelity == "fixed" else AUTHORS
        given = {field.name: getattr(self, field.name) for field in fields(chosen)}
        return replace(chosen, **{name: v for name, v in given.items() if v is not None})


class GaussianPolicy(nn.Module):
    """What acts: a Gaussian around a mean whose network has weights of each task's own.

    A belief is these weights, [N, P], those of the policy first, without an advantage head.
    """

    def __init__(self, policy: TransformedPolicy, action_std: float) -> None:
        super().__init__()
        self.policy = policy
        self._action_std, self._action_size = action_std, policy.action_size

    @torch.no_grad()
    def prior(self, num_tasks: int) -> Float[Tensor, "N P"]:
        """The weights that every task starts with."""
        return torch.cat(self._acting(self.policy.start(num_tasks).theta), dim=1)

    def draw(
        self, belief: Float[Tensor, "N P"], generator: torch.Generator
    ) -> Float[Tensor, "N P"]:
        """The weights themselves: a belief is a point."""
        return belief

    def act(
        self, observation: Tensor, latent: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "N A"]:
        """The mean, or a draw around it where a generator is given, clipped to [-1, 1]."""
        if generator is None:
            return self._mean(observation, latent)
        shape = (len(observation), self._action_size)
        noise = torch.randn(shape, generator=generator, device=observation.device)
        return self.act_with_noise(observation, latent, noise)

    def act_with_noise(
        self, observation: Tensor, latent: Tensor, noise: Tensor
    ) -> Float[Tensor, "N A"]:
        """What `act` gives where it draws this noise."""
        return (self._mean(observation, latent) + self._action_std * noise).clamp(-1.0, 1.0)

    def log_prob(self, theta: Theta, sample: Sample) -> tuple[Tensor, Tensor]:
        """Log pi(a | s) of the rows, [N, B], and the policy's last hidden layer."""
        mean, hidden = self.policy(theta, sample.observation)
        return gaussian_log_prob(sample.action, widened(mean), self._action_std), hidden

    def _acting(self, theta: Theta) -> list[Tensor]:
        """The weights of the policy that act."""
        return list(theta[: self.policy.num_body_transforms])

    @torch.no_grad()
    def _mean(self, observation: Tensor, latent: Tensor) -> Float[Tensor, "N A"]:
        theta = split_widths(latent, self._acting_widths)
        mean: Tensor = self.policy(theta, observation[:, None])[0][:, 0]
        return mean

    @property
    def _acting_widths(self) -> list[int]:
        return self.policy.widths()[: self.policy.num_body_transforms]


class AwrPolicy(GaussianPolicy):
    """A policy and a value network, and what the regression of the one makes of the other."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: AwrConfig,
        *,
        head_hidden: int | None,
    ) -> None:
        policy = TransformedPolicy(
            observation_size, action_size, config.hidden, head_hidden, config.latent_dim
        )
        super().__init__(policy, config.action_std)
        self.value = TransformedValue(observation_size, config.hidden, config.latent_dim)
        self.options, self.departures = config, config.departures

    @torch.no_grad()
    def prior(self, num_tasks: int) -> Float[Tensor, "N P"]:
        """The weights that every task starts with."""
        start = (self.policy.start(num_tasks).theta, self.value.start(num_tasks).theta)
        return self.belief_of(*start)

    def belief_of(self, policy: Theta, value: Theta) -> Float[Tensor, "N P"]:
        """The weights that act, and behind them the value network's, as a belief."""
        return torch.cat([*self._acting(policy), *value], dim=1)

    def fine_tune(
        self, belief: Float[Tensor, "N P"], context: ContextBatch, tuning: FineTuning
    ) -> Float[Tensor, "N P"]:
        """The belief after Adam's steps on the context, in the layers' own weights.

        First the value network takes its steps, then the policy its own, each on all rows. A task
        without rows stays as it is. Adam starts anew with every call.
        """
        sample = Sample.of(context)
        widths = self._acting_widths
        theta = split_widths(belief, [*widths, *self.value.widths()])
        # Steps need gradients, whoever asks for them and wherever.
        with torch.inference_mode(False), torch.no_grad():
            value = descend_by_adam(
                theta[len(widths) :],
                lambda own: self.critic_loss(own, sample),
                steps=tuning.value_steps,
                rate=tuning.value_rate,
            )
            advantage = self.advantage(value, sample)
            policy = descend_by_adam(
                theta[: len(widths)],
                lambda own: self.regression(self.log_prob(own, sample)[0], advantage, sample)[0],
                steps=tuning.policy_steps,
                rate=tuning.policy_rate,
            )
            return self.belief_of(policy, value)

    @torch.no_grad()
    def returns(self, theta: Theta, sample: Sample) -> Float[Tensor, "N B"]:
        """What a value is regressed on, with that value network's weights for what lies behind."""
        config, outcomes = self.options, sample.outcomes
        past_true_end = self.departures.bootstrap_past_true_end
        if config.value_targets == "monte_carlo":
            return bootstrapped_returns(
                outcomes,
                widened(self.value(theta, outcomes.final_observation)),
                discount=config.discount,
                past_true_end=past_true_end,
            )
        ahead = torch.cat([sample.next_observation, outcomes.final_observation], dim=1)
        next_value, final_value = widened(self.value(theta, ahead)).chunk(2, dim=1)
        return lambda_returns(
            sample,
            next_value,
            final_value,
            discount=config.discount,
            trace_decay=config.trace_decay,
            past_true_end=past_true_end,
        )

    @torch.no_grad()
    def advantage(self, theta: Theta, sample: Sample) -> Float[Tensor, "N B"]:
        """A = G - V(s), in reward units, with the value network's weights."""
        return self.returns(theta, sample) - widened(self.value(theta, sample.observation))

    def regression(
        self, log_prob: Tensor, advantage: Tensor, sample: Sample
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N B"]]:
        """L_AWR and the weights in it."""
        weight = advantage_weights(
            advantage,
            sample.mask,
            temperature=self.options.temperature,
            max_weight=self.options.max_weight,
            floor=self.departures.weight_floor,
            epsilon=self.departures.advantage_epsilon,
        )
        return regression_loss(log_prob, weight, sample.share), weight

    def critic_loss(self, theta: Theta, sample: Sample) -> Float[Tensor, "N"]:
        """The squared error of V(s) to what the rows earned, without a bootstrap past the end.

        Under td_lambda, to the lambda-return with these very weights, which get no gradient of it.
        """
        target = sample.outcomes.return_to_go
        if self.options.value_targets == "td_lambda":
            target = self.returns([one.detach() for one in theta], sample)
        return value_loss(widened(self.value(theta, sample.observation)), target, sample.share)


def descend_by_adam(
    theta: Theta,
    losses_of: Callable[[Theta], Float[Tensor, "N"]],
    *,
    steps: int,
    rate: float,
) -> list[Tensor]:
    """Weights after so many steps of Adam, each task down its own loss; without gradient."""
    own = [one.detach().clone() for one in theta]
    optimiser = torch.optim.Adam(own, lr=rate, fused=True)
    for _ in range(steps):
        at = [one.detach().requires_grad_() for one in own]
        with torch.enable_grad():
            gradients = torch.autograd.grad(losses_of(at).sum(), at)
        for one, gradient in zip(own, gradients, strict=True):
            one.grad = gradient
        optimiser.step()
    return own


def split_widths(x: Float[Tensor, "N P"], widths: Sequence[int]) -> list[Tensor]:
    """The first columns, in pieces of these widths."""
    return list(torch.split(x[:, : sum(widths)], list(widths), dim=1))


def widened(x: Tensor) -> Tensor:
    """At least float32: losses are taken in that, whatever networks ran in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
