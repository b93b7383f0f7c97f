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
        self._one_pass = policy if isinstance(policy, ActsOnNoise) else None
        ends = accumulate((len(share.belief) for share in shares), initial=0)
        self._parts = [slice(begin, end) for begin, end in pairwise(ends)]
        self._latents = [policy.draw(share.belief, share.generators.torch) for share in shares]
        self._latent = _filled(torch.cat(self._latents))
        self._noise = torch.zeros(len(self._latent), manner.action_size)
        sources = [share.generators.torch for share in shares]
        self._draws = [
            (self._noise[part], source) for part, source in zip(self._parts, sources, strict=True)
        ]

    def act(
        self, observation: Float32[np.ndarray, "N O"], running: Bool[np.ndarray, "N"]
    ) -> Float32[np.ndarray, "N A"]:
        """The actions of all environments; those of shares that are through are of no account."""
        at_work = self._at_work(running)
        action = self._choose(torch.from_numpy(observation), at_work)
        if self._manner.latent_per == "step":
            for n in at_work:
                share = self._shares[n]
                self._latents[n] = self._policy.draw(share.belief, share.generators.torch)
            self._latent = _filled(torch.cat(self._latents))
        return action[: len(observation)].numpy()

    def _at_work(self, running: Bool[np.ndarray, "N"]) -> Sequence[int]:
        """The shares of which an environment is running."""
        if running.all():
            return range(len(self._parts))
        return [n for n, part in enumerate(self._parts) if running[part].any()]

    def _choose(self, observation: Tensor, at_work: Sequence[int]) -> Tensor:
        """Actions in as few passes as can be; there may be more rows than environments."""
        if self._manner.actions == "deterministic":
            return self._policy.act(_filled(observation), self._latent, None)
        if self._one_pass is not None:
            for n in at_work:  # as the policy would draw it, were the share alone
                noise, source = self._draws[n]
                noise.normal_(generator=source)
            return self._one_pass.act_with_noise(_filled(observation), self._latent, self._noise)
        action = observation.new_zeros(len(observation), self._manner.action_size)
        for n in at_work:
            part, source = self._parts[n], self._shares[n].generators.torch
            action[part] = self._policy.act(observation[part], self._latents[n], source)
        return action


def _filled(rows: Tensor) -> Tensor:
    """The rows and, where there are fewer than `MIN_ROWS`, copies of the last up to so many."""
    missing = MIN_ROWS - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])
