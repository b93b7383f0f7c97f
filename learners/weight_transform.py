"""Layers whose weights are a linear map of a latent, and gradient steps on them for many tasks.

Mitchell et al. 2021 (arXiv:2008.06043), sec. 4.3: with theta = W z + b the gradient of a layer's
weights reaches them through W and z as well, which makes one inner step far more expressive.

For task n, whose gradient of the layer's weights is g = dL/dtheta, the parameters' gradients are
dL/dz = W^T g, dL/dW = g z^T and dL/db = g. The second has rank one, so a step with the rates
eta_z, eta_W and eta_b leaves

    z' = z - eta_z W^T g,    theta' = W z' + b - (eta_W <z, z'> + eta_b) g.

The adapted W, a million numbers for each task and layer, is therefore never formed: all tasks go
through the shared W in one product. After S steps W has moved by -eta_W sum_k g_k z_k^T, which the
later steps take into account in the same way. This is exact, not an approximation.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

MAX_INITIAL = 0.1  # of W and b, which start uniform within +- this; the authors' code

Theta = Sequence[Tensor]  # each transform's output for N tasks, [N, P], in the network's order


class Transform(nn.Module):
    """theta = W z + b, [P]; or, without a latent, the plain parameter theta = b."""

    def __init__(
        self, offset: Float[Tensor, "P"], latent: Tensor | None, matrix: Tensor | None
    ) -> None:
        super().__init__()
        self.offset = nn.Parameter(offset)
        self.latent = None if latent is None else nn.Parameter(latent)  # z, [D]
        self.matrix = None if matrix is None else nn.Parameter(matrix)  # W, [P, D]

    def tensors(self) -> list[nn.Parameter]:
        """The parameters in the order of their rates: z and W where there are such, then b."""
        return [t for t in (self.latent, self.matrix, self.offset) if t is not None]


class TransformedNetwork(nn.Module):
    """Linear layers that are given their weights, and the transforms that these come from.

    Args:
        sizes: inputs and outputs of each layer.
        latent_dim: D, of each layer's own z. None is the ablation: weights are plain parameters and
            only a layer's bias has a latent part, b = a + U c.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], latent_dim: int | None) -> None:
        super().__init__()
        self.sizes, self._is_plain = tuple(sizes), latent_dim is None
        self.transforms = nn.ModuleList()
        for inputs, outputs in sizes:
            if latent_dim is None:
                self.transforms.extend(_plain_layer(inputs, outputs))
            else:
                self.transforms.append(_transformed_layer(inputs, outputs, latent_dim))

    def tensors(self) -> list[nn.Parameter]:
        """Every parameter in the order of its inner rate."""
        return [tensor for transform in self._all() for tensor in transform.tensors()]

    def linear(self, layer: int, theta: Theta, x: Float[Tensor, "N B I"]) -> Float[Tensor, "N B J"]:
        """The layer's output, each task with weights of its own."""
        inputs, outputs = self.sizes[layer]
        if self._is_plain:
            weight, bias = theta[2 * layer : 2 * layer + 2]
        else:
            weight, bias = torch.split(theta[layer], [inputs * outputs, outputs], dim=1)
        return torch.baddbmm(bias[:, None], x, weight.view(-1, inputs, outputs))

    def widths(self) -> list[int]:
        """P of each transform."""
        return [len(t.offset) for t in self._all()]

    def adaptation(
        self, rates: Float[Tensor, "tensors"], *, num_tasks: int, max_steps: int
    ) -> "Adaptation":
        """The parameters of N tasks before their first step.

        Args:
            rates: of the inner steps, one for each of `tensors()`; differentiable.
            num_tasks: N.
            max_steps: how many steps may be taken.
        """
        paths, at = [], 0
        for transform in self._all():
            count = len(transform.tensors())
            own = rates[at : at + count].unbind()
            # Whatever layers are computed in, their weights are made in their own precision.
            with torch.autocast(rates.device.type, enabled=False):
                paths.append(_Path(transform, own, num_tasks, max_steps))
            at += count
        return Adaptation(paths)

    def start(self, num_tasks: int) -> "Adaptation":
        """The same for steps that are never taken."""
        rates = self._all()[0].offset.new_zeros(len(self.tensors()))
        return self.adaptation(rates, num_tasks=num_tasks, max_steps=0)

    def _all(self) -> list[Transform]:
        return [t for t in self.transforms if isinstance(t, Transform)]


