"""Collections side by side: faster, and each as it is alone."""

import threading
from functools import partial

import numpy as np
import pytest
import torch

from causeway.actors.collector import Assignment, Collector, CollectorConfig
from causeway.actors.side_by_side import MIN_ROWS
from causeway.actors.tasks.cheetah_vel import CheetahVel
from causeway.actors.tasks.hopper_params import HopperParams
from causeway.actors.tasks.point_robot import PointRobot
from causeway.datasets.batches import RowLayout
from causeway.learners.smac import Smac, SmacConfig
from tests.actors.collecting import LAYOUT, assert_same_trajectories, assignment, logged_rows, make
from tests.fakes import LedgeDynamics, SeekingPolicy


class OnePassPolicy(SeekingPolicy):
    """Acts for all collections at once; keeps how many rows it was given."""

    def __init__(self):
        super().__init__()
        self.rows_acted_on = []

    def act_with_noise(self, observation, latent, noise):
        self.rows_acted_on.append(len(observation))
        assert len(observation) == len(latent) == len(noise)
        action = (self.gain * (latent - observation) / 0.1).clamp(-1.0, 1.0)
        return (action + self.action_noise * noise).clamp(-1.0, 1.0)


def smac_policy(layout=LAYOUT):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = (300, 300, 300)
        config = SmacConfig(latent_dim=5, actor_hidden=hidden)
        return Smac(layout.observation_size, layout.action_size, config).policy()


class Counted:
    """A family's way to make dynamics that keeps what it was asked for."""

    def __init__(self, make_dynamics):
        self.make_dynamics = make_dynamics
        self.asked = []

    def __call__(self, tasks_dynamics):
        self.asked.append(list(tasks_dynamics))
        return self.make_dynamics(tasks_dynamics)


@pytest.mark.parametrize(
    ("make_policy", "options"),
    [
        (SeekingPolicy, {}),
        (SeekingPolicy, {"latent_per": "step"}),
        (SeekingPolicy, {"actions": "deterministic"}),
        (OnePassPolicy, {}),
        (OnePassPolicy, {"latent_per": "step"}),
        (smac_policy, {}),
    ],
)
@pytest.mark.parametrize("batch_envs", [1, 7, 64])
def test_a_rollout_is_the_same_alone_and_beside_others(make_policy, options, batch_envs):
    rows = logged_rows()
    options = {"num_envs": 3, "batch_envs": batch_envs, **options}
    together = make(make_policy(), **options).collect([assignment(n, rows) for n in (3, 1, 4, 0)])
    assert [one.sequence for one in together] == [3, 1, 4, 0]
    for one in (together[0], together[2]):
        (alone,) = make(make_policy(), **options).collect([assignment(one.sequence, rows)])
        assert_same_trajectories(one, alone)


def test_a_policy_that_acts_on_noise_gathers_what_it_does_by_itself():
    rows = logged_rows()
    one_pass, one_by_one = OnePassPolicy(), SeekingPolicy()
    left = make(one_pass, num_envs=3).collect([assignment(n, rows) for n in range(4)])
    right = make(one_by_one, num_envs=3).collect([assignment(n, rows) for n in range(4)])
    for a, b in zip(left, right, strict=True):
        assert_same_trajectories(a, b)
    assert set(one_pass.rows_acted_on) == {12}
    assert not one_pass.were_actions_drawn


def test_a_handful_of_rows_is_filled_up():
    policy = OnePassPolicy()
    make(policy, num_envs=1).collect([assignment()])
    assert set(policy.rows_acted_on) == {MIN_ROWS}


def test_no_more_environments_are_stepped_together_than_there_is_room_for():
    counted = Counted(PointRobot.dynamics)
    make(dynamics=counted, num_envs=3, batch_envs=7).collect(
        [assignment(n, logged_rows()) for n in range(5)]
    )
    assert {len(asked) for asked in counted.asked} == {6, 3}  # two at once, then the fifth


