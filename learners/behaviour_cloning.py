"""Baselines of MACAW that share its code: meta behaviour cloning and multi-task AWR.

Mitchell et al. 2021 (arXiv:2008.06043), sec. 5. Both leave out one half of MACAW: meta behaviour
cloning has no value network and imitates the logs, in the inner step and after it; multi-task AWR
has both networks but no meta-training: it learns all tasks' logs at once and, given a task's own,
goes on learning from them (fine-tuning).

Departs from the paper: fine-tuning takes Adam's steps in each task's own layer weights, all tasks
at once, so that it is a belief like any other. Its number of steps and its rates are ours.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch, MetaBatch
from causeway.datasets.policy import FineTuning
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.awr import Sample, regression_loss
from causeway.learners.awr_policy import (
    AwrConfig,
    AwrPolicy,
    GaussianConfig,
    GaussianPolicy,
)
from causeway.learners.rl_losses import effective_sample_share
from causeway.learners.weight_transform import Adaptation, Theta, TransformedPolicy, initial_rates


@dataclass(frozen=True, kw_only=True)
class MetaBcConfig(GaussianConfig):
    """Hyperparameters of meta behaviour cloning. Defaults are those of MACAW's authors."""

    inner_steps: int = 1  # for each of which the context gives an equal part
    inner_rate: float = 1e-3  # that every parameter tensor starts with; each is learned
    rate_learning_rate: float = 1e-3  # of Adam, for the inner rates

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self.expect_positive("inner_rate", "rate_learning_rate")
        self.expect_at_least_one("inner_steps")


class MetaBcPolicy(GaussianPolicy):
    """A policy and the rates of the steps by which it imitates a task's logs."""

    def __init__(self, observation_size: int, action_size: int, config: MetaBcConfig) -> None:
        policy = TransformedPolicy(
            observation_size, action_size, config.hidden, None, config.latent_dim
        )
        super().__init__(policy, config.action_std)
        self.config = config
        self.inner_rates = nn.ParameterList([initial_rates(policy, config.inner_rate)])

    def adapt(self, context: ContextBatch) -> Float[Tensor, "N P"]:
        """The weights after the inner steps on each task's context."""
        # Steps need gradients, whoever asks for them and wherever.
        with torch.inference_mode(False), torch.no_grad():
            steps, _ = self.steps(Sample.of(context), second_order=False)
            return torch.cat(self._acting(steps.theta), dim=1)

    def steps(self, sample: Sample, *, second_order: bool) -> tuple[Adaptation, Float[Tensor, "N"]]:
        """The policy of every task after its inner steps, and the first one's losses.

        Args:
            sample: the tasks' rows.
            second_order: whether what comes out can be differentiated through the steps.
        """
        config = self.config
        policy = self.policy.adaptation(
            F.softplus(self.inner_rates[0]),
            num_tasks=len(sample.reward),
            max_steps=config.inner_steps,
        )
        losses = [
            policy.descend(partial(self.imitation_loss, part), second_order)
            for part in sample.chunks(config.inner_steps)
        ]
        return policy, losses[0]

    def imitation_loss(self, sample: Sample, theta: Theta) -> Float[Tensor, "N"]:
        """-mean log pi(a | s): every action of the logs counts alike."""
        log_prob, _ = self.log_prob(theta, sample)
        return regression_loss(log_prob, torch.ones_like(log_prob), sample.share)


