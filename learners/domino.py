"""DOMINO: contexts that each tell one factor of the task, from a short window of history.

Mu et al.: *DOMINO: Decomposed Mutual Information Optimization for Generalized Context in
Meta-Reinforcement Learning*, NeurIPS 2022, arXiv:2210.04209.

Two networks read the last transitions: one gives a global context, the other several contexts side
by side. A forward and a backward model of the dynamics and a reward model must predict from all of
them. Each context is to be alike in two windows of one task and unlike in those of others, and the
contexts are to say different things. As a window is a few steps, the belief can follow the task
within an episode; no episode of exploration is needed.

    model    contexts, dynamics and rewards on the logs
    offline  critics and actor on [s; contexts], and rewards on them, too
    online   self-supervision as in SMAC

Departs from the paper, which plans with its model online: an actor-critic in its place, a reward
model (the paper knows the reward), the online stage, and rewards in the window where tasks differ
in them. Departs from the authors' code, which draws positives and negatives at random: they are
told apart by the task. The reward model learns on beside critics and actor: labels are told from
the mean of windows, of which stage `model` has single ones. A context longer than a window gives
the mean of its windows. Before any context, z is that of a task that training met.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from causeway.datasets.batches import ContextBatch, MetaBatch
from causeway.learners.actor_critic import ActorCritic
from causeway.learners.algorithm import Losses, Stage
from causeway.learners.context_based import ContextBased
from causeway.learners.context_config import ContextConfig
from causeway.learners.context_losses import hsic, nce_information
from causeway.learners.latent_policy import DecodesRewards, PointPolicy, TaskMemory
from causeway.learners.networks import Perceptron, RewardDecoder, TanhGaussianActor, spread
from causeway.learners.sequences import compact

LOG_VARIANCE_RANGE = (-10.0, 0.5)  # of the dynamics, where its learned bounds begin
BOUND_WEIGHT = 0.01  # keeps the learned bounds of the log-variance near each other

MODEL = Stage(
    name="model",
    trains=("contexts", "dynamics", "decoder"),
    frozen=("critics", "actor"),
    collects=False,
)
OFFLINE = Stage(
    name="offline",
    trains=("decoder", "critics", "actor"),
    frozen=("contexts", "dynamics"),
    collects=False,
)
ONLINE = Stage(
    name="online",
    trains=("critics", "actor"),
    frozen=("contexts", "dynamics", "decoder"),
    collects=True,
)


@dataclass(frozen=True, kw_only=True)
class DominoConfig(ContextConfig):
    """Hyperparameters of DOMINO. Defaults are the authors' unless a comment says otherwise."""

    latent_dim: int = 10  # of the global context and of each other one
    contexts: int = 2  # beside the global one
    window: int = 10  # transitions
    encoder_hidden: tuple[int, ...] = (256, 128, 64)
    dynamics_hidden: tuple[int, ...] = (200, 200)  # ours
    decoder_hidden: tuple[int, ...] = (64, 64)  # of the reward model; ours
    reward_in_context: bool = True  # False where rewards do not differ between tasks
    backward_weight: float = 0.5  # of the backward model's likelihood
    information_weight: float = 1e-3
    contrast_temperature: float = 0.1  # divides; the authors' code: 0.004
    disentangling: Literal["nce", "hsic"] = "nce"  # how dependence between contexts is measured

    def __post_init__(self) -> None:
        """Refuses values for which the method has no meaning."""
        super().__post_init__()
        self._require_positive("contexts", "window", "contrast_temperature")
        self._require_not_negative("backward_weight", "information_weight")

    @property
    def total_dim(self) -> int:
        """Of all contexts side by side."""
        return self.latent_dim * (1 + self.contexts)


# The losses, in the paper's order; the estimates of information are in `context_losses.py`.


def bounded_log_variance(
    raw: Float[Tensor, "*batch O"], lowest: Float[Tensor, "O"], highest: Float[Tensor, "O"]
) -> Float[Tensor, "*batch O"]:
    """The log-variance within soft bounds: linear between them, flat beyond.

    Chua et al. 2018 (arXiv:1805.12114), appendix A.1.
    """
    below = highest - F.softplus(highest - raw)
    return lowest + F.softplus(below - lowest)


