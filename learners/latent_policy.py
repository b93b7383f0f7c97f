"""What context-based methods act with: an actor on [s; z], and a belief that context gives.

Two kinds of belief exist. A Gaussian one is mean and variance of z, and its prior is N(0, I). A
method whose encoder has no distribution remembers the latents of the tasks it was trained on last,
and its prior is one of these, drawn anew for each episode: it explores as if in a known task.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch, TransitionBatch
from causeway.learners.context_config import ContextConfig
from causeway.learners.context_losses import reward_loss
from causeway.learners.formulas import (
    draw_gaussian,
    masked_mean,
    product_of_gaussians,
    standard_normal,
)
from causeway.learners.networks import (
    GaussianEncoder,
    PointEncoder,
    RewardDecoder,
    TanhGaussianActor,
)

REMEMBERED = 64  # latents of a task memory


def transition_features(
    batch: ContextBatch | TransitionBatch, *, next_observation: bool
) -> Float[Tensor, "N K I"]:
    """What an encoder sees of each transition: [s, a, r], and s' where dynamics tell the task."""
    parts = [batch.observation, batch.action, batch.reward[..., None]]
    if next_observation:
        parts.append(batch.next_observation)
    return torch.cat(parts, dim=-1)


class LatentPolicy(nn.Module, ABC):
    """Acts on [s; z]; subclasses say what a belief is and how context gives one."""

    def __init__(self, actor: TanhGaussianActor, latent_dim: int) -> None:
        super().__init__()
        self.actor, self.latent_dim = actor, latent_dim

    @abstractmethod
    def prior(self, num_tasks: int) -> Tensor:
        """The belief before any context, one per task."""

    @abstractmethod
    def adapt(self, context: ContextBatch) -> Tensor:
        """The belief given each task's context."""

    @abstractmethod
    def draw(self, belief: Tensor, generator: torch.Generator) -> Float[Tensor, "N Z"]:
        """One z per task."""

    @torch.no_grad()
    def act(
        self, observation: Tensor, latent: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "N A"]:
        """The tanh of the mean, or of a draw where a generator is given."""
        mean, log_std = (x[:, 0] for x in self.actor(observation[:, None], latent))
        if generator is None:
            return torch.tanh(mean)
        noise = standard_normal(mean.shape, mean, generator)
        return torch.tanh(mean + log_std.exp() * noise)

    @torch.no_grad()
    def act_with_noise(
        self, observation: Tensor, latent: Tensor, noise: Tensor
    ) -> Float[Tensor, "N A"]:
        """What `act` gives where it draws this noise."""
        mean, log_std = (x[:, 0] for x in self.actor(observation[:, None], latent))
        return torch.tanh(mean + log_std.exp() * noise)

    def _device(self) -> torch.device:
        return next(self.parameters()).device


class DecodesRewards(LatentPolicy):
    """A policy that labels: its decoder tells the reward of a transition from z."""

    config: ContextConfig
    decoder: RewardDecoder

    def reward(
        self, observation: Tensor, action: Tensor, next_observation: Tensor, z: Tensor
    ) -> Float[Tensor, "N B"]:
        """r_hat, in the environment's units; differentiable."""
        parts = [observation, action]
        if self.config.next_observation_in_context:
            parts.append(next_observation)
        predicted: Tensor = self.decoder(torch.cat(parts, dim=-1), z)
        return predicted.float()

    def label_loss(self, t: TransitionBatch, z: Float[Tensor, "N Z"]) -> Float[Tensor, ""]:
        """The squared error of r_hat on transitions; detach z to train the decoder alone."""
        predicted = self.reward(t.observation, t.action, t.next_observation, z)
        return reward_loss(predicted, t.reward, None, reduction="rl_batch")

    @torch.no_grad()
    def label(
        self,
        context: ContextBatch,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        generator: torch.Generator,
    ) -> Float[Tensor, "N T"]:
        """Rewards of whole trajectories, one z per trajectory from its (offline) context.

        Pong et al. 2022 (arXiv:2107.03974), sec. 5.2: the decoder only ever sees z from offline
        context, so it has no shift in z; a wrong label amounts to a different, still valid, task.
        """
        z = self.draw(self.adapt(context), generator)
        return self.reward(observation, action, next_observation, z)


