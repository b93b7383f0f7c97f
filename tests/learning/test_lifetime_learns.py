"""The agent whose lifetime becomes data does learn, and learns from being told its task."""

import numpy as np
import pytest

from causeway.actors.evaluator import random_return
from causeway.cluster.lifetime import Lifetime, LifetimeConfig
from causeway.cluster.players import GroupPlayers, local_players
from causeway.learners.conditioned_sac import ConditionedSacConfig

pytestmark = pytest.mark.learning

CONFIG = LifetimeConfig(
    family="point-robot",
    split="standard",
    rounds=21,
    updates_per_round=60,
    batch_tasks=16,
    batch_transitions=16,
    agent=ConditionedSacConfig(hidden=(64, 64), learning_rate=3e-3, discount=0.9),
)


def final_return(folder, seed, *, is_told=True, monkeypatch=None):
    """The final agent's mean return without noise, and what random actions earn."""
    if not is_told:
        for module in ("lifetime", "players"):
            monkeypatch.setattr(
                f"causeway.cluster.{module}.encode_tasks",
                lambda tasks: np.zeros((len(tasks), 2), np.float32),
            )
    config = LifetimeConfig(**{**vars(CONFIG), "seed": seed})
    lifetime = Lifetime(config, folder)
    lifetime.run(local_players(lifetime.casting), lambda moment, updates: None)
    players = GroupPlayers(lifetime.casting, range(lifetime.casting.num_groups))
    rounds = players.play(lifetime.weights(), "deterministic", 99)
    achieved = np.mean([lifetime.mean_return(played) for played in rounds])
    floor = random_return(lifetime.family, lifetime.tasks, repeats=10, seed=0).mean
    return achieved, floor


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_the_agent_learns_to_walk_to_every_goal(tmp_path, seed):
    achieved, floor = final_return(tmp_path, seed)
    assert floor < -20.0
    assert achieved > -6.0  # the optimum is about -4.5 and a blind walk to the middle about -9


@pytest.mark.slow
def test_an_agent_that_is_not_told_its_task_does_not(tmp_path, monkeypatch):
    achieved, _ = final_return(tmp_path, 0, is_told=False, monkeypatch=monkeypatch)
    assert achieved < -8.0
