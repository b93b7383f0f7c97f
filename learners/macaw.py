"""MACAW: meta actor-critic with advantage weighting.

Mitchell, Rafailov, Peng, Levine, Finn: *Offline Meta-Reinforcement Learning with Advantage
Weighting*, ICML 2021, arXiv:2008.06043.

A task is learned by gradient steps: from a batch of its logs, first the value network and then the
policy take one step each, by losses that are plain regressions. Meta-training is over the point
from where they start, through these steps: after them, both must do well on other rows of the task.

Departs from the authors' code, each a typed option of `MacawConfig`; `fidelity` picks them all:
the advantage head sees whole actions (`head_rectifies_action`), nothing is bootstrapped past a true
end (`bootstrap_past_true_end`), weights are bounded from below as well (`weight_floor`) and
standardised with an epsilon (`advantage_epsilon`). The authors draw stretches of successive rows,
`sampler.stretches`; rows from anywhere are the default. Ours is `value_targets`: lambda-returns.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch, MetaBatch
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.awr import (
    Sample,
    advantage_loss,
    advantage_weights,
    bootstrapped_returns,
    gaussian_log_prob,
    lambda_returns,
    regression_loss,
    value_loss,
)
from causeway.learners.rl_losses import effective_sample_share
from causeway.learners.weight_transform import (
    Adaptation,
    Theta,
    TransformedPolicy,
    TransformedValue,
)

OFFLINE = Stage(
    name="offline", trains=("policy", "value", "inner_rates"), frozen=(), collects=False
)


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
class MacawConfig:
    """Hyperparameters of MACAW. Defaults are the authors' unless a comment says otherwise."""

    hidden: tuple[int, ...] = (100, 100, 100)  # of policy and value
    head_hidden: int = 32  # of the advantage head
    latent_dim: int | None = 100  # of each layer's weight transform; None: plain layers
    action_std: float = 0.2  # of the policy, per dimension, before actions are clipped
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
    target_rate: float = 0.1  # at which the outer target network follows each inner step
    inner_steps: int = 1  # for each of which the context gives an equal part
    inner_rate: float = 1e-3  # that every parameter tensor starts with; each is learned
    advantage_weight: float = 0.00995  # of the advantage head's inner loss; learned
    policy_learning_rate: float = 1e-4  # of Adam, as the next two
    value_learning_rate: float = 1e-5
    rate_learning_rate: float = 1e-3  # for the inner rates and the advantage weight

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        positive = ("action_std", "temperature", "inner_rate", "advantage_weight", "head_hidden")
        for name in (*positive, *(f"{n}_learning_rate" for n in ("policy", "value", "rate"))):
            if not getattr(self, name) > 0:
                raise ValueError(f"MacawConfig.{name} must be > 0, got {getattr(self, name)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"MacawConfig.hidden must be one or more widths of at least 1, got {self.hidden}"
            )
        for name, value in (("latent_dim", self.latent_dim), ("inner_steps", self.inner_steps)):
            if value is not None and value < 1:
                raise ValueError(f"MacawConfig.{name} must be at least 1, got {value}")
        if not 0.0 < self.discount < 1.0:
            raise ValueError(
                f"MacawConfig.discount must lie in (0, 1), got {self.discount}. Did you mean 0.99?"
            )
        for name in ("trace_decay", "target_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"MacawConfig.{name} must lie in [0, 1], got {getattr(self, name)}"
                )
        if not self.max_weight > 1.0:
            raise ValueError(
                f"MacawConfig.max_weight must be > 1, got {self.max_weight}: an average advantage "
                "has the weight 1"
            )

    @property
    def outcome_discount(self) -> float:
        """The discount of the returns that batches bring."""
        return self.discount

    @property
    def departures(self) -> Departures:
        """What `fidelity` and the options that overrule it come to."""
        chosen = FIXED if self.fidelity == "fixed" else AUTHORS
        given = {name: getattr(self, name) for name in chosen.__dataclass_fields__}
        return replace(chosen, **{name: v for name, v in given.items() if v is not None})


class InnerRates(nn.Module):
    """The learned rates of the inner steps, and the advantage head's weight, before softplus."""

    def __init__(self, policy: TransformedPolicy, value: TransformedValue, c: MacawConfig) -> None:
        super().__init__()
        start = _inverse_softplus(c.inner_rate)
        self.policy = nn.Parameter(torch.full((len(policy.tensors()),), start))
        self.value = nn.Parameter(torch.full((len(value.tensors()),), start))
        self.advantage = nn.Parameter(torch.tensor(_inverse_softplus(c.advantage_weight)))


