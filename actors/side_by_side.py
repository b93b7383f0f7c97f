"""Rollouts of several collections in one batch of environments, each as if it were alone.

Every collection draws from generators of its own, and only as long as one of its own environments
is running; what is shared is the pass of the network and the step of the simulator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from causeway.actors.rollout import ActionChoice, Generators, LatentPer, run_while
from causeway.actors.tasks.family import Dynamics
from causeway.datasets.batches import Trajectory
from causeway.datasets.policy import ActsOnNoise, AdaptivePolicy

# For a handful of rows a linear algebra library takes other paths than for many, and those round
# otherwise. With so many at least, what a row comes to does not depend on the rows beside it.
MIN_ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part that one collection has in the environments."""

    belief: Tensor  # one per environment of its own, [N, ...]
    generators: Generators


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How all of them act."""

    action_size: int
    horizon: int  # the family's, in environment steps
    latent_per: LatentPer
    actions: ActionChoice


def rollout_side_by_side(
    policy: AdaptivePolicy, dynamics: Dynamics, shares: Sequence[Share], manner: Manner
) -> list[list[Trajectory]]:
    """One episode in every environment, as `rollout`, for several shares at once.

    Args:
        policy: what acts, for all in one pass where no noise is drawn or it is an `ActsOnNoise`,
            for one share after the other where it is not.
        dynamics: the environments of the first share, then those of the next, and so on.
        shares: beliefs and generators.
        manner: how they act.

    Returns:
        Each share's trajectories, one per environment.
    """
    acting = _Acting(policy, shares, manner)
    starts = [share.generators.numpy for share in shares for _ in range(len(share.belief))]
    with torch.inference_mode():
        trajectories = iter(
            run_while(dynamics, acting.act, horizon=manner.horizon, generator=starts)
        )
    return [list(islice(trajectories, len(share.belief))) for share in shares]


class _Acting:
    """Latents of all shares, and actions on them."""

    def __init__(self, policy: AdaptivePolicy, shares: Sequence[Share], manner: Manner) -> None:
        self._policy, self._shares, self._manner = policy, shares, manner
        ends = accumulate((len(share.belief) for share in shares), initial=0)
        self._parts = [slice(begin, end) for begin, end in pairwise(ends)]
        self._latents = [policy.draw(share.belief, share.generators.torch) for share in shares]
        self._latent = _filled(torch.cat(self._latents))

    def act(
        self, observation: Float32[np.ndarray, "N O"], running: Bool[np.ndarray, "N"]
    ) -> Float32[np.ndarray, "N A"]:
        """The actions of all environments; those of shares that are through are of no account."""
        at_work = [bool(running[part].any()) for part in self._parts]
        action = self._choose(torch.tensor(observation), at_work)
        if self._manner.latent_per == "step":
            for n, share in enumerate(self._shares):
                if at_work[n]:
                    self._latents[n] = self._policy.draw(share.belief, share.generators.torch)
            self._latent = _filled(torch.cat(self._latents))
        return action[: len(observation)].numpy()

    def _choose(self, observation: Tensor, at_work: Sequence[bool]) -> Tensor:
        """Actions in as few passes as can be; there may be more rows than environments."""
        if self._manner.actions == "deterministic":
            return self._policy.act(_filled(observation), self._latent, None)
        if isinstance(self._policy, ActsOnNoise):
            noise = _filled(torch.cat(self._noise(at_work)))
            return self._policy.act_with_noise(_filled(observation), self._latent, noise)
        parts = zip(self._shares, self._parts, self._latents, at_work, strict=True)
        return torch.cat(
            [
                self._policy.act(observation[part], latent, share.generators.torch)
                if is_at_work
                else observation.new_zeros(len(latent), self._manner.action_size)
                for share, part, latent, is_at_work in parts
            ]
        )

    def _noise(self, at_work: Sequence[bool]) -> list[Tensor]:
        """Each share's own noise, as the policy would draw it; none where it is through."""
        shapes = ((len(latent), self._manner.action_size) for latent in self._latents)
        return [
            torch.randn(shape, generator=share.generators.torch)
            if is_at_work
            else torch.zeros(shape)
            for share, shape, is_at_work in zip(self._shares, shapes, at_work, strict=True)
        ]


def _filled(rows: Tensor) -> Tensor:
    """The rows and, where there are fewer than `MIN_ROWS`, copies of the last up to so many."""
    missing = MIN_ROWS - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
