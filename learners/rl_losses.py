"""The losses of the inner RL: what critics and actor on [s; z] minimise, whatever infers z.

Each is a pure function of tensors that stops the gradients it must not send. Four methods are
made of them, by the names of `ActorCriticConfig.inner_rl`:

    awac  advantage-weighted regression, a state's value being Q at a fresh action
    iql   the same, a state's value being an expectile of Q over the data's actions
    sac   soft actor-critic with a fixed entropy weight: for buffers that cover the actions
    brac  -Q and a penalty on the policy's divergence from the data's actions, estimated by its dual
"""

from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Weighting = Literal["batch_softmax", "task_softmax", "exponential"]


def critic_target(
    reward: Float[Tensor, "N B"],
    terminated: Bool[Tensor, "N B"],
    next_q: Float[Tensor, "E N B"],
    *,
    reward_scale: float,
    discount: float,
) -> Float[Tensor, "N B"]:
    """The critics' regression target; a time limit bootstraps, a true end does not.

        y = c r + discount (1 - terminated) min_k Q'_k(s', a', z)

    Pong et al. 2022 (arXiv:2107.03974), sec. 5.1, with the twin critics of the authors' code. Sends
    no gradient.

    Args:
        reward: unscaled, as the environment or the decoder gave it.
        terminated: true ends only, never time limits.
        next_q: target critics at s' and a' ~ pi(.|s', z); for IQL the one value V(s', z).
        reward_scale: c.
        discount: in [0, 1).
    """
    bootstrap = torch.where(terminated, 0.0, next_q.amin(0))
    return (reward_scale * reward + discount * bootstrap).detach()


def soft_target(
    reward: Float[Tensor, "N B"],
    terminated: Bool[Tensor, "N B"],
    next_q: Float[Tensor, "E N B"],
    next_log_prob: Float[Tensor, "N B"],
    entropy_weight: Float[Tensor, ""] | float,
    *,
    reward_scale: float,
    discount: float,
) -> Float[Tensor, "N B"]:
    """The same with an entropy bonus.

        y = c r + discount (1 - terminated) (min_k Q'_k(s', a') - alpha log pi(a' | s'))

    Haarnoja et al. 2018 (arXiv:1812.05905), sec. 4.2, eqs. (3) and (5). Sends no gradient.

    Args:
        reward: unscaled.
        terminated: true ends only, never time limits.
        next_q: target critics at s' and a' ~ pi(. | s').
        next_log_prob: of a', nats.
        entropy_weight: alpha, in scaled reward units per nat.
        reward_scale: c.
        discount: in [0, 1).
    """
    value = next_q.amin(0) - entropy_weight * next_log_prob
    return (reward_scale * reward + discount * torch.where(terminated, 0.0, value)).detach()


def critic_loss(q: Float[Tensor, "E N B"], target: Float[Tensor, "N B"]) -> Float[Tensor, ""]:
    """Squared error to the target: mean over transitions, sum over the critics.

        L_critic = sum_k E_{B, z} [ (Q_k(s, a, z) - y)^2 ]

    Pong et al. 2022, sec. 5.1. `target` gets no gradient.
    """
    return (q - target.detach()).square().mean((1, 2)).sum()


def expectile_loss(
    value: Float[Tensor, "N B"], q: Float[Tensor, "E N B"], *, expectile: float
) -> Float[Tensor, ""]:
    """Asymmetric squared error: V tends to the expectile of Q over the data's actions.

        L_V = E [ |expectile - 1(d < 0)| d^2 ],    d = min_k Q'_k(s, a, z) - V(s, z)

    Kostrikov et al. 2021 (arXiv:2110.06169), sec. 4.1, eq. (5). `q` gets no gradient. An expectile
    of 0.5 gives half the mean squared error.
    """
    error = q.detach().amin(0) - value
    weight = (expectile - (error < 0).to(error.dtype)).abs()
    return (weight * error.square()).mean()


def advantage_weights(
    advantage: Float[Tensor, "N B"],
    *,
    weighting: Weighting,
    temperature: float,
    max_weight: float,
) -> Float[Tensor, "N B"]:
    """How much each transition counts in the actor's regression; sends no gradient.

    w = exp(A / temperature), clipped at max_weight     "exponential": Pong et al., sec. 5.1; IQL
    w = n softmax(A / temperature) over the meta-batch  "batch_softmax": the authors' code
    w = B softmax(A / temperature) over each task       "task_softmax": no task eats another's
    """
    scaled = (advantage / temperature).detach()
    match weighting:
        case "exponential":
            return scaled.exp().clamp(max=max_weight)
        case "batch_softmax":
            return scaled.flatten().softmax(0).view_as(scaled) * scaled.numel()
        case "task_softmax":
            return scaled.softmax(1) * scaled.shape[1]
        case _:
            assert_never(weighting)


def actor_loss(log_prob: Float[Tensor, "N B"], weight: Float[Tensor, "N B"]) -> Float[Tensor, ""]:
    """Advantage-weighted regression onto the data's own actions.

        L_actor = -E_{B, z} [ w(A) log pi(a | s, z) ]
        A(s, a, z) = min_k Q_k(s, a, z) - V(s, z)

    Pong et al. 2022, sec. 5.1. Departs from it: the value of a state is min_k Q_k at a fresh action
    a~ ~ pi, as in the authors' code, which has no V network; IQL has one. `weight` gets no
    gradient.
    """
    return -(weight.detach() * log_prob).mean()


def reparameterised_loss(q: Float[Tensor, "E N B"], *, weight: float) -> Float[Tensor, ""]:
    """-weight * E[ min_k Q_k(s, a~, z) ], through a~: policy improvement beyond the data's actions.

    SMAC's authors' code adds it online; it is not in the paper's equations. The caller passes
    critics whose parameters are detached, so that the gradient reaches the actor alone. There is
    no entropy term.
    """
    return -weight * q.amin(0).mean()


def soft_actor_loss(
    q: Float[Tensor, "E N B"],
    log_prob: Float[Tensor, "N B"],
    entropy_weight: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """How far the actor is from the critics' soft-greedy policy.

        L_actor = E [ alpha log pi(a~ | s) - min_k Q_k(s, a~) ],    a~ reparameterised

    Haarnoja et al. 2018, sec. 4.2, eq. (9). alpha gets no gradient; the caller passes critics whose
    parameters are detached.
    """
    weight = entropy_weight.detach() if isinstance(entropy_weight, Tensor) else entropy_weight
    return (weight * log_prob - q.amin(0)).mean()


def divergence_loss(own: Float[Tensor, "N B"], data: Float[Tensor, "N B"]) -> Float[Tensor, ""]:
    """Fits the dual function u, whose best value is log pi(a | s, z) - log b(a | s, z).

        L_u = -( E_{a ~ pi} [ u(s, a, z) ] - E_{a ~ data} [ exp u(s, a, z) ] + 1 )

    Minus the dual form of KL(pi || b), which is never above it; Wu et al. 2019 (arXiv:1911.11361),
    with f = -log and g = -exp(u). Departs from it: u is bounded by the network that gives it, which
    stands for the gradient penalty.

    Args:
        own: u at the policy's actions, which are to be detached.
        data: u at the data's actions.
    """
    return data.exp().mean() - own.mean() - 1.0


def effective_sample_share(weight: Float[Tensor, "N B"]) -> Float[Tensor, ""]:
    """Kish's effective sample size as a share of the batch, worst task: 1 is uniform weights."""
    size = weight.sum(1).square() / weight.square().sum(1).clamp_min(1e-30)
    return (size / weight.shape[1]).amin()