@dataclass(frozen=True, slots=True)
class Adapted:
    """Both networks after their steps, and what the first step saw."""

    value: Adaptation
    policy: Adaptation
    first_losses: dict[str, Tensor]  # means over tasks, without gradient


class MacawPolicy(nn.Module):
    """What acts: both networks and the rates of their inner steps.

    A belief is the policy's own weights for each task, [N, sum of P], without the advantage head.
    """

    def __init__(self, observation_size: int, action_size: int, config: MacawConfig) -> None:
        super().__init__()
        self.config, self._departures = config, config.departures
        self.action_size = action_size
        self.policy = TransformedPolicy(
            observation_size, action_size, config.hidden, config.head_hidden, config.latent_dim
        )
        self.value = TransformedValue(observation_size, config.hidden, config.latent_dim)
        self.inner_rates = InnerRates(self.policy, self.value, config)

    def prior(self, num_tasks: int) -> Float[Tensor, "N P"]:
        """The weights from where every task starts."""
        with torch.no_grad():
            return self._belief(self._paths(num_tasks)[1])

    def adapt(self, context: ContextBatch) -> Float[Tensor, "N P"]:
        """The weights after the inner steps on each task's context."""
        # Steps need gradients, whoever asks for them and wherever.
        with torch.inference_mode(False), torch.no_grad():
            return self._belief(self.steps(Sample.of(context), second_order=False).policy)

    def draw(
        self, belief: Float[Tensor, "N P"], generator: torch.Generator
    ) -> Float[Tensor, "N P"]:
        """The weights themselves: a belief is a point."""
        return belief

    def act(
        self, observation: Tensor, latent: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "N A"]:
        """The mean, or a draw around it where a generator is given, clipped to [-1, 1]."""
        noise = None
        if generator is not None:
            shape = (len(observation), self.action_size)
            noise = torch.randn(shape, generator=generator, device=observation.device)
        return self._act(observation, latent, noise)

    def act_with_noise(
        self, observation: Tensor, latent: Tensor, noise: Tensor
    ) -> Float[Tensor, "N A"]:
        """What `act` gives where it draws this noise."""
        return self._act(observation, latent, noise)

    def steps(self, sample: Sample, *, second_order: bool) -> Adapted:
        """The inner steps of every task: those of the value network, then the policy's.

        Paper, sec. 4.1. Departs from it: with several steps, each has its own part of the rows.

        Args:
            sample: the tasks' rows.
            second_order: whether what comes out can be differentiated through the steps.
        """
        value, policy = self._paths(len(sample.reward))
        parts = sample.chunks(self.config.inner_steps)
        of_value = [
            value.descend(partial(self._inner_value_loss, part), second_order) for part in parts
        ]
        critic = [theta.detach() for theta in value.theta]
        of_policy = [
            policy.descend(
                partial(self._inner_policy_loss, part, self.advantage(critic, part)), second_order
            )
            for part in parts
        ]
        first = {"inner_value": of_value[0].mean(), "inner_policy": of_policy[0].mean()}
        return Adapted(value, policy, first)

    @torch.no_grad()
    def returns(self, theta: Theta, sample: Sample) -> Float[Tensor, "N B"]:
        """What a value is regressed on, with that value network's weights for what lies behind."""
        config, outcomes = self.config, sample.outcomes
        past_true_end = self._departures.bootstrap_past_true_end
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
        value = widened(self.value(theta, sample.observation))
        return self.returns(theta, sample) - value

    def regression(
        self, log_prob: Tensor, advantage: Tensor, sample: Sample
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N B"]]:
        """L_AWR and the weights in it."""
        weight = advantage_weights(
            advantage,
            sample.mask,
            temperature=self.config.temperature,
            max_weight=self.config.max_weight,
            floor=self._departures.weight_floor,
            epsilon=self._departures.advantage_epsilon,
        )
        return regression_loss(log_prob, weight, sample.share), weight

    def log_prob(self, theta: Theta, sample: Sample) -> tuple[Tensor, Tensor]:
        """Log pi(a | s) of the rows, [N, B], and the policy's last hidden layer."""
        mean, hidden = self.policy(theta, sample.observation)
        return gaussian_log_prob(sample.action, widened(mean), self.config.action_std), hidden

    def _inner_value_loss(self, sample: Sample, theta: Theta) -> Float[Tensor, "N"]:
        """L_V: the inner steps regress on what the rows earned, without a bootstrap."""
        target = sample.outcomes.return_to_go
        if self.config.value_targets == "td_lambda":
            target = self.returns([one.detach() for one in theta], sample)
        return value_loss(widened(self.value(theta, sample.observation)), target, sample.share)

    def _inner_policy_loss(
        self, sample: Sample, advantage: Tensor, theta: Theta
    ) -> Float[Tensor, "N"]:
        """L_AWR + softplus(c) L_ADV."""
        log_prob, hidden = self.log_prob(theta, sample)
        predicted = self.policy.advantage(
            theta,
            hidden,
            sample.action,
            rectifies_action=self._departures.head_rectifies_action,
        )
        of_head = advantage_loss(widened(predicted), advantage, sample.share)
        loss, _ = self.regression(log_prob, advantage, sample)
        return loss + F.softplus(self.inner_rates.advantage) * of_head

    def _paths(self, num_tasks: int) -> tuple[Adaptation, Adaptation]:
        steps = self.config.inner_steps
        value, policy = (F.softplus(r) for r in (self.inner_rates.value, self.inner_rates.policy))
        return (
            self.value.adaptation(value, num_tasks=num_tasks, max_steps=steps),
            self.policy.adaptation(policy, num_tasks=num_tasks, max_steps=steps),
        )

    def _belief(self, policy: Adaptation) -> Float[Tensor, "N P"]:
        return torch.cat(policy.theta[: self.policy.num_body_transforms], dim=1)

    @torch.no_grad()
    def _act(
        self, observation: Tensor, latent: Tensor, noise: Tensor | None
    ) -> Float[Tensor, "N A"]:
        widths = self.policy.widths()[: self.policy.num_body_transforms]
        theta = torch.split(latent, widths, dim=1)
        mean: Tensor = self.policy(theta, observation[:, None])[0][:, 0]
        if noise is None:
            return mean
        return (mean + self.config.action_std * noise).clamp(-1.0, 1.0)


class Macaw:
    """Two networks and the rates of the steps by which they learn a task."""

    Config = MacawConfig
    STAGES = (OFFLINE,)

    def __init__(self, observation_size: int, action_size: int, config: MacawConfig) -> None:
        self.config = config
        self._policy = MacawPolicy(observation_size, action_size, config)

    def stages(self) -> tuple[Stage, ...]:
        """One: all of it is offline."""
        return self.STAGES

    def modules(self) -> dict[str, nn.Module]:
        """Every network by name."""
        names = ("policy", "value", "inner_rates")
        return {name: getattr(self._policy, name) for name in names}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """A rate for each network, and one for all that is learned about the steps."""
        rates = ("policy_learning_rate", "value_learning_rate", "rate_learning_rate")
        return [
            {"params": list(module.parameters()), "lr": getattr(self.config, rate)}
            for module, rate in zip(self.modules().values(), rates, strict=True)
        ]

    def policy(self) -> MacawPolicy:
        """The inference parts, sharing the trained tensors."""
        return self._policy

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The outer losses, after the inner steps on each task's context: paper, sec. 4.2.

        The value's target is from a network that followed the steps, without gradient; the
        policy's loss is L_AWR alone, and no gradient of it goes to the value network.
        """
        policy, outer = self._policy, Sample.of(batch.transitions)
        adapted = policy.steps(Sample.of(batch.context), second_order=torch.is_grad_enabled())
        value = widened(policy.value(adapted.value.theta, outer.observation))
        target = policy.returns(adapted.value.following(self.config.target_rate), outer)
        critic = [theta.detach() for theta in adapted.value.theta]
        advantage = policy.returns(critic, outer) - value.detach()
        log_prob, _ = policy.log_prob(adapted.policy.theta, outer)
        regression, weight = policy.regression(log_prob, advantage, outer)
        minimised = {
            "value": value_loss(value, target, outer.share).mean(),
            "policy": regression.mean(),
        }
        return Losses(minimised, {**adapted.first_losses, **self._watched(advantage, weight)})

    def after_update(self, stage: Stage) -> None:
        """Nothing: the target network lives within an update."""

    def _watched(self, advantage: Tensor, weight: Tensor) -> dict[str, Tensor]:
        rates = self._policy.inner_rates
        return {
            "advantage_std": advantage.std(1).mean(),
            "effective_sample_share": effective_sample_share(weight),
            "policy_rate": F.softplus(rates.policy.detach()).mean(),
            "value_rate": F.softplus(rates.value.detach()).mean(),
            "advantage_weight": F.softplus(rates.advantage.detach()),
        }


def widened(x: Tensor) -> Tensor:
    """At least float32: losses are taken in that, whatever networks ran in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value))
