"""Recurrent networks over transitions in time order, and decoders that must lean on a latent."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch
from causeway.learners.formulas import MIN_FACTOR_VARIANCE
from causeway.learners.networks import Perceptron, spread

STATE_EMBEDDING, ACTION_EMBEDDING, REWARD_EMBEDDING = 32, 16, 16


class Recurrence(nn.Module):
    """A GRU over embeddings of (a, r, s'), from a zero state."""

    def __init__(self, observation: int, action: int, gru_size: int) -> None:
        super().__init__()
        self.state = nn.Linear(observation, STATE_EMBEDDING)
        self.action = nn.Linear(action, ACTION_EMBEDDING)
        self.reward = nn.Linear(1, REWARD_EMBEDDING)
        width = STATE_EMBEDDING + ACTION_EMBEDDING + REWARD_EMBEDDING
        self.gru = nn.GRU(width, gru_size, batch_first=True)

    def forward(self, context: ContextBatch) -> Float[Tensor, "N K H"]:
        """What it has read after each transition."""
        embedded = [
            F.relu(self.state(context.next_observation)),
            F.relu(self.action(context.action)),
            F.relu(self.reward(context.reward[..., None])),
        ]
        hidden: Tensor = self.gru(torch.cat(embedded, dim=-1))[0]
        return hidden


def compact(context: ContextBatch) -> ContextBatch:
    """The same transitions in the same order, without holes: padding stands behind, and is 0."""
    order = (~context.mask).to(torch.uint8).argsort(dim=1, stable=True)
    mask = context.mask.gather(1, order)

    def moved(x: Tensor) -> Tensor:
        if x.ndim == 2:
            return torch.where(mask, x.gather(1, order), 0.0)
        index = order[..., None].expand(-1, -1, x.shape[-1])
        return torch.where(mask[..., None], x.gather(1, index), 0.0)

    return ContextBatch(
        observation=moved(context.observation),
        action=moved(context.action),
        reward=moved(context.reward),
        next_observation=moved(context.next_observation),
        mask=mask,
    )


def last_of(values: Float[Tensor, "N K H"], mask: Bool[Tensor, "N K"]) -> Float[Tensor, "N H"]:
    """Those at each sequence's last transition; of one without any, the first."""
    last = (mask.sum(1) - 1).clamp_min(0)
    return values[torch.arange(len(values), device=values.device), last]


class SequenceEncoder(nn.Module):
    """A latent of what was read."""

    def __init__(self, observation: int, action: int, latent: int, *, gru_size: int) -> None:
        super().__init__()
        self.recurrence = Recurrence(observation, action, gru_size)
        self.head = nn.Linear(gru_size, latent)

    def last(self, context: ContextBatch) -> Float[Tensor, "N Z"]:
        """After each context's last transition."""
        context = compact(context)
        hidden = last_of(self.recurrence(context), context.mask)
        latent: Tensor = self.head(hidden).float()
        return latent


class DropoutDecoder(nn.Module):
    """The reward of (s, a, s') in the task of a latent, with half of its inputs dropped.

    Dropout is of the embedded inputs and never of the latent, and it is always on: the draws come
    from the generator that is given.
    """

    def __init__(
        self,
        observation: int,
        action: int,
        latent: int,
        *,
        hidden: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        self.state = nn.Linear(observation, STATE_EMBEDDING)
        self.action = nn.Linear(action, ACTION_EMBEDDING)
        width = 2 * STATE_EMBEDDING + ACTION_EMBEDDING + latent
        self.body = Perceptron([width, *hidden, 1])
        self.dropout = dropout

    def forward(
        self,
        observation: Float[Tensor, "N B O"],
        action: Float[Tensor, "N B A"],
        next_observation: Float[Tensor, "N B O"],
        latent: Float[Tensor, "N Z"],
        generator: torch.Generator,
    ) -> Float[Tensor, "N B"]:
        """Rewards in the environment's units."""
        embedded = [
            F.relu(self.state(observation)),
            F.relu(self.action(action)),
            F.relu(self.state(next_observation)),
        ]
        seen = dropped(torch.cat(embedded, dim=-1), self.dropout, generator)
        predicted: Tensor = self.body(torch.cat([seen, spread(latent, seen)], dim=-1))
        return predicted[..., 0].float()


class StateDecoder(nn.Module):
    """The next observation after (s, a) in the task of a latent, with the same dropout."""

    def __init__(
        self,
        observation: int,
        action: int,
        latent: int,
        *,
        hidden: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        self.state = nn.Linear(observation, STATE_EMBEDDING)
        self.action = nn.Linear(action, ACTION_EMBEDDING)
        width = STATE_EMBEDDING + ACTION_EMBEDDING + latent
        self.body = Perceptron([width, *hidden, observation])
        self.dropout = dropout

    def forward(
        self,
        observation: Float[Tensor, "N B O"],
        action: Float[Tensor, "N B A"],
        latent: Float[Tensor, "N Z"],
        generator: torch.Generator,
    ) -> Float[Tensor, "N B O"]:
        """Next observations: the one given and a predicted change."""
        embedded = [F.relu(self.state(observation)), F.relu(self.action(action))]
        seen = dropped(torch.cat(embedded, dim=-1), self.dropout, generator)
        change: Tensor = self.body(torch.cat([seen, spread(latent, seen)], dim=-1))
        return observation + change.float()


def dropped(x: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Zeros in that share of the places, the rest scaled so that the mean stays."""
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= dropout
    return torch.where(kept, x / (1.0 - dropout), 0.0)


class LatentDynamicsVae(nn.Module):
    """What a trajectory tells of its task after each transition, and what follows from it."""

    def __init__(
        self,
        observation: int,
        action: int,
        latent: int,
        *,
        gru_size: int,
        decoder_hidden: tuple[int, ...],
        dropout: float,
        decodes_states: bool,
    ) -> None:
        super().__init__()
        sizes = (observation, action, latent)
        self.recurrence = Recurrence(observation, action, gru_size)
        self.head = nn.Linear(gru_size, 2 * latent)
        self.decoder = DropoutDecoder(*sizes, hidden=decoder_hidden, dropout=dropout)
        self.state_decoder = (
            StateDecoder(*sizes, hidden=decoder_hidden, dropout=dropout) if decodes_states else None
        )

    def belief(self, context: ContextBatch) -> Float[Tensor, "N T 2 Z"]:
        """Mean and variance before any transition, N(0, I), and after each of the T - 1 of them.

        Behind the last transition of a context the belief stays as it is.
        """
        context = compact(context)
        mean, log_variance = self.head(self.recurrence(context)).float().chunk(2, dim=-1)
        after = torch.stack([mean, log_variance.exp() + MIN_FACTOR_VARIANCE], dim=2)
        prior = torch.zeros_like(after[:, :1])
        prior[:, :, 1] = 1.0
        chain = torch.cat([prior, after], dim=1)  # [N, K + 1, 2, Z]
        place = torch.arange(chain.shape[1], device=chain.device)
        last = context.mask.sum(1, keepdim=True)  # [N, 1]
        index = torch.minimum(place[None], last)
        return chain[torch.arange(len(chain), device=chain.device)[:, None], index]
