"""The losses that train what infers the task: what several context-based methods share.

Each is a pure function of tensors.
"""

from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from causeway.learners.formulas import kl_to_standard_normal, masked_mean


def reward_loss(
    predicted: Float[Tensor, "N B"],
    reward: Float[Tensor, "N B"],
    mask: Bool[Tensor, "N B"] | None,
    *,
    reduction: Literal["rl_batch", "context_sum"],
) -> Float[Tensor, ""]:
    """The decoder's squared error on unscaled rewards; it trains decoder and encoder.

        L_reward = E [ (r_hat(s, a, z) - r)^2 ]                      "rl_batch"
        L_reward = E_tasks [ sum_{(s,a,r) in h} (r_hat(s, a, z) - r)^2 ]  "context_sum"

    Pong et al. 2022 (arXiv:2107.03974), sec. 5.1, is the second. Departs from it by
    default: the mean over the RL batch, as in the authors' code, where the loss does
    not grow with the size of the context.

    Args:
        predicted: by the decoder.
        reward: unscaled.
        mask: True for real transitions; None where there is no padding.
        reduction: which of the two.
    """
    error = (predicted - reward).square()
    if mask is not None:
        error = torch.where(mask, error, 0.0)
    match reduction:
        case "rl_batch":
            return error.mean() if mask is None else error.sum() / mask.sum().clamp_min(1)
        case "context_sum":
            return error.sum(1).mean()
        case _:
            assert_never(reduction)


def kl_loss(
    belief: Float[Tensor, "N 2 Z"], *, kl_weight: float, over_tasks: Literal["mean", "sum"]
) -> Float[Tensor, ""]:
    """kl_weight * KL(q(z|h) || N(0, I)): nats, summed over Z, mean (or PEARL's sum) over tasks."""
    kl = kl_to_standard_normal(belief)
    return kl_weight * (kl.mean() if over_tasks == "mean" else kl.sum())


def distance_loss(z: Float[Tensor, "M Z"], task: Int[Tensor, "M"]) -> Float[Tensor, ""]:
    """Pulls latents of one task together and pushes those of two apart.

        L = mean_{i<j, same} sqrt(d_ij + 0.001) + mean_{i<j, different} 1 / (d_ij + 0.1)
        d_ij = mean over dimensions of (z_i - z_j)^2

    FOCAL, Li, Yang and Luo 2021 (arXiv:2010.01112), sec. 4.1, eq. (13), with the inverse power and
    the constants of the authors' code. A kind of pair that is not there counts 0.

    Args:
        z: latents; several of one task, so that there are pairs to pull together.
        task: whose latent it is.
    """
    distance = (z[:, None] - z[None]).square().mean(-1)  # [M, M]
    pair = torch.ones_like(distance, dtype=torch.bool).triu(1)
    same = task[:, None] == task[None]
    near, far = pair & same, pair & ~same
    pulled = torch.where(near, (distance + 1e-3).sqrt(), 0.0).sum() / near.sum().clamp_min(1)
    pushed = torch.where(far, 1.0 / (distance + 0.1), 0.0).sum() / far.sum().clamp_min(1)
    return pulled + pushed


def halves_of(
    points: Float[Tensor, "N K Z"], mask: Bool[Tensor, "N K"]
) -> tuple[Float[Tensor, "2*N Z"], Float[Tensor, "N Z"]]:
    """Two latents of every task, each from every other point of its context, and that of all.

    The first halves of the N tasks come first, then the second ones.
    """
    first = masked_mean(points[:, 0::2], mask[:, 0::2])
    second = masked_mean(points[:, 1::2], mask[:, 1::2])
    return torch.cat([first, second]), masked_mean(points, mask)


def info_nce(
    anchor: Float[Tensor, "M Z"],
    positive: Float[Tensor, "M Z"],
    negative: Float[Tensor, "M n Z"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Picks out each anchor's positive among its negatives, by the product of unit vectors.

        L = -mean_i log[ e(z_i . z'_i) / (e(z_i . z'_i) + sum_n e(z_i . z*_in)) ]

    with e(x) = exp(x / T). van den Oord et al. 2018 (arXiv:1807.03748), eq. (4); CORRO, Yuan and
    Lu 2022 (arXiv:2206.10442), sec. 4.1, eq. (4). Gradients go through all three.

    Args:
        anchor: of unit length.
        positive: of unit length, one for each anchor.
        negative: of unit length, n for each anchor.
        temperature: T, > 0; divides.
    """
    near = (anchor * positive).sum(-1, keepdim=True)  # [M, 1]
    far = (anchor[:, None] * negative).sum(-1)  # [M, n]
    logits = torch.cat([near, far], dim=1) / temperature
    return -logits.log_softmax(1)[:, 0].mean()


def nce_information(
    left: Float[Tensor, "M Z"],
    right: Float[Tensor, "M Z"],
    task: Int[Tensor, "M"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """A lower bound of the mutual information of two vectors, in nats, by InfoNCE.

        I = mean_i ( log n_i + log[ e(l_i, r_i) / (e(l_i, r_i) + sum_j e(l_i, r_j)) ] )

    over all j of other tasks; e is the exponential of the cosine over T, n_i counts the terms of
    the denominator. DOMINO,
    Mu et al. 2022 (arXiv:2210.04209), sec. 3.2. Departs from the authors' code, which draws
    positives and negatives at random: negatives are of other tasks, by their ids.

    Args:
        left: one vector for each of M windows.
        right: the vector that belongs to it.
        task: of the window.
        temperature: T, > 0; divides.
    """
    cosine = F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T  # [M, M]
    allowed = (task[:, None] != task[None]) | torch.eye(
        len(task), dtype=torch.bool, device=task.device
    )
    logits = torch.where(allowed, cosine / temperature, -torch.inf)
    return (allowed.sum(1).to(logits.dtype).log() + logits.log_softmax(1).diagonal()).mean()


def hsic(left: Float[Tensor, "M Z"], right: Float[Tensor, "M Y"]) -> Float[Tensor, ""]:
    """How dependent two vectors are, by kernels of unit width; 0 where they are independent.

        HSIC = tr(K H L H) / (M - 1)^2,    K_ij = exp(-|l_i - l_j|^2 / 2), L alike, H = I - 1/M

    Gretton et al. 2005, eq. (9).
    """
    size = len(left)
    kernels = []
    for x in (left, right):
        squared = (x[:, None] - x[None]).square().sum(-1)
        kernel = torch.exp(-0.5 * squared)
        kernels.append(kernel - kernel.mean(0, keepdim=True))  # K H, up to the side
    return (kernels[0] * kernels[1].T).sum() / (size - 1) ** 2
