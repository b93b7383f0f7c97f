"""Networks that several algorithms share: plain ReLU perceptrons and what is built from them."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LOG_STD_RANGE = (-20.0, 2.0)
LOG_RATIO_BOUND = 10.0  # nats: exp() of it is taken


class Perceptron(nn.Sequential):
    """Linear layers with a ReLU between each two: `Perceptron([3, 64, 64, 1])`."""

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


class EnsemblePerceptron(nn.Module):
    """E perceptrons of one shape, evaluated in one batched product per layer."""

    def __init__(self, widths: Sequence[int], members: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(widths):
            bound = 1.0 / math.sqrt(inputs)  # nn.Linear's own initial distribution
            self.weights.append(
                nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
            )
            self.biases.append(
                nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))
            )

    def forward(self, x: Float[Tensor, "M I"]) -> Float[Tensor, "E M J"]:
        """Every member's output for the same inputs."""
        members = len(self.weights[0])
        hidden = x.expand(members, *x.shape)
        *inner, (weight, bias) = zip(self.weights, self.biases, strict=True)
        for inner_weight, inner_bias in inner:
            hidden = F.relu(torch.baddbmm(inner_bias, hidden, inner_weight))
        # In full precision: bfloat16 would round a value of 500 to a multiple of 2.
        with torch.autocast(x.device.type, enabled=False):
            return torch.baddbmm(bias, hidden.to(bias.dtype), weight)


class Critics(nn.Module):
    """E action values of [s, a, z]: the minimum over them is the pessimistic value."""

    def __init__(
        self, observation: int, action: int, latent: int, hidden: Sequence[int], members: int = 2
    ) -> None:
        super().__init__()
        self.body = EnsemblePerceptron([observation + action + latent, *hidden, 1], members)

    def forward(
        self, s: Float[Tensor, "N B O"], a: Float[Tensor, "N B A"], z: Float[Tensor, "N Z"]
    ) -> Float[Tensor, "E N B"]:
        """Q_k(s, a, z) for each member k."""
        x = torch.cat([s, a, spread(z, s)], dim=-1)
        q: Tensor = self.body(x.flatten(0, 1))  # [E, N * B, 1]
        return q.reshape(-1, *x.shape[:2])


class StateValue(nn.Module):
    """The value of [s; z]."""

    def __init__(self, observation: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = Perceptron([observation + latent, *hidden, 1])

    def forward(self, s: Float[Tensor, "N B O"], z: Float[Tensor, "N Z"]) -> Float[Tensor, "N B"]:
        """V(s, z)."""
        value: Tensor = self.body(torch.cat([s, spread(z, s)], dim=-1))
        return value[..., 0]


class LogRatio(nn.Module):
    """How much likelier an action is under one policy than under another, in nats, bounded."""

    def __init__(self, observation: int, action: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = Perceptron([observation + action + latent, *hidden, 1])

    def forward(
        self, s: Float[Tensor, "N B O"], a: Float[Tensor, "N B A"], z: Float[Tensor, "N Z"]
    ) -> Float[Tensor, "N B"]:
        """The logarithm of the ratio at a, within +-10."""
        raw: Tensor = self.body(torch.cat([s, a, spread(z, s)], dim=-1))
        return LOG_RATIO_BOUND * torch.tanh(raw[..., 0] / LOG_RATIO_BOUND)


class GaussianEncoder(nn.Module):
    """One Gaussian factor over z per transition: mean and softplus variance."""

    def __init__(self, inputs: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = Perceptron([inputs, *hidden, 2 * latent])

    def forward(
        self, x: Float[Tensor, "N K I"]
    ) -> tuple[Float[Tensor, "N K Z"], Float[Tensor, "N K Z"]]:
        """Means and variances of the factors."""
        mean, raw_variance = self.body(x).chunk(2, dim=-1)
        return mean, F.softplus(raw_variance)


class PointEncoder(nn.Module):
    """One point in (-1, 1)^Z per transition."""

    def __init__(self, inputs: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = Perceptron([inputs, *hidden, latent])

    def forward(self, x: Float[Tensor, "N K I"]) -> Float[Tensor, "N K Z"]:
        """The points."""
        return torch.tanh(self.body(x))


class RewardDecoder(nn.Module):
    """The reward that [s, a, z], and s' where it matters, would have earned."""

    def __init__(self, inputs: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = Perceptron([inputs + latent, *hidden, 1])

    def forward(self, x: Float[Tensor, "N B I"], z: Float[Tensor, "N Z"]) -> Float[Tensor, "N B"]:
        """Predicted rewards, unscaled."""
        output: Tensor = self.body(torch.cat([x, spread(z, x)], dim=-1))
        return output[..., 0]


class TransitionDecoder(nn.Module):
    """What follows [s, a] in the task of z: how the observation changes, and the reward."""

    def __init__(self, observation: int, action: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = Perceptron([observation + action + latent, *hidden, observation + 1])

    def forward(
        self, s: Float[Tensor, "N B O"], a: Float[Tensor, "N B A"], z: Float[Tensor, "N Z"]
    ) -> tuple[Float[Tensor, "N B O"], Float[Tensor, "N B"]]:
        """The change of the observation, and the reward, unscaled."""
        output: Tensor = self.body(torch.cat([s, a, spread(z, s)], dim=-1)).float()
        return output[..., :-1], output[..., -1]


class TanhGaussianActor(nn.Module):
    """tanh(u), u ~ N(mean(s, z), exp(log_std(s, z))^2), the log-std clamped to [-20, 2]."""

    def __init__(self, observation: int, action: int, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = Perceptron([observation + latent, *hidden, 2 * action])

    def forward(
        self, s: Float[Tensor, "N B O"], z: Float[Tensor, "N Z"]
    ) -> tuple[Float[Tensor, "N B A"], Float[Tensor, "N B A"]]:
        """Mean and log standard deviation before the tanh."""
        mean, log_std = self.body(torch.cat([s, spread(z, s)], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE)


def spread(z: Float[Tensor, "N Z"], like: Float[Tensor, "N B _"]) -> Float[Tensor, "N B Z"]:
    """Each task's z beside each of its transitions."""
    return z[:, None, :].expand(-1, like.shape[1], -1)


def call_detached(module: nn.Module, *inputs: Tensor) -> Tensor:
    """The module's output: gradients pass to its inputs and none to its parameters."""
    frozen = {name: p.detach() for name, p in module.named_parameters()}
    output: Tensor = torch.func.functional_call(module, frozen, inputs)
    return output
