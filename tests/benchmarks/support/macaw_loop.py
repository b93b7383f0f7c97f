"""MACAW's meta-update as a user writes it with `torch.func`: modules, one task after the other.

The paper's setting and our default departures: one inner step, Monte-Carlo returns, weight
transforms. Each layer forms its weights whenever it is called, and each task has parameters of its
own, as `functional_call` wants them.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from causeway.datasets.batches import ContextBatch, MetaBatch, TransitionBatch
from causeway.learners.macaw import MacawConfig, MacawPolicy
from causeway.learners.weight_transform import Transform, TransformedNetwork

Parameters = dict[str, Tensor]


class TransformedLinear(nn.Module):
    """A linear layer whose weight and bias are W z + b."""

    def __init__(self, transform: Transform, inputs: int, outputs: int) -> None:
        super().__init__()
        z, matrix, offset = (t.detach().clone() for t in transform.tensors())
        self.z, self.W, self.b = nn.Parameter(z), nn.Parameter(matrix), nn.Parameter(offset)
        self.shape = (inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.W @ self.z + self.b
        inputs, outputs = self.shape
        return x @ theta[: inputs * outputs].view(self.shape) + theta[inputs * outputs :]


class Value(nn.Module):
    """V(s)."""

    def __init__(self, network: TransformedNetwork) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers_of(network))

    def forward(self, s: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            s = F.relu(layer(s))
        return self.layers[-1](s)[:, 0]


class Actor(nn.Module):
    """The mean action, and A(s, a) of the advantage head."""

    def __init__(self, network: TransformedNetwork, num_body_layers: int) -> None:
        super().__init__()
        layers = layers_of(network)
        self.body = nn.ModuleList(layers[:num_body_layers])
        self.head = nn.ModuleList(layers[num_body_layers:])

    def forward(self, s: Tensor, a: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        for layer in self.body[:-1]:
            s = F.relu(layer(s))
        mean = torch.tanh(self.body[-1](s))
        if a is None:
            return mean, None
        return mean, self.head[1](F.relu(self.head[0](torch.cat([s, a], dim=1))))[:, 0]


class Loop:
    """Both networks, the rates of their inner steps, and Adam for all of it.

    Args:
        policy: where the parameters start, as copies.
        config: the sizes are its policy's.
    """

    def __init__(self, policy: MacawPolicy, config: MacawConfig) -> None:
        self.config = config
        self.value = Value(policy.value)
        self.actor = Actor(policy.policy, policy.policy.num_body_layers)
        rates = policy.inner_rates
        self.value_rates = nn.Parameter(rates.value.detach().clone())
        self.actor_rates = nn.Parameter(rates.policy.detach().clone())
        self.advantage_weight = nn.Parameter(rates.advantage.detach().clone())
        learned = [self.value_rates, self.actor_rates, self.advantage_weight]
        self.optimiser = torch.optim.Adam(
            [
                {"params": self.actor.parameters(), "lr": config.policy_learning_rate},
                {"params": self.value.parameters(), "lr": config.value_learning_rate},
                {"params": learned, "lr": config.rate_learning_rate},
            ]
        )

    def update(self, batch: MetaBatch) -> None:
        """Accumulates the gradients of every task, and takes a step."""
        self.optimiser.zero_grad()
        for task in range(len(batch.task)):
            inner, outer = Rows(batch.context, task), Rows(batch.transitions, task)
            (sum(self.losses(inner, outer)) / len(batch.task)).backward()
        self.optimiser.step()

    def losses(self, inner: "Rows", outer: "Rows") -> tuple[Tensor, Tensor]:
        """A task's outer losses, of the value network and of the actor."""
        start = dict(self.value.named_parameters())

        def value_error(parameters: Parameters) -> Tensor:
            return (self.v(parameters, inner.s) - inner.to_go).square().mean()

        value = descend(value_error, start, self.value_rates)
        with torch.no_grad():
            share = self.config.target_rate
            target = {name: torch.lerp(start[name], value[name], share) for name in start}
            advantage = self.returns(value, inner) - self.v(value, inner.s)

        def regression(parameters: Parameters) -> Tensor:
            mean, told = functional_call(self.actor, parameters, (inner.s, inner.a))
            head = (told - advantage).square().mean()
            return self.awr(mean, inner.a, advantage) + F.softplus(self.advantage_weight) * head

        actor = descend(regression, dict(self.actor.named_parameters()), self.actor_rates)
        values = self.v(value, outer.s)
        value_loss = (values - self.returns(target, outer)).square().mean()
        advantage = self.returns(value, outer) - values.detach()
        mean, _ = functional_call(self.actor, actor, (outer.s,))
        return value_loss, self.awr(mean, outer.a, advantage)

    def v(self, parameters: Parameters, s: Tensor) -> Tensor:
        return functional_call(self.value, parameters, (s,))

    @torch.no_grad()
    def returns(self, parameters: Parameters, rows: "Rows") -> Tensor:
        ahead = self.config.discount**rows.steps * ~rows.ends
        return rows.to_go + ahead * self.v(parameters, rows.final_s)

    def awr(self, mean: Tensor, a: Tensor, advantage: Tensor) -> Tensor:
        log_prob = torch.distributions.Normal(mean, self.config.action_std).log_prob(a).sum(1)
        deviation = advantage.std() + self.config.departures.advantage_epsilon
        limit = math.log(self.config.max_weight)
        exponent = (advantage - advantage.mean()) / deviation / self.config.temperature
        return -(exponent.clamp(-limit, limit).exp() * log_prob).mean()


class Rows:
    """One task's rows."""

    def __init__(self, batch: ContextBatch | TransitionBatch, task: int) -> None:
        outcomes = batch.outcomes
        assert outcomes is not None
        self.s, self.a = batch.observation[task], batch.action[task]
        self.to_go, self.steps = outcomes.return_to_go[task], outcomes.steps_to_go[task]
        self.final_s, self.ends = outcomes.final_observation[task], outcomes.final_terminated[task]


def descend(
    loss_of: Callable[[Parameters], Tensor], parameters: Parameters, rates: Tensor
) -> Parameters:
    """The parameters after one step, each tensor with a rate of its own."""
    gradients = grad(loss_of)(parameters)
    each = zip(parameters.items(), F.softplus(rates), strict=True)
    return {name: value - rate * gradients[name] for (name, value), rate in each}


def layers_of(network: TransformedNetwork) -> list[TransformedLinear]:
    return [
        TransformedLinear(transform, *size)  # type: ignore[arg-type]
        for transform, size in zip(network.transforms, network.sizes, strict=True)
    ]
