"""Episodes of many environments at once: actions go in, trajectories without rewards come out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from causeway.actors.tasks.family import Dynamics, Starts, Step
from causeway.datasets.batches import Trajectory
from causeway.datasets.policy import AdaptivePolicy

LatentPer = Literal["trajectory", "step"]
ActionChoice = Literal["stochastic", "deterministic"]


@dataclass(frozen=True, slots=True)
class Generators:
    """Where all the randomness of a piece of work comes from: one generator for each library."""

    numpy: np.random.Generator
    torch: torch.Generator

    @classmethod
    def from_key(cls, *key: int) -> "Generators":
        """The generators of a key of non-negative integers, the same in every process."""
        for_numpy, for_torch = np.random.SeedSequence(key).spawn(2)
        seed = int(for_torch.generate_state(1, np.uint64)[0] >> np.uint64(1))
        return cls(np.random.default_rng(for_numpy), torch.Generator().manual_seed(seed))


def run_episodes(
    dynamics: Dynamics,
    act: Callable[[Float32[np.ndarray, "N O"]], Float32[np.ndarray, "N A"]],
    *,
    horizon: int,
    generator: Starts,
) -> list[Trajectory]:
    """One episode in every environment, each up to its own end.

    Args:
        dynamics: the environments; they are reset first.
        act: the actions for the observations; they are clipped to [-1, 1].
        horizon: environment steps by which the dynamics must have ended every episode.
        generator: for the environments' starts; one, or one for each.

    Returns:
        One trajectory per environment. One whose simulation diverged is truncated at the step
        before; if that was its first step, its trajectory is empty.
    """
    return run_while(
        dynamics, lambda observation, _: act(observation), horizon=horizon, generator=generator
    )


def run_while(
    dynamics: Dynamics,
    act: Callable[[Float32[np.ndarray, "N O"], Bool[np.ndarray, "N"]], Float32[np.ndarray, "N A"]],
    *,
    horizon: int,
    generator: Starts,
) -> list[Trajectory]:
    """As `run_episodes`; `act` is told which environments are still running, too."""
    observation = dynamics.reset(generator)
    observations, actions, steps = [observation], [], []
    running = np.ones(dynamics.num_envs, bool)
    lengths = np.zeros(dynamics.num_envs, int)
    cut_short = np.zeros(dynamics.num_envs, bool)
    for _ in range(horizon):
        action = _checked(act(observation, running))
        step = dynamics.step(action)
        observation = step.next_observation
        observations.append(observation)
        actions.append(action)
        steps.append(step)
        if step.diverged is not None:
            cut_short |= running & step.diverged
        lengths += running & ~cut_short
        running = running & ~step.ended
        if not running.any():
            trajectories = _cut(np.stack(observations), np.stack(actions), steps, lengths)
            for env in np.flatnonzero(cut_short):
                trajectories[env].truncated[-1:] = True
            return trajectories
    raise ValueError(
        f"dynamics must end every episode within the family's horizon of {horizon} steps, "
        f"{int(running.sum())} of {len(running)} environments went on: set truncated there"
    )


def rollout(
    policy: AdaptivePolicy,
    dynamics: Dynamics,
    belief: Tensor,
    *,
    horizon: int,
    latent_per: LatentPer,
    actions: ActionChoice,
    generators: Generators,
) -> list[Trajectory]:
    """One episode of the policy in every environment, as `run_episodes`, on latents it draws.

    Args:
        policy: what acts.
        dynamics: the environments.
        belief: one per environment, [N, ...]; it stays as it is for the whole episode.
        horizon: the family's horizon, in environment steps.
        latent_per: whether a latent is kept for its trajectory or drawn anew at every step.
        actions: whether actions are drawn from the policy or are its deterministic choice.
        generators: for starts (numpy), latents and actions (torch).

    Returns:
        One trajectory per environment.
    """
    if len(belief) != dynamics.num_envs:
        raise ValueError(
            f"belief must have one entry per environment, got {len(belief)} "
            f"for {dynamics.num_envs} environments"
        )
    action_generator = generators.torch if actions == "stochastic" else None
    latent = policy.draw(belief, generators.torch)

    def act(observation: Float32[np.ndarray, "N O"]) -> Float32[np.ndarray, "N A"]:
        nonlocal latent
        action = policy.act(torch.tensor(observation), latent, action_generator)
        if latent_per == "step":
            latent = policy.draw(belief, generators.torch)
        return action.numpy()

    with torch.inference_mode():
        return run_episodes(dynamics, act, horizon=horizon, generator=generators.numpy)


def check_choice(config: str, name: str, choices: Any, given: str) -> None:
    """Refuses what is not one of a Literal's choices, in the name of the config that holds it."""
    if given not in get_args(choices):
        raise ValueError(
            f"{config}.{name} must be one of {', '.join(get_args(choices))}, got {given!r}"
        )


def _checked(action: np.ndarray) -> Float32[np.ndarray, "N A"]:
    """The actions as float32 in [-1, 1]; never one that is not a number."""
    if not np.isfinite(action).all():
        environment = int(np.argwhere(~np.isfinite(action))[0][0])
        raise ValueError(
            f"actions must be finite, got {action[environment]} for environment {environment}: "
            "the policy's weights may have diverged"
        )
    return np.asarray(np.clip(action, -1.0, 1.0), np.float32)


def _cut(
    observations: np.ndarray, actions: np.ndarray, steps: list[Step], lengths: np.ndarray
) -> list[Trajectory]:
    """Each environment's own trajectory, without what came after its end; time leads on entry."""
    measurements = np.stack([step.measurement for step in steps])
    terminated = np.stack([step.terminated for step in steps])
    truncated = np.stack([step.truncated for step in steps])
    return [
        Trajectory(
            observation=observations[:length, env].copy(),
            action=actions[:length, env].copy(),
            next_observation=observations[1 : length + 1, env].copy(),
            terminated=terminated[:length, env].copy(),
            truncated=truncated[:length, env].copy(),
            measurement=measurements[:length, env].copy(),
        )
        for env, length in enumerate(lengths)
    ]
