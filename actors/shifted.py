"""Contexts that another task's behaviour gathered: the shift that a belief from logs may meet.

The logs of a task hold what its own behaviour policy did there. Here the actions of another task's
logs are played in the task, open loop, and rewarded as the task does. It needs no behaviour policy
and is the same for every method. Where episodes start alike, as point robots' do, it is exactly
what the other behaviour sees; elsewhere it is that behaviour's actions without its reactions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from causeway.actors.contexts import Rows
from causeway.actors.rollout import run_episodes
from causeway.actors.tasks.family import Family, Task, with_true_reward
from causeway.datasets.batches import RowLayout
from causeway.datasets.episodes import find_bounds


def shifted_contexts(
    family: Family,
    tasks: Sequence[Task],
    logs: Mapping[int, Rows],
    layout: RowLayout,
    *,
    num_episodes: int,
    generator: np.random.Generator,
) -> dict[int, Rows]:
    """Transitions of each task by the behaviour of another, by task id.

    The other task is half the list away; families list their tasks by their parameters.

    Args:
        family: of the tasks.
        tasks: of which all with logs are used; fewer than two give nothing.
        logs: rows in time order by task id.
        layout: of these rows, and of those given.
        num_episodes: of each task.
        generator: of the episodes' choice and starts.
    """
    known = [task for task in tasks if len(logs.get(task.id, ())) > 0]
    if len(known) < 2:
        return {}
    contexts = {}
    for index, task in enumerate(known):
        donor = known[(index + len(known) // 2) % len(known)]
        plans = _episodes_of(logs[donor.id], layout, family.horizon)
        chosen = plans[generator.integers(len(plans), size=num_episodes)]
        contexts[task.id] = _replayed(family, task, chosen, layout, generator)
    return contexts


def _episodes_of(rows: Rows, layout: RowLayout, horizon: int) -> Float32[np.ndarray, "e T A"]:
    """The actions of each episode, and none behind its end."""
    o, a = layout.observation_size, layout.action_size
    bounds = find_bounds(rows, begins_episode=True).tolist()
    bounds = bounds if len(bounds) > 1 else [0, len(rows)]
    plans = np.zeros((len(bounds) - 1, horizon, a), np.float32)
    for plan, begin, end in zip(plans, bounds[:-1], bounds[1:], strict=True):
        length = min(end - begin, horizon)
        plan[:length] = rows[begin : begin + length, o : o + a]
    return plans


def _replayed(
    family: Family,
    task: Task,
    plans: Float32[np.ndarray, "e T A"],
    layout: RowLayout,
    generator: np.random.Generator,
) -> Rows:
    steps = iter(range(family.horizon))
    trajectories = run_episodes(
        family.dynamics([task.dynamics] * len(plans)),
        lambda observation: plans[:, next(steps)],
        horizon=family.horizon,
        generator=generator,
    )
    episodes = [with_true_reward(family, task, one) for one in trajectories if len(one) > 0]
    return np.concatenate([layout.pack(episode) for episode in episodes])