class MetaBc:
    """A policy that learns to imitate a task's logs in an inner step."""

    Config = MetaBcConfig
    STAGES = (Stage(name="offline", trains=("policy", "inner_rates"), frozen=(), collects=False),)

    def __init__(self, observation_size: int, action_size: int, config: MetaBcConfig) -> None:
        self.config = config
        self._policy = MetaBcPolicy(observation_size, action_size, config)

    def stages(self) -> tuple[Stage, ...]:
        """One: all of it is offline."""
        return self.STAGES

    def modules(self) -> dict[str, nn.Module]:
        """The policy and its rates."""
        return {"policy": self._policy.policy, "inner_rates": self._policy.inner_rates}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """A rate for the policy, and one for its inner rates."""
        return [
            {
                "params": list(self._policy.policy.parameters()),
                "lr": self.config.policy_learning_rate,
            },
            {
                "params": list(self._policy.inner_rates.parameters()),
                "lr": self.config.rate_learning_rate,
            },
        ]

    def policy(self) -> MetaBcPolicy:
        """The inference parts, sharing the trained tensors."""
        return self._policy

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The imitation of each task's transitions, after the inner steps on its context."""
        policy = self._policy
        second_order = torch.is_grad_enabled()
        adapted, first = policy.steps(Sample.of(batch.context), second_order=second_order)
        outer = policy.imitation_loss(Sample.of(batch.transitions), adapted.theta)
        rate = F.softplus(policy.inner_rates[0].detach()).mean()
        watched = {"inner_policy": first.mean(), "policy_rate": rate}
        return Losses({"policy": outer.mean()}, watched)

    def after_update(self, stage: Stage) -> None:
        """Nothing: there is no target network."""


@dataclass(frozen=True, kw_only=True)
class MultiTaskAwrConfig(AwrConfig):
    """Hyperparameters of multi-task AWR; those of the fine-tuning are ours."""

    latent_dim: int | None = None  # no inner step needs a weight transform
    value_learning_rate: float = 1e-4  # no meta-gradient asks for less than the policy's
    fine_tuning_steps: int = 20  # of Adam on a task's context, for each network
    fine_tuning_rate: float = 1e-4

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self.expect_positive("fine_tuning_rate")
        if self.fine_tuning_steps < 0:
            self.refuse("fine_tuning_steps", "must be at least 0")


class MultiTaskAwrPolicy(AwrPolicy):
    """One policy for all tasks, which a task's context trains further."""

    def __init__(self, observation_size: int, action_size: int, config: MultiTaskAwrConfig) -> None:
        super().__init__(observation_size, action_size, config, head_hidden=None)
        self._tuning = FineTuning(
            value_steps=config.fine_tuning_steps,
            policy_steps=config.fine_tuning_steps,
            value_rate=config.fine_tuning_rate,
            policy_rate=config.fine_tuning_rate,
        )

    def adapt(self, context: ContextBatch) -> Float[Tensor, "N P"]:
        """The weights after fine-tuning on each task's context."""
        return self.fine_tune(self.prior(len(context.reward)), context, self._tuning)


class MultiTaskAwr:
    """A value network and a policy regressed on all tasks' logs at once."""

    Config = MultiTaskAwrConfig
    READS_CONTEXT = False
    STAGES = (Stage(name="offline", trains=("policy", "value"), frozen=(), collects=False),)

    def __init__(self, observation_size: int, action_size: int, config: MultiTaskAwrConfig) -> None:
        self.config = config
        self._policy = MultiTaskAwrPolicy(observation_size, action_size, config)

    def stages(self) -> tuple[Stage, ...]:
        """One: all of it is offline."""
        return self.STAGES

    def modules(self) -> dict[str, nn.Module]:
        """Both networks."""
        return {"policy": self._policy.policy, "value": self._policy.value}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """A rate for each network."""
        rates = (self.config.policy_learning_rate, self.config.value_learning_rate)
        return [
            {"params": list(module.parameters()), "lr": rate}
            for module, rate in zip(self.modules().values(), rates, strict=True)
        ]

    def policy(self) -> MultiTaskAwrPolicy:
        """The inference parts, sharing the trained tensors."""
        return self._policy

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """MACAW's inner losses on the transitions of every task, without any inner step."""
        policy, sample = self._policy, Sample.of(batch.transitions)
        num_tasks = len(sample.reward)
        critic = policy.value.start(num_tasks).theta
        value = policy.critic_loss(critic, sample)
        advantage = policy.advantage([one.detach() for one in critic], sample)
        log_prob, _ = policy.log_prob(policy.policy.start(num_tasks).theta, sample)
        regression, weight = policy.regression(log_prob, advantage, sample)
        watched = {
            "advantage_std": advantage.std(1).mean(),
            "effective_sample_share": effective_sample_share(weight),
        }
        return Losses({"value": value.mean(), "policy": regression.mean()}, watched)

    def after_update(self, stage: Stage) -> None:
        """Nothing: there is no target network."""