def test_threads_share_what_there_is_to_do_and_change_nothing_of_it():
    started = set()

    def dynamics(tasks_dynamics):
        started.add((threading.get_ident(), len(tasks_dynamics)))
        return PointRobot.dynamics(tasks_dynamics)

    rows = logged_rows()
    given = [assignment(n, rows) for n in range(5)]
    threaded = make(smac_policy(), dynamics=dynamics, num_envs=3, threads=2).collect(given)
    plain = make(smac_policy(), num_envs=3).collect(given)
    for left, right in zip(threaded, plain, strict=True):
        assert_same_trajectories(left, right)
    assert len({thread for thread, _ in started}) == 2
    assert max(count for _, count in started) == 9  # three of five at once


def test_what_fails_in_a_thread_is_told():
    def dynamics(tasks_dynamics):
        raise ValueError("no such robot")

    collector = make(dynamics=dynamics, threads=2)
    with pytest.raises(ValueError, match="no such robot"):
        collector.collect([assignment(n, logged_rows()) for n in range(2)])


def test_dynamics_are_kept_from_one_collection_to_the_next():
    counted = Counted(PointRobot.dynamics)
    collector = make(dynamics=counted)
    for sequence in range(3):
        collector.collect([assignment(sequence, logged_rows())])
    assert len(counted.asked) == 1


def cheetah_assignment(sequence, layout, **dynamics):
    rows = np.random.default_rng(sequence).normal(size=(80, layout.width)).astype(np.float32)
    return Assignment(
        task_id=sequence, dynamics=dynamics, labelling_context=rows, sequence=sequence
    )


def collector_of(family, num_threads=1, **config):
    layout = RowLayout(family.observation_size, family.action_size)
    collector = Collector(
        smac_policy(layout),
        partial(family.dynamics, threads=num_threads),
        layout,
        horizon=family.horizon,
        config=CollectorConfig(**config),
        seed=0,
        index=0,
    )
    collector.set_weights(smac_policy(layout).state_dict(), (1, 0))
    return collector, layout


def test_cheetahs_gather_the_same_alone_and_beside_others():
    short = {"prior_env_steps": 400, "posterior_env_steps": 200}
    together, layout = collector_of(CheetahVel, num_threads=2, **short)
    given = [cheetah_assignment(n, layout) for n in range(4)]
    rollouts = together.collect(given)
    for n in (0, 3):
        alone, _ = collector_of(CheetahVel, **short)
        (expected,) = alone.collect([given[n]])
        assert_same_trajectories(rollouts[n], expected)
        assert rollouts[n].env_steps == expected.env_steps == 800


def test_hoppers_of_different_bodies_and_lengths_gather_the_same_alone_and_beside_others():
    tasks = HopperParams().splits()["standard"].train[:3]
    short = {"num_envs": 2, "prior_env_steps": 100, "posterior_env_steps": 100}
    together, layout = collector_of(HopperParams, **short)
    given = [cheetah_assignment(n, layout, **task.dynamics) for n, task in enumerate(tasks)]
    rollouts = together.collect(given)
    assert len({len(rollout.trajectories) for rollout in rollouts}) > 1  # some finish before others
    for n in range(3):
        alone, _ = collector_of(HopperParams, **short)
        assert_same_trajectories(rollouts[n], alone.collect([given[n]])[0])


def ledge_collector(edges):
    layout = RowLayout(1, 1)
    collector = Collector(
        policy := SeekingPolicy(size=1),
        lambda entries: LedgeDynamics(edges[: len(entries)]),
        layout,
        horizon=LedgeDynamics.horizon,
        config=CollectorConfig(num_envs=3, prior_env_steps=24, posterior_env_steps=24),
        seed=0,
        index=0,
    )
    collector.set_weights(policy.state_dict(), (1, 0))
    rows = np.ones((5, layout.width), np.float32)
    return collector, Assignment(task_id=7, dynamics={}, labelling_context=rows, sequence=0)


def test_trajectories_that_diverged_at_once_are_not_kept():
    collector, given = ledge_collector([9.0, np.nan, 9.0])
    (rollout,) = collector.collect([given])
    assert {len(one) for one in rollout.trajectories} == {8}
    assert rollout.env_steps == 8 * len(rollout.trajectories) >= 48


def test_a_task_that_no_simulation_survives_is_named():
    collector, given = ledge_collector([np.nan] * 3)
    with pytest.raises(ValueError, match="task 7's dynamics must survive their first step, all of"):
        collector.collect([given])
