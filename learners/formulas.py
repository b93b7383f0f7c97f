"""Formulas that several algorithms share: beliefs, divergences, squashed Gaussians, moving targets.

Each is a pure function of tensors, except `polyak_update_`, whose underscore says that it writes.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

MIN_FACTOR_VARIANCE = 1e-7  # of one transition's Gaussian; the authors' clamp
MAX_SQUASHED_ACTION = 0.999999  # data actions are pulled inside (-1, 1) before atanh


def product_of_gaussians(
    mean: Float[Tensor, "N K Z"], variance: Float[Tensor, "N K Z"], mask: Bool[Tensor, "N K"]
) -> Float[Tensor, "N 2 Z"]:
    """The belief that K Gaussian factors agree on: mean and variance, stacked.

        variance = 1 / sum_k 1 / variance_k,     mean = variance * sum_k mean_k / variance_k

    Rakelly et al. 2019 (arXiv:1903.08254), sec. 4, eq. (2); no factor for the prior, as in PEARL
    and SMAC. The order of the context and whatever stands in its padding change nothing.

    Args:
        mean: of each transition's factor.
        variance: of each factor, > 0; clamped from below at 1e-7.
        mask: True for real transitions. A task with none gets the prior N(0, I).
    """
    precision = 1.0 / variance.clamp_min(MIN_FACTOR_VARIANCE)
    precision = torch.where(mask[..., None], precision, 0.0)
    weighted = torch.where(mask[..., None], mean * precision, 0.0)
    total = precision.sum(1)  # [N, Z]
    some = mask.any(1)[:, None]  # [N, 1]
    belief_variance = 1.0 / torch.where(some, total, 1.0)
    return torch.stack([belief_variance * weighted.sum(1), belief_variance], dim=1)


def masked_mean(values: Float[Tensor, "N K Z"], mask: Bool[Tensor, "N K"]) -> Float[Tensor, "N Z"]:
    """The mean over the transitions that are there; 0 where there is none."""
    real = torch.where(mask[..., None], values, 0.0)
    return real.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def kl_to_standard_normal(belief: Float[Tensor, "N 2 Z"]) -> Float[Tensor, "N"]:
    """KL(N(mean, variance) || N(0, I)) in nats, summed over latent dimensions."""
    mean, variance = belief[:, 0], belief[:, 1]
    return 0.5 * (variance + mean.square() - 1.0 - variance.log()).sum(-1)


def kl_between_gaussians(
    p: Float[Tensor, "N 2 Z"], q: Float[Tensor, "N 2 Z"]
) -> Float[Tensor, "N"]:
    """KL(p || q) of diagonal Gaussians (mean and variance stacked) in nats."""
    (p_mean, p_variance), (q_mean, q_variance) = p.unbind(1), q.unbind(1)
    distance = (p_mean - q_mean).square() / q_variance
    return 0.5 * (p_variance / q_variance + distance - 1.0 - (p_variance / q_variance).log()).sum(
        -1
    )


def standard_normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws from N(0, 1), of the shape, on the device where `like` is."""
    return torch.randn(shape, generator=generator, device=like.device)


def draw_gaussian(
    belief: Float[Tensor, "N 2 Z"], noise: Float[Tensor, "N Z"]
) -> Float[Tensor, "N Z"]:
    """Mean + sqrt(variance) * noise: differentiable in the belief (reparameterised)."""
    return belief[:, 0] + belief[:, 1].sqrt() * noise


def tanh_log_jacobian(raw: Tensor) -> Tensor:
    """Log |d tanh(u) / du| per element, stable for large |u|: 2 (log 2 - u - softplus(-2u))."""
    return 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))


def tanh_gaussian_log_prob(
    action: Float[Tensor, "*batch A"],
    mean: Float[Tensor, "*batch A"],
    log_std: Float[Tensor, "*batch A"],
) -> Float[Tensor, "*batch"]:
    """Log-density, in nats, of tanh(u) = action where u ~ N(mean, exp(log_std)^2).

    Haarnoja et al. 2018 (arXiv:1801.01290), appendix C, eq. (21), summed over action dimensions.
    Actions are clamped to +-0.999999: a data set's actions may stand on the bound.
    """
    raw = torch.atanh(action.clamp(-MAX_SQUASHED_ACTION, MAX_SQUASHED_ACTION))
    normalised = (raw - mean) * torch.exp(-log_std)
    gaussian = -0.5 * normalised.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    return (gaussian - tanh_log_jacobian(raw)).sum(-1)


def squashed_draw(
    mean: Float[Tensor, "*batch A"],
    log_std: Float[Tensor, "*batch A"],
    noise: Float[Tensor, "*batch A"],
) -> tuple[Float[Tensor, "*batch A"], Float[Tensor, "*batch"]]:
    """An action tanh(u), u = mean + exp(log_std) noise, and its log-density in nats.

    The density of `tanh_gaussian_log_prob`, taken from u itself: no atanh loses what tanh rounded
    off. Differentiable in mean and log_std (reparameterised).

    Args:
        mean: of u.
        log_std: of u.
        noise: of the standard normal distribution.
    """
    raw = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    return torch.tanh(raw), (gaussian - tanh_log_jacobian(raw)).sum(-1)


@torch.no_grad()
def polyak_update_(targets: Iterable[Tensor], sources: Iterable[Tensor], rate: float) -> None:
    """Moves each target towards its source: target <- (1 - rate) target + rate source."""
    torch._foreach_lerp_(list(targets), list(sources), rate)
