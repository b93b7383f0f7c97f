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

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch, MetaBatch
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.awr import Sample, advantage_loss, value_loss
from causeway.learners.awr_policy import AwrConfig, AwrPolicy, widened
from causeway.learners.rl_losses import effective_sample_share
from causeway.learners.weight_transform import (
    Adaptation,
    Theta,
    TransformedPolicy,
    TransformedValue,
    initial_rates,
    inverse_softplus,
)

OFFLINE = Stage(
    name="offline", trains=("policy", "value", "inner_rates"), frozen=(), collects=False
)


@dataclass(frozen=True, kw_only=True)
class MacawConfig(AwrConfig):
    """Hyperparameters of MACAW. Defaults are the authors' unless a comment says otherwise."""

    head_hidden: int = 32  # of the advantage head
    target_rate: float = 0.1  # at which the outer target network follows each inner step
    inner_steps: int = 1  # for each of which the context gives an equal part
    inner_rate: float = 1e-3  # that every parameter tensor starts with; each is learned
    advantage_weight: float = 0.00995  # of the advantage head's inner loss; learned
    rate_learning_rate: float = 1e-3  # of Adam, for the inner rates and the advantage weight

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self.expect_positive("inner_rate", "advantage_weight", "rate_learning_rate")
        self.expect_at_least_one("head_hidden", "inner_steps")
        if not 0.0 <= self.target_rate <= 1.0:
            self.refuse("target_rate", "must lie in [0, 1]")


class InnerRates(nn.Module):
    """The learned rates of the inner steps, and the advantage head's weight, before softplus."""

    def __init__(self, policy: TransformedPolicy, value: TransformedValue, c: MacawConfig) -> None:
        super().__init__()
        self.policy = initial_rates(policy, c.inner_rate)
        self.value = initial_rates(value, c.inner_rate)
        self.advantage = nn.Parameter(torch.tensor(inverse_softplus(c.advantage_weight)))


@dataclass(frozen=True, slots=True)
class Adapted:
    """Both networks after their steps, and what the first step saw."""

    value: Adaptation
    policy: Adaptation
    first_losses: dict[str, Tensor]  # means over tasks, without gradient


class MacawPolicy(AwrPolicy):
    """What acts: both networks and the rates of their inner steps."""

    def __init__(self, observation_size: int, action_size: int, config: MacawConfig) -> None:
        super().__init__(observation_size, action_size, config, head_hidden=config.head_hidden)
        self.config = config
        self.inner_rates = InnerRates(self.policy, self.value, config)

    def adapt(self, context: ContextBatch) -> Float[Tensor, "N P"]:
        """The weights after the inner steps on each task's context."""
        # Steps need gradients, whoever asks for them and wherever.
        with torch.inference_mode(False), torch.no_grad():
            adapted = self.steps(Sample.of(context), second_order=False)
            return self.belief_of(adapted.policy.theta, adapted.value.theta)

    def steps(self, sample: Sample, *, second_order: bool) -> Adapted:
        """The inner steps of every task: those of the value network, then the policy's.

        Paper, sec. 4.1. Departs from it: with several steps, each has its own part of the rows.

        Args:
            sample: the tasks' rows.
            second_order: whether what comes out can be differentiated through the steps.
        """
        value, policy = self._paths(len(sample.reward))
        parts = sample.chunks(self.config.inner_steps)
        of_value = [value.descend(partial(self._critic_loss, part), second_order) for part in parts]
        critic = [theta.detach() for theta in value.theta]
        of_policy = [
            policy.descend(
                partial(self._inner_policy_loss, part, self.advantage(critic, part)), second_order
            )
            for part in parts
        ]
        first = {"inner_value": of_value[0].mean(), "inner_policy": of_policy[0].mean()}
        return Adapted(value, policy, first)

    def _critic_loss(self, sample: Sample, theta: Theta) -> Float[Tensor, "N"]:
        """L_V, with the sample first."""
        return self.critic_loss(theta, sample)

    def _inner_policy_loss(
        self, sample: Sample, advantage: Tensor, theta: Theta
    ) -> Float[Tensor, "N"]:
        """L_AWR + softplus(c) L_ADV."""
        log_prob, hidden = self.log_prob(theta, sample)
        predicted = self.policy.advantage(
            theta,
            hidden,
            sample.action,
            rectifies_action=self.departures.head_rectifies_action,
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