class GaussianPolicy(LatentPolicy):
    """PEARL's belief: the product of one Gaussian over z per transition, [N, 2, Z]."""

    def __init__(
        self, encoder: GaussianEncoder, actor: TanhGaussianActor, config: ContextConfig
    ) -> None:
        super().__init__(actor, config.latent_dim)
        self.encoder, self.config = encoder, config

    def belief(self, context: ContextBatch) -> Float[Tensor, "N 2 Z"]:
        """q(z | h), whatever the order of the context; differentiable."""
        seen = transition_features(
            context, next_observation=self.config.next_observation_in_context
        )
        mean, variance = self.encoder(seen)
        return product_of_gaussians(mean.float(), variance.float(), context.mask)

    @torch.no_grad()
    def prior(self, num_tasks: int) -> Float[Tensor, "N 2 Z"]:
        """N(0, I) for each task."""
        shape, device = (num_tasks, self.latent_dim), self._device()
        return torch.stack([torch.zeros(shape, device=device), torch.ones(shape, device=device)], 1)

    @torch.no_grad()
    def adapt(self, context: ContextBatch) -> Float[Tensor, "N 2 Z"]:
        """The belief given each task's context."""
        return self.belief(context)

    @torch.no_grad()
    def draw(self, belief: Tensor, generator: torch.Generator) -> Float[Tensor, "N Z"]:
        """One z per task."""
        noise = standard_normal(belief[:, 0].shape, belief, generator)
        return draw_gaussian(belief, noise)


class TaskMemory(nn.Module):
    """The latents that training met last: the prior of a method whose encoder has none."""

    latents: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("latents", torch.randn(REMEMBERED, latent_dim))

    @torch.no_grad()
    def remember(self, latents: Float[Tensor, "N Z"]) -> None:
        """Puts these in front; the oldest are forgotten."""
        kept = torch.cat([latents.detach().float(), self.latents])[: len(self.latents)]
        self.latents.copy_(kept)


class PointPolicy(LatentPolicy):
    """A belief is [N, P = 1 + Z]: 1 and a latent where there is context, else 0 and nothing."""

    def __init__(self, actor: TanhGaussianActor, memory: TaskMemory, latent_dim: int) -> None:
        super().__init__(actor, latent_dim)
        self.memory = memory

    @abstractmethod
    def embed(self, context: ContextBatch) -> Float[Tensor, "N Z"]:
        """The latent of each task's context; differentiable. Without any, a finite number."""

    @torch.no_grad()
    def prior(self, num_tasks: int) -> Float[Tensor, "N P"]:
        """Nothing known of any task."""
        return torch.zeros(num_tasks, 1 + self.latent_dim, device=self._device())

    @torch.no_grad()
    def adapt(self, context: ContextBatch) -> Float[Tensor, "N P"]:
        """The latent of each task's context, and whether it has any."""
        known = context.mask.any(1, keepdim=True)  # [N, 1]
        latent = self.embed(context).float()
        return torch.cat([known.float(), torch.where(known, latent, 0.0)], dim=1)

    @torch.no_grad()
    def draw(self, belief: Tensor, generator: torch.Generator) -> Float[Tensor, "N Z"]:
        """The belief's own latent, or that of a task remembered at random."""
        remembered = self.memory.latents
        index = torch.randint(
            len(remembered), (len(belief),), generator=generator, device=belief.device
        )
        return torch.where(belief[:, :1] > 0.5, belief[:, 1:], remembered[index])


class MeanPolicy(PointPolicy):
    """The latent is the mean of one point per transition, whatever their order."""

    def __init__(
        self,
        encoder: PointEncoder,
        actor: TanhGaussianActor,
        memory: TaskMemory,
        config: ContextConfig,
    ) -> None:
        super().__init__(actor, memory, config.latent_dim)
        self.encoder, self.config = encoder, config

    def points(self, context: ContextBatch) -> Float[Tensor, "N K Z"]:
        """Each transition's own; differentiable."""
        seen = transition_features(
            context, next_observation=self.config.next_observation_in_context
        )
        points: Tensor = self.encoder(seen)
        return points.float()

    def embed(self, context: ContextBatch) -> Float[Tensor, "N Z"]:
        """Their mean."""
        return masked_mean(self.points(context), context.mask)
