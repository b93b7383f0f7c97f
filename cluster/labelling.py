"""From unlabelled rollouts to labelled ones: the learner's reward decoder, once per trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from causeway.actors.collector import Rollout, padded
from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.policy import AdaptivePolicy, LabellingPolicy, labelling


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRollout:
    """What one collection gathered, with rewards."""

    task_id: int
    sequence: int
    label_version: int | None  # updates of the decoder that labelled; None: true rewards
    episodes: list[Episode]


def label_rollout(
    policy: AdaptivePolicy,
    rollout: Rollout,
    contexts: Sequence[Float32[np.ndarray, "K W"]],
    layout: RowLayout,
    *,
    label_version: int,
    seed: int,
    device: torch.device,
) -> LabelledRollout:
    """Labels every trajectory in one forward pass, each with a latent of its own context.

    The latents depend on the seed and the rollout's number, not on when it is labelled.

    Raises:
        ValueError: the policy has no reward model.
        FloatingPointError: a label is not finite; nothing of the rollout may be trained on.
    """
    generator = torch.Generator(device).manual_seed(_mix(seed, rollout.sequence))
    trajectories = rollout.trajectories
    rewards = labelling(policy).label(
        layout.context(torch.tensor(np.stack(contexts), device=device)),
        padded([t.observation for t in trajectories]).to(device),
        padded([t.action for t in trajectories]).to(device),
        padded([t.next_observation for t in trajectories]).to(device),
        generator,
    )
    labels = rewards.float().cpu().numpy()
    episodes = [t.labelled(labels[n, : len(t)].copy()) for n, t in enumerate(trajectories)]
    if not all(np.isfinite(episode.reward).all() for episode in episodes):
        raise FloatingPointError(
            f"the decoder gave a reward that is not finite to rollout {rollout.sequence}"
        )
    return LabelledRollout(
        task_id=rollout.task_id,
        sequence=rollout.sequence,
        label_version=label_version,
        episodes=episodes,
    )


def rewarded_rollout(rollout: Rollout) -> LabelledRollout:
    """What an oracle's collector gathered, with the environment's rewards that it holds.

    Raises:
        ValueError: a trajectory has none.
    """
    episodes = [one for one in rollout.trajectories if isinstance(one, Episode)]
    if len(episodes) < len(rollout.trajectories):
        raise ValueError(
            f"an oracle's rollout must have the environment's rewards, rollout {rollout.sequence} "
            "lacks some: it was gathered without collection.true_rewards"
        )
    return LabelledRollout(
        task_id=rollout.task_id,
        sequence=rollout.sequence,
        label_version=None,
        episodes=episodes,
    )


@torch.no_grad()
def label_error(
    policy: AdaptivePolicy,
    logs: Sequence[Float32[np.ndarray, "R W"]],
    layout: RowLayout,
    *,
    rows: int,
    seed: int,
) -> float | None:
    """How far the decoder's rewards are from true ones: the mean absolute error, in reward units.

    In logs rewards are known. Of each task's, some rows are the context and others are labelled.

    Args:
        policy: on the CPU; None is given for one that cannot label.
        logs: of each task; at least two rows.
        layout: of their rows.
        rows: of each task as context, and as many to be labelled, where there are so many.
        seed: of the draw; the same rows for the same seed.
    """
    if not isinstance(policy, LabellingPolicy):
        return None
    rows = min(rows, min(len(log) for log in logs) // 2)
    numbers = np.random.default_rng([seed, 4])
    drawn = np.stack([log[numbers.permutation(len(log))[: 2 * rows]] for log in logs])
    context, asked = torch.from_numpy(drawn[:, :rows]), torch.from_numpy(drawn[:, rows:])
    transitions = layout.transitions(asked)
    labels = policy.label(
        layout.context(context),
        transitions.observation,
        transitions.action,
        transitions.next_observation,
        torch.Generator().manual_seed(_mix(seed, 0)),
    )
    return float((labels - transitions.reward).abs().mean())


def _mix(seed: int, sequence: int) -> int:
    return int(np.random.SeedSequence([seed, sequence, 3]).generate_state(1, np.uint64)[0] >> 1)