class Adaptation:
    """N tasks' own parameters after some gradient steps, as what the steps were."""

    def __init__(self, paths: "Sequence[_Path]") -> None:
        self._paths = paths

    @property
    def theta(self) -> list[Tensor]:
        """The layers' weights of every task, differentiable in parameters, rates and gradients."""
        return [path.theta for path in self._paths]

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step down, for each task along the gradient of its own loss in its own `theta`."""
        device = gradients[0].device.type
        with torch.autocast(device, enabled=False):
            for path, gradient in zip(self._paths, gradients, strict=True):
                path.step(gradient)

    def descend(
        self, losses_of: Callable[[Theta], Float[Tensor, "N"]], second_order: bool
    ) -> Float[Tensor, "N"]:
        """One step of each task down its own loss; gives the losses, without gradient.

        Args:
            losses_of: each task's loss, of its own weights.
            second_order: whether the step's gradient may be differentiated itself.
        """
        theta = self.theta
        if not second_order:
            theta = [one.detach().requires_grad_() for one in theta]
        with torch.enable_grad():
            losses = losses_of(theta)
            gradients = torch.autograd.grad(losses.sum(), theta, create_graph=second_order)
        self.step(gradients)
        return losses.detach()

    @torch.no_grad()
    def following(self, rate: float) -> list[Tensor]:
        """The weights of a network that followed the steps: phi_t <- (1 - rate) phi_t + rate phi.

        Its own parameters z, W and b follow, from where the steps began. Without gradient.
        """
        device = self._paths[0].theta.device.type
        with torch.autocast(device, enabled=False):
            return [path.following(rate) for path in self._paths]


class _Path:
    """One transform's parameters along the steps of N tasks."""

    def __init__(
        self, transform: Transform, rates: Sequence[Tensor], num_tasks: int, max_steps: int
    ) -> None:
        self._transform, self._rates = transform, rates
        self._steps: list[tuple[Tensor, Tensor | None]] = []  # each one's gradient, and z before it
        self.latent: Tensor | None = None
        theta: Tensor = transform.offset
        if transform.latent is not None and transform.matrix is not None:
            rows = [1] + [num_tasks] * 2 * max_steps  # of W z, then of each step's two products
            self._products = _Products(transform.matrix, rows)
            self.latent = transform.latent.expand(num_tasks, -1)
            theta = self._products.times(transform.latent[None])[0] + theta
        self.theta = theta.expand(num_tasks, -1)
        self._bases = [self.theta.detach()]  # W z + b before each step and behind the last

    def step(self, gradient: Float[Tensor, "N P"]) -> None:
        if self.latent is not None:
            pulled = self._products.transposed_times(gradient)  # W^T g
            for earlier, latent in self._steps:
                assert latent is not None
                pulled = pulled - self._rates[1] * _dot(earlier, gradient) * latent
            self._steps.append((gradient, self.latent))
            self.latent = self.latent - self._rates[0] * pulled
            base = self._products.times(self.latent) + self._transform.offset
        else:
            self._steps.append((gradient, None))
            base = self._transform.offset.expand_as(gradient)
        self._bases.append(base.detach())
        self.theta = self._behind(base, self.latent, [1.0] * len(self._steps))

    def following(self, rate: float) -> Float[Tensor, "N P"]:
        count = len(self._steps)
        shares = [1.0 - (1.0 - rate) ** (count - k) for k in range(count)]  # of each step
        base, latent = self._bases[0], None
        for behind in self._bases[1:]:  # W z + b follows as z does
            base = torch.lerp(base, behind, rate)
        if self.latent is not None:
            path = [z for _, z in self._steps if z is not None] + [self.latent]
            latent = path[0]
            for z in path[1:]:
                latent = torch.lerp(latent, z, rate)
        return self._behind(base, latent, shares)

    def _behind(self, base: Tensor, latent: Tensor | None, shares: Sequence[float]) -> Tensor:
        """What the steps' own moves of W and b add to W z + b, each to its share."""
        theta = base
        for (gradient, before), share in zip(self._steps, shares, strict=True):
            coefficient = self._rates[-1]
            if latent is not None and before is not None:
                coefficient = self._rates[1] * _dot(before, latent) + coefficient
            theta = torch.addcmul(theta, coefficient, gradient, value=-share)
        return theta


