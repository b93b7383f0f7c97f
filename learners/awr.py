"""Advantage-weighted regression on returns: what MACAW and its baselines minimise.

Mitchell et al. 2021 (arXiv:2008.06043), sec. 4; the regression itself is of Peng et al. 2019
(arXiv:1910.00177). Losses give one number per task, [N], and none sends gradient to its targets.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from causeway.datasets.batches import ContextBatch, Outcomes, TransitionBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows of N tasks and what their episodes came to: a context or transitions, alike."""

    observation: Float[Tensor, "N B O"]
    action: Float[Tensor, "N B A"]
    reward: Float[Tensor, "N B"]
    next_observation: Float[Tensor, "N B O"]
    mask: Bool[Tensor, "N B"]
    known_outcomes: Outcomes | None  # where the batch brought them

    @classmethod
    def of(cls, batch: ContextBatch | TransitionBatch) -> "Sample":
        """The rows of a batch."""
        mask = batch.mask if isinstance(batch, ContextBatch) else torch.ones_like(batch.truncated)
        return cls(
            observation=batch.observation,
            action=batch.action,
            reward=batch.reward,
            next_observation=batch.next_observation,
            mask=mask,
            known_outcomes=batch.outcomes,
        )

    @property
    def outcomes(self) -> Outcomes:
        """What the rows' episodes came to.

        Raises:
            ValueError: the batch brought none.
        """
        if self.known_outcomes is None:
            raise ValueError(
                "batches must bring the outcomes of their episodes, got none: give RowLayout an "
                "outcome_discount, as a run does that reads it from the hyperparameters"
            )
        return self.known_outcomes

    @property
    def share(self) -> Float[Tensor, "N B"]:
        """Each row's part of a mean over the task's rows; all 0 for a task without any."""
        return self.mask.to(self.reward.dtype) / self.mask.sum(1, keepdim=True).clamp_min(1)

    def chunks(self, count: int) -> "list[Sample]":
        """The rows in so many parts, one after the other, as equal as can be."""
        names = ("observation", "action", "reward", "next_observation", "mask")
        parts = {name: getattr(self, name).tensor_split(count, dim=1) for name in names}
        ends: list[Outcomes | None] = [None] * count
        if self.known_outcomes is not None:
            every = {
                field.name: getattr(self.known_outcomes, field.name).tensor_split(count, dim=1)
                for field in fields(Outcomes)
            }
            ends = [Outcomes(**{n: v[index] for n, v in every.items()}) for index in range(count)]
        return [
            Sample(**{n: v[index] for n, v in parts.items()}, known_outcomes=end)
            for index, end in enumerate(ends)
        ]

    def is_followed(self) -> Bool[Tensor, "N _"]:
        """Whether the next row is the next step of the same episode."""
        steps = self.outcomes.steps_to_go
        adjoins = (self.next_observation[:, :-1] == self.observation[:, 1:]).all(-1)
        counts_down = steps[:, :-1] == steps[:, 1:] + 1
        return adjoins & counts_down & self.mask[:, :-1] & self.mask[:, 1:]


def value_loss(
    value: Float[Tensor, "N B"], target: Float[Tensor, "N B"], share: Float[Tensor, "N B"]
) -> Float[Tensor, "N"]:
    """Mean (V(s) - y)^2: paper, sec. 4.1; `share` is each row's part of the mean."""
    return (share * (value - target.detach()).square()).sum(1)


def bootstrapped_returns(
    outcomes: Outcomes,
    final_value: Float[Tensor, "N B"],
    *,
    discount: float,
    past_true_end: bool,
) -> Float[Tensor, "N B"]:
    """R + discount^k V(s_T): the return to go and, k steps on, what follows the last one.

    Paper, sec. 4.2, as in the authors' code. Departs from that: a true end has no value, unless
    `past_true_end`.

    Args:
        outcomes: R, k and s_T of each row.
        final_value: V(s_T).
        discount: in (0, 1); R is discounted by the same.
        past_true_end: whether V(s_T) counts where the episode terminated.
    """
    ahead = discount**outcomes.steps_to_go
    if not past_true_end:
        ahead = torch.where(outcomes.final_terminated, 0.0, ahead)
    return outcomes.return_to_go + ahead * final_value


