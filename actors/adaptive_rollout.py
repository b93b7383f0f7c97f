"""Episodes whose belief follows them: inferred anew before every step from all that was seen."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from causeway.actors.contexts import Rows
from causeway.actors.rollout import Generators, run_episodes
from causeway.actors.tasks.family import Dynamics, Family, Task
from causeway.actors.watched import Seen, Watched, step_reward
from causeway.datasets.batches import Episode, RowLayout, Trajectory
from causeway.datasets.policy import AdaptivePolicy


def rollout_adapting(
    policy: AdaptivePolicy,
    dynamics: Dynamics,
    family: Family,
    tasks: Sequence[Task],
    known: Sequence[Rows],
    infer: Callable[[Sequence[Rows]], Tensor],
    *,
    layout: RowLayout,
    generators: Generators,
) -> list[Trajectory]:
    """One episode in every environment, as `rollout`, on a belief that each step improves.

    Args:
        policy: what acts, deterministically.
        dynamics: the environments, one for each of N tasks.
        family: of the tasks, with their true rewards.
        tasks: of the environments.
        known: what is known of each before the episode; may be empty.
        infer: the belief, one per environment, of what is known of each.
        layout: of the rows.
        generators: for starts (numpy) and latents (torch).

    Raises:
        ValueError: rows must tell how their episode ended, which no one knows within it.
    """
    if layout.outcome_discount is not None:
        raise ValueError(
            "a belief that follows an episode's steps needs rows without outcomes, this method's "
            "have them: evaluate it with evaluation.belief_per 'episode', under another protocol "
            "than online_random"
        )
    watched = Watched(dynamics)
    seen = [list[Rows]([rows]) for rows in known]

    def act(observation: Float32[np.ndarray, "N O"]) -> Float32[np.ndarray, "N A"]:
        if watched.last is not None:
            for rows, new in zip(seen, _rewarded(family, tasks, layout, watched.last), strict=True):
                rows.append(new)
        belief = infer([np.concatenate(rows) for rows in seen])
        latent = policy.draw(belief, generators.torch)
        action: np.ndarray = policy.act(torch.tensor(observation), latent, None).numpy()
        return action

    with torch.inference_mode():
        return run_episodes(watched, act, horizon=family.horizon, generator=generators.numpy)


def _rewarded(
    family: Family,
    tasks: Sequence[Task],
    layout: RowLayout,
    last: Seen,
) -> list[Rows]:
    """The row of each environment's last transition; none where the episode had ended before."""
    observation, action, step, counts = last
    reward = step_reward(family, [task.reward for task in tasks], last)
    rows = []
    for n in range(len(tasks)):
        part = slice(n, n + 1) if counts[n] else slice(0, 0)
        rows.append(
            layout.pack(
                Episode(
                    observation=observation[part],
                    action=action[part],
                    next_observation=step.next_observation[part],
                    terminated=step.terminated[part],
                    truncated=step.truncated[part],
                    reward=reward[part],
                )
            )
        )
    return rows