class _Products:
    """Products with W whose gradient of W, a sum of matrices of low rank, is formed in one go.

    Plain products would each write, and add up, a gradient as large as W. Here each one's backward
    pass hands its two factors to a slot, and the slots' owner multiplies all factors at once.
    """

    def __init__(self, matrix: Tensor, rows: Sequence[int]) -> None:
        self._matrix = matrix.detach()
        self._slots = list(_Slots.apply(matrix, tuple(rows)))  # type: ignore[no-untyped-call]

    def times(self, x: Float[Tensor, "R D"]) -> Float[Tensor, "R P"]:
        """W x, for each x; differentiable."""
        y: Tensor = _Times.apply(self._slots.pop(0), x, self._matrix)  # type: ignore[no-untyped-call]
        return y

    def transposed_times(self, y: Float[Tensor, "R P"]) -> Float[Tensor, "R D"]:
        """W^T y, for each y; differentiable."""
        x: Tensor = _TransposedTimes.apply(self._slots.pop(0), y, self._matrix)  # type: ignore[no-untyped-call]
        return x


class _Slots(torch.autograd.Function):
    """One empty slot [R, P + D] per product: the "gradient" of a slot is the product's factors."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.num_outputs = len(matrix)
        width = sum(matrix.shape)
        return tuple(matrix.new_zeros(()).expand(count, width) for count in rows)

    @staticmethod
    def backward(ctx: Any, *factors: Tensor | None) -> tuple[Tensor | None, None]:
        given = [pair for pair in factors if pair is not None]
        if not given:
            return None, None
        every = torch.cat(given)
        left, right = torch.split(every, [ctx.num_outputs, every.shape[1] - ctx.num_outputs], dim=1)
        return left.T @ right, None


class _Times(torch.autograd.Function):
    """W x; the gradient of W is that of the output times x."""

    @staticmethod
    def forward(ctx: Any, slot: Tensor, x: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(x, matrix)
        return _rows_times(matrix, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, matrix = ctx.saved_tensors
        return torch.cat([gradient, x], dim=1), gradient @ matrix, None


class _TransposedTimes(torch.autograd.Function):
    """W^T y; the gradient of W is y times that of the output."""

    @staticmethod
    def forward(ctx: Any, slot: Tensor, y: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(y, matrix)
        return y @ matrix

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        y, matrix = ctx.saved_tensors
        return torch.cat([y, gradient], dim=1), _rows_times(matrix, gradient), None


def _rows_times(matrix: Float[Tensor, "P D"], x: Float[Tensor, "R D"]) -> Float[Tensor, "R P"]:
    """W x, for each x: libraries are quicker at many rows times few columns than the reverse."""
    return (matrix @ x.T).T.contiguous()


def _transformed_layer(inputs: int, outputs: int, latent_dim: int) -> Transform:
    """One transform that gives weight and bias together."""
    width = inputs * outputs + outputs
    return Transform(
        offset=torch.empty(width).uniform_(-MAX_INITIAL, MAX_INITIAL),
        latent=torch.randn(latent_dim) / outputs,
        matrix=torch.empty(width, latent_dim).uniform_(-MAX_INITIAL, MAX_INITIAL),
    )


def _plain_layer(inputs: int, outputs: int) -> tuple[Transform, Transform]:
    """The weight as it is, and a bias with a latent part; nn.Linear's initial distribution."""
    bound = 1.0 / math.sqrt(inputs)
    weight = Transform(torch.empty(inputs * outputs).uniform_(-bound, bound), None, None)
    bias = Transform(
        offset=torch.empty(outputs).uniform_(-bound, bound),
        latent=torch.randn(outputs) / outputs,
        matrix=nn.init.xavier_uniform_(torch.empty(outputs, outputs)),
    )
    return weight, bias


