import numpy as np
import pytest
import torch

from causeway.actors.rollout import (
    Generators,
    LatentPer,
    check_choice,
    rollout,
    run_episodes,
)
from causeway.actors.tasks.family import with_true_reward
from causeway.actors.tasks.point_robot import PointRobot
from tests.fakes import LedgeRobot, SeekingPolicy

LEDGE = LedgeRobot()


def run_ledge(act, edges=(0.15, 0.35, 9.0), seed=0):
    return run_episodes(
        LEDGE.dynamics([{"edge": edge} for edge in edges]),
        act,
        horizon=LEDGE.horizon,
        generator=np.random.default_rng(seed),
    )


def roll(policy, num_envs=3, seed=0, latent_per="trajectory", actions="stochastic"):
    return rollout(
        policy,
        PointRobot.dynamics([{}] * num_envs),
        policy.prior(num_envs),
        horizon=PointRobot.horizon,
        latent_per=latent_per,
        actions=actions,
        generators=Generators.from_key(seed),
    )


def test_each_trajectory_ends_where_its_own_environment_did():
    trajectories = run_ledge(lambda observation: np.ones((3, 1)))
    assert [len(t) for t in trajectories[:2]] != [8, 8]
    for trajectory, edge in zip(trajectories, (0.15, 0.35, 9.0), strict=True):
        falls = trajectory.next_observation[:, 0] >= edge
        np.testing.assert_array_equal(trajectory.terminated, falls)
        assert not trajectory.terminated[:-1].any()
        assert not trajectory.truncated[:-1].any()
        assert trajectory.terminated[-1] | trajectory.truncated[-1]
    assert trajectories[2].truncated[-1]
    assert not trajectories[2].terminated[-1]


def test_a_trajectory_chains_its_observations_and_owns_its_memory():
    for trajectory in run_ledge(lambda observation: np.ones((3, 1))):
        np.testing.assert_array_equal(trajectory.observation[1:], trajectory.next_observation[:-1])
        step = trajectory.next_observation - trajectory.observation
        np.testing.assert_allclose(step, 0.1 * trajectory.action, atol=1e-6)
        for array in (trajectory.observation, trajectory.action, trajectory.terminated):
            assert array.base is None
        assert trajectory.observation.dtype == trajectory.action.dtype == np.float32
        assert trajectory.terminated.dtype == trajectory.truncated.dtype == bool


def test_each_trajectory_keeps_what_was_measured_at_its_own_steps():
    generator = np.random.default_rng(0)
    for trajectory in run_ledge(lambda observation: generator.uniform(-1.0, 1.0, (3, 1))):
        measured = trajectory.measurement
        assert measured.shape == (len(trajectory), 1)
        assert measured.dtype == np.float64
        assert measured.base is None
        moved = trajectory.next_observation - trajectory.observation
        np.testing.assert_allclose(measured, moved, atol=1e-6)


def test_a_true_reward_reads_the_measurement_and_says_when_it_is_gone():
    task = LEDGE.splits()["standard"].train[0]
    (trajectory,) = run_ledge(lambda observation: np.ones((1, 1)), edges=[0.35])
    episode = with_true_reward(LEDGE, task, trajectory)
    np.testing.assert_allclose(episode.reward, trajectory.measurement[:, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="'ledge-robot' needs the trajectory's measurement"):
        with_true_reward(LEDGE, task, trajectory.without_measurement())


def test_a_family_that_measures_nothing_rewards_a_trajectory_from_a_file():
    family = PointRobot()
    task = family.splits()["standard"].train[0]
    (trajectory, *_) = roll(SeekingPolicy())
    assert trajectory.measurement.shape == (20, 0)
    here = with_true_reward(family, task, trajectory)
    later = with_true_reward(family, task, trajectory.without_measurement())
    np.testing.assert_array_equal(here.reward, later.reward)


def test_actions_are_clipped_before_they_are_taken_and_kept():
    for trajectory in run_ledge(lambda observation: np.full((3, 1), -7.0)):
        np.testing.assert_array_equal(trajectory.action, -1.0)
        assert trajectory.next_observation[-1, 0] > -0.86


def test_actions_that_are_no_numbers_are_refused_with_their_environment():
    with pytest.raises(ValueError, match=r"must be finite, got \[nan\] for environment 1"):
        run_ledge(lambda observation: np.array([[0.0], [np.nan], [0.0]]))


def test_dynamics_that_outlive_their_horizon_are_refused():
    with pytest.raises(ValueError, match="horizon of 3 steps, 2 of 2 environments went on"):
        run_episodes(
            LEDGE.dynamics([{"edge": 9.0}] * 2),
            lambda observation: np.zeros((2, 1)),
            horizon=3,
            generator=np.random.default_rng(0),
        )


def test_a_trajectory_that_diverged_at_once_is_empty_and_the_others_are_whole():
    lost, whole = run_ledge(lambda observation: np.zeros((2, 1)), edges=(np.nan, 9.0))
    assert (len(lost), len(whole)) == (0, 8)
    assert lost.observation.shape == (0, 1)
    assert whole.truncated[-1]


def test_a_latent_is_kept_for_its_trajectory_or_drawn_at_every_step():
    per_trajectory, per_step = SeekingPolicy(), SeekingPolicy()
    roll(per_trajectory)
    roll(per_step, latent_per="step")
    assert len(per_trajectory.drawn) == 1
    assert len(per_step.drawn) >= 20


def test_a_latent_for_anything_else_is_refused():
    check_choice("SomeConfig", "latent_per", LatentPer, "step")
    with pytest.raises(ValueError, match=r"SomeConfig\.latent_per must be one of trajectory, step"):
        check_choice("SomeConfig", "latent_per", LatentPer, "epoch")


def test_environments_act_on_latents_of_their_own():
    ends = np.stack(
        [t.next_observation[-1] for t in roll(SeekingPolicy(), actions="deterministic")]
    )
    assert len(np.unique(ends.round(3), axis=0)) == 3


def test_deterministic_actions_draw_nothing_but_the_latent():
    policy = SeekingPolicy()
    roll(policy, actions="deterministic")
    assert not any(policy.were_actions_drawn)
    roll(policy, actions="stochastic")
    assert policy.were_actions_drawn[-1]


def test_a_rollout_depends_on_its_key_and_not_on_global_random_states():
    torch.manual_seed(0)
    first = roll(SeekingPolicy(), seed=3)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    again = roll(SeekingPolicy(), seed=3)
    other = roll(SeekingPolicy(), seed=4)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.action, b.action)
        assert not np.array_equal(a.action, c.action)


def test_generators_differ_between_keys_and_between_libraries():
    first, second = Generators.from_key(0, 1), Generators.from_key(1, 0)
    assert first.numpy.random() != second.numpy.random()
    assert first.torch.initial_seed() != second.torch.initial_seed()
    assert Generators.from_key(0, 1).torch.initial_seed() == first.torch.initial_seed()


def test_a_belief_for_another_number_of_environments_is_refused():
    policy = SeekingPolicy()
    with pytest.raises(ValueError, match="got 2 for 3 environments"):
        rollout(
            policy,
            PointRobot.dynamics([{}] * 3),
            policy.prior(2),
            horizon=20,
            latent_per="trajectory",
            actions="stochastic",
            generators=Generators.from_key(0),
        )