def lambda_returns(
    sample: Sample,
    next_value: Float[Tensor, "N B"],
    final_value: Float[Tensor, "N B"],
    *,
    discount: float,
    trace_decay: float,
    past_true_end: bool,
) -> Float[Tensor, "N B"]:
    """G_t = r_t + discount ((1 - lambda) V(s_t+1) + lambda G_t+1), over the rows of each stretch.

    Where the next row of the batch is not the next step, as behind a stretch's last row, the
    bootstrapped return stands for G_t+1: it is of the whole episode, so no subsampling cuts it. Of
    rows drawn from anywhere only that remains. G is the bootstrapped return at lambda = 1.

    Args:
        sample: rows in time order.
        next_value: V at each next observation.
        final_value: V(s_T).
        discount: in (0, 1).
        trace_decay: lambda, in [0, 1].
        past_true_end: see `bootstrapped_returns`.
    """
    outcomes = sample.outcomes
    if not past_true_end:
        is_end = (outcomes.steps_to_go < 1.5) & outcomes.final_terminated
        next_value = torch.where(is_end, 0.0, next_value)
    whole = bootstrapped_returns(
        outcomes, final_value, discount=discount, past_true_end=past_true_end
    )
    following = (whole - sample.reward) / discount
    is_followed = sample.is_followed()
    returns = torch.empty_like(whole)
    for row in reversed(range(whole.shape[1])):
        ahead = following[:, row]
        if row + 1 < whole.shape[1]:
            ahead = torch.where(is_followed[:, row], returns[:, row + 1], ahead)
        mixed = (1.0 - trace_decay) * next_value[:, row] + trace_decay * ahead
        returns[:, row] = sample.reward[:, row] + discount * mixed
    return returns


def advantage_weights(
    advantage: Float[Tensor, "N B"],
    mask: Bool[Tensor, "N B"],
    *,
    temperature: float,
    max_weight: float,
    floor: bool,
    epsilon: float,
) -> Float[Tensor, "N B"]:
    """exp((A - mean A) / (std A + epsilon) / temperature), at most `max_weight`; no gradient.

    Paper, sec. 4.1, with the authors' standardisation over each task's batch (unbiased).

    Args:
        advantage: in reward units.
        mask: the rows that count.
        temperature: T.
        max_weight: the largest weight.
        floor: whether 1 / max_weight is the smallest; the authors' code has none.
        epsilon: in reward units.
    """
    count = mask.sum(1, keepdim=True)
    centred = advantage - (advantage * mask).sum(1, keepdim=True) / count.clamp_min(1)
    variance = (centred.square() * mask).sum(1, keepdim=True) / (count - 1).clamp_min(1)
    bound = math.log(max_weight)
    exponent = centred / (variance.sqrt() + epsilon) / temperature
    return exponent.clamp(-bound if floor else None, bound).exp().detach()


def gaussian_log_prob(
    action: Float[Tensor, "N B A"], mean: Float[Tensor, "N B A"], std: float
) -> Float[Tensor, "N B"]:
    """Log N(a; mean, std^2), nats, summed over action dimensions: no squashing, no Jacobian."""
    constant = math.log(std) + 0.5 * math.log(2.0 * math.pi)
    return (-0.5 * ((action - mean) / std).square() - constant).sum(-1)


def regression_loss(
    log_prob: Float[Tensor, "N B"], weight: Float[Tensor, "N B"], share: Float[Tensor, "N B"]
) -> Float[Tensor, "N"]:
    """L_AWR = -mean w log pi(a | s): paper, sec. 4.1."""
    return -(share * weight.detach() * log_prob).sum(1)


def advantage_loss(
    predicted: Float[Tensor, "N B"], advantage: Float[Tensor, "N B"], share: Float[Tensor, "N B"]
) -> Float[Tensor, "N"]:
    """L_ADV = mean (A_theta(s, a) - A)^2, of advantages as they are: paper, sec. 4.1."""
    return (share * (predicted - advantage.detach()).square()).sum(1)