def _dot(left: Float[Tensor, "N D"], right: Float[Tensor, "N D"]) -> Float[Tensor, "N 1"]:
    return (left * right).sum(1, keepdim=True)


class TransformedPolicy(TransformedNetwork):
    """The mean of a Gaussian policy and, where asked for, a head that predicts advantages.

    Args:
        observation: O.
        action: A.
        hidden: widths of the policy's hidden layers.
        head_hidden: width of the advantage head's hidden layer; None: no head.
        latent_dim: see `TransformedNetwork`.
    """

    def __init__(
        self,
        observation: int,
        action: int,
        hidden: Sequence[int],
        head_hidden: int | None,
        latent_dim: int | None,
    ) -> None:
        self.action_size = action
        sizes = list(pairwise([observation, *hidden, action]))
        self.num_body_layers = len(sizes)
        if head_hidden is not None:
            sizes += [(hidden[-1] + action, head_hidden), (head_hidden, 1)]
        super().__init__(sizes, latent_dim)
        per_layer = len(self.transforms) // len(sizes)
        self.num_body_transforms = per_layer * self.num_body_layers  # they come first

    def forward(
        self, theta: Theta, s: Float[Tensor, "N B O"]
    ) -> tuple[Float[Tensor, "N B A"], Float[Tensor, "N B H"]]:
        """The mean, within [-1, 1], and the last hidden layer, behind its ReLU."""
        hidden = s
        for layer in range(self.num_body_layers - 1):
            hidden = F.relu(self.linear(layer, theta, hidden))
        return torch.tanh(self.linear(self.num_body_layers - 1, theta, hidden)), hidden

    def advantage(
        self,
        theta: Theta,
        hidden: Float[Tensor, "N B H"],
        a: Float[Tensor, "N B A"],
        *,
        rectifies_action: bool,
    ) -> Float[Tensor, "N B"]:
        """The head's A(s, a), from what `forward` gave."""
        action = F.relu(a) if rectifies_action else a
        x = torch.cat([hidden, action.to(hidden.dtype)], dim=-1)
        x = F.relu(self.linear(self.num_body_layers, theta, x))
        return self.linear(self.num_body_layers + 1, theta, x)[..., 0]


class TransformedValue(TransformedNetwork):
    """The value of a state."""

    def __init__(self, observation: int, hidden: Sequence[int], latent_dim: int | None) -> None:
        super().__init__(list(pairwise([observation, *hidden, 1])), latent_dim)

    def forward(self, theta: Theta, s: Float[Tensor, "N B O"]) -> Float[Tensor, "N B"]:
        """V(s), in reward units."""
        x = self.linear(0, theta, s)
        for layer in range(1, len(self.sizes)):
            x = self.linear(layer, theta, F.relu(x))
        return x[..., 0]


def initial_rates(network: TransformedNetwork, rate: float) -> nn.Parameter:
    """A rate for each parameter tensor, before softplus, so that learning keeps it positive."""
    return nn.Parameter(torch.full((len(network.tensors()),), inverse_softplus(rate)))


def inverse_softplus(value: float) -> float:
    """What softplus makes `value` of."""
    return math.log(math.expm1(value))