def likelihood_loss(
    mean: Float[Tensor, "N B O"],
    log_variance: Float[Tensor, "N B O"],
    target: Float[Tensor, "N B O"],
) -> Float[Tensor, ""]:
    """Minus the Gaussian log-likelihood, up to constants, mean over all numbers.

        L = mean [ (mean - target)^2 exp(-log_variance) + log_variance ]

    Paper, sec. 3.3, eq. (7).
    """
    return ((mean - target).square() * torch.exp(-log_variance) + log_variance).mean()


def information_loss(
    first: Float[Tensor, "M C D"],
    second: Float[Tensor, "M C D"],
    task: Int[Tensor, "M"],
    *,
    temperature: float,
    disentangling: Literal["nce", "hsic"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """What contexts tell of their task, and what they tell of each other.

        sum_k I(c_k; window of the same task),    sum_{k<l} I(c_k; c_l)

    Paper, sec. 3.2, eqs. (4) and (6): the first is to grow and the second to fall. Departs from it:
    a bound below 0 counts 0. To push it further would only make contexts opposite to each other.

    Args:
        first: C contexts of one window of each task.
        second: those of another window of it.
        task: of both.
        temperature: of InfoNCE.
        disentangling: how the second is measured.
    """
    told = torch.stack(
        [
            nce_information(first[:, k], second[:, k], task, temperature=temperature)
            for k in range(first.shape[1])
        ]
    ).sum()
    shared = first.new_zeros(())
    for k, other in combinations(range(first.shape[1]), 2):
        left, right = first[:, k], first[:, other]
        if disentangling == "hsic":
            shared = shared + hsic(left, right)
        else:
            bound = nce_information(left, right, task, temperature=temperature)
            shared = shared + bound.clamp_min(0.0)
    return told, shared


class WindowContexts(nn.Module):
    """The global context and the others of a window, side by side."""

    def __init__(self, features: int, config: DominoConfig) -> None:
        super().__init__()
        inputs, hidden = features * config.window, config.encoder_hidden
        self.common = Perceptron([inputs, *hidden, config.latent_dim])
        self.parts = Perceptron([inputs, *hidden, config.contexts * config.latent_dim])

    def forward(self, window: Float[Tensor, "N V"]) -> Float[Tensor, "N Z"]:
        """The global context first."""
        return torch.cat([self.common(window), self.parts(window)], dim=-1).float()


class DynamicsModel(nn.Module):
    """How the observation changes, as a Gaussian, forwards from s and backwards from s'."""

    def __init__(self, observation: int, action: int, latent: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = [observation + action + latent, *hidden, 2 * observation]
        self.forwards, self.backwards = Perceptron(widths), Perceptron(widths)
        low, high = LOG_VARIANCE_RANGE
        self.lowest = nn.Parameter(torch.full((2, observation), low))
        self.highest = nn.Parameter(torch.full((2, observation), high))

    def loss(
        self,
        s: Float[Tensor, "N B O"],
        a: Float[Tensor, "N B A"],
        next_s: Float[Tensor, "N B O"],
        z: Float[Tensor, "N Z"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Forward loss, backward loss, and the distance of the learned bounds."""
        losses = []
        for index, (model, start, end) in enumerate(
            ((self.forwards, s, next_s), (self.backwards, next_s, s))
        ):
            out: Tensor = model(torch.cat([start, a, spread(z, s)], dim=-1)).float()
            mean, raw = out.chunk(2, dim=-1)
            log_variance = bounded_log_variance(raw, self.lowest[index], self.highest[index])
            losses.append(likelihood_loss(mean, log_variance, end - start))
        return losses[0], losses[1], (self.highest - self.lowest).sum()


class DominoPolicy(PointPolicy, DecodesRewards):
    """What acts on the contexts of a history."""

    config: DominoConfig
    reads_in_order = True

    def __init__(
        self,
        contexts: WindowContexts,
        decoder: RewardDecoder,
        actor: TanhGaussianActor,
        config: DominoConfig,
    ) -> None:
        super().__init__(actor, TaskMemory(config.total_dim), config.total_dim)
        self.contexts, self.decoder, self.config = contexts, decoder, config

    def of_window(self, context: ContextBatch, last: Int[Tensor, "N"]) -> Float[Tensor, "N Z"]:
        """The contexts of the window that ends with the transition at `last`; differentiable.

        What comes before a context's first transition is 0.
        """
        parts = [context.next_observation - context.observation, context.action]
        if self.config.reward_in_context:
            parts.append(context.reward[..., None])
        seen = torch.cat(parts, dim=-1)  # [N, K, F]
        steps = torch.arange(1 - self.config.window, 1, device=seen.device)
        place = last[:, None] + steps  # [N, window]
        tasks = torch.arange(len(seen), device=seen.device)[:, None]
        window = torch.where((place >= 0)[..., None], seen[tasks, place.clamp_min(0)], 0.0)
        contexts: Tensor = self.contexts(window.flatten(1))
        return contexts

    def embed(self, context: ContextBatch) -> Float[Tensor, "N Z"]:
        """The mean over the whole windows of a context, the last one first.

        A context shorter than a window is one that begins with zeros.
        """
        context, size = compact(context), self.config.window
        last = context.mask.sum(1) - 1  # [N]
        ends = [last - step for step in range(0, context.mask.shape[1], size)]
        counts = torch.stack([ends[0] >= -1, *[end >= size - 1 for end in ends[1:]]])  # [w, N]
        each = torch.stack([self.of_window(context, end.clamp_min(0)) for end in ends])
        return (counts[..., None] * each).sum(0) / counts.sum(0)[:, None]


class Domino(ContextBased):
    """Disentangled contexts of a history window, a model that they must serve, an inner RL."""

    Config = DominoConfig
    STAGES = (MODEL, OFFLINE, ONLINE)
    READS_IN_ORDER = True
    config: DominoConfig
    _policy: DominoPolicy

    def __init__(self, observation_size: int, action_size: int, config: DominoConfig) -> None:
        o, a, z = observation_size, action_size, config.total_dim
        following = o if config.next_observation_in_context else 0
        contexts = WindowContexts(o + a + config.reward_in_context, config)
        self.dynamics = DynamicsModel(o, a, z, config.dynamics_hidden)
        decoder = RewardDecoder(o + a + following, z, config.decoder_hidden)
        rl = ActorCritic(o, a, z, config)
        policy = DominoPolicy(contexts, decoder, rl.actor, config)
        modules = {"contexts": contexts, "dynamics": self.dynamics, "decoder": decoder}
        super().__init__(config, rl, policy, modules)

    def losses(self, batch: MetaBatch, stage: Stage, generator: torch.Generator) -> Losses:
        """The model's, with two windows of each task; or critics' and actor's, on their mean."""
        if "contexts" in stage.trains:
            return self._model_losses(batch, generator)
        with torch.no_grad():
            z = self._policy.embed(self._shortened(batch.context, generator))
        self._met = None if stage.collects else z
        minimised, watched = self.rl.losses(
            batch.transitions, z, next_z=None, improves=stage.collects, generator=generator
        )
        if "decoder" in stage.trains:
            minimised["reward"] = self._policy.label_loss(batch.transitions, z)
        watched["latent_std"] = z.std(0, unbiased=False).mean()
        return Losses(minimised, watched)

    def _model_losses(self, batch: MetaBatch, generator: torch.Generator) -> Losses:
        config, t = self.config, batch.transitions
        first, second = self._windows(batch.context, generator)
        forward, backward, bounds = self.dynamics.loss(
            t.observation, t.action, t.next_observation, first
        )
        shape = (len(first), 1 + config.contexts, config.latent_dim)
        told, shared = information_loss(
            first.view(shape)[:, 1:],
            second.view(shape)[:, 1:],
            batch.task,
            temperature=config.contrast_temperature,
            disentangling=config.disentangling,
        )
        minimised = {
            "forward": forward,
            "backward": config.backward_weight * backward,
            "bounds": BOUND_WEIGHT * bounds,
            "reward": self._policy.label_loss(t, first),
            "information": config.information_weight * (shared - told),
        }
        watched = {
            "information_of_task": told.detach(),
            "information_between": shared.detach(),
        }
        return Losses(minimised, watched)

    @staticmethod
    def _shortened(context: ContextBatch, generator: torch.Generator) -> ContextBatch:
        """The beginning of each context, half of them shorter than whole: as within an episode."""
        num_tasks, length = context.reward.shape
        device = context.mask.device
        kept = torch.randint(1, 2 * length, (num_tasks, 1), generator=generator, device=device)
        place = torch.arange(length, device=device)
        return replace(context, mask=context.mask & (place < kept))

    def _windows(
        self, context: ContextBatch, generator: torch.Generator
    ) -> list[Float[Tensor, "N Z"]]:
        """The contexts of two windows that end anywhere: early ones are short, as in an episode."""
        num_tasks, length = context.reward.shape
        device = context.mask.device
        ends = torch.randint(length, (2, num_tasks), generator=generator, device=device)
        return [self._policy.of_window(context, end) for end in ends]
