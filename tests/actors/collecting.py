"""Collectors on point robots, and what they are given."""

import numpy as np

from causeway.actors.behaviour import ScriptedBehaviour, collect_scripted
from causeway.actors.collector import Assignment, Collector, CollectorConfig
from causeway.actors.tasks.family import Split
from causeway.actors.tasks.point_robot import PointRobot
from causeway.datasets.batches import RowLayout
from tests.fakes import SeekingPolicy

FAMILY = PointRobot()
TASK = FAMILY.splits()["standard"].train[3]
LAYOUT = RowLayout(2, 2)
SMALL = {"num_envs": 2, "prior_env_steps": 60, "posterior_env_steps": 100}


def logged_rows(task=TASK, episodes_per_task=10):
    split = Split(train=(task,), test=())
    options = ScriptedBehaviour(heading_noise=0.1, random_share=0.0)
    ((_, episodes),) = collect_scripted(
        FAMILY, split, options, episodes_per_task=episodes_per_task, seed=0
    )
    return np.concatenate([LAYOUT.pack(episode) for episode in episodes])


def assignment(sequence=0, rows=None):
    return Assignment(
        task_id=TASK.id,
        dynamics=TASK.dynamics,
        labelling_context=logged_rows() if rows is None else rows,
        sequence=sequence,
    )


def make(policy=None, *, seed=0, index=0, dynamics=PointRobot.dynamics, **config):
    policy = SeekingPolicy() if policy is None else policy
    collector = Collector(
        policy,
        dynamics,
        LAYOUT,
        horizon=20,
        config=CollectorConfig(**{**SMALL, **config}),
        seed=seed,
        index=index,
    )
    collector.set_weights(policy.state_dict(), (1, 0))
    return collector


def assert_same_trajectories(left, right):
    assert len(left.trajectories) == len(right.trajectories)
    for a, b in zip(left.trajectories, right.trajectories, strict=True):
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(a.action, b.action)
