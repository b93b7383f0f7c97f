"""What every family of ours keeps to, whatever it is about."""

import numpy as np
import pytest

from causeway.actors.rollout import run_episodes
from causeway.actors.tasks.family import Dynamics, Family, with_true_reward
from causeway.actors.tasks.registry import families, load_family

TERMINATE = {"ant-dir", "humanoid-dir", "hopper-params", "walker-params"}
NUM_ENVS = 4

pytestmark = pytest.mark.parametrize("name", list(families()))
needs_its_package = pytest.mark.usefixtures("installed")


def some_tasks(family, count=NUM_ENVS):
    tasks = next(iter(family.splits().values())).tasks
    return [tasks[n % len(tasks)] for n in range(count)]


def random_episodes(family, tasks, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    return run_episodes(
        family.dynamics([task.dynamics for task in tasks]),
        lambda observation: scale * generator.uniform(-1.0, 1.0, (len(tasks), family.action_size)),
        horizon=family.horizon,
        generator=generator,
    )


def test_it_has_every_member_and_a_first_split_with_tasks(name):
    family = load_family(name)
    assert isinstance(family, Family)
    assert family.name == name
    assert type(family).__doc__
    for split in family.splits().values():
        assert split.train
        assert split.test
        for task in split.tasks:
            assert np.isfinite(list(task.parameters.values())).all()
    assert family.splits() == load_family(name).splits()


@needs_its_package
def test_steps_have_their_shapes_and_are_finite(name):
    family = load_family(name)
    tasks = some_tasks(family)
    dynamics = family.dynamics([task.dynamics for task in tasks])
    assert isinstance(dynamics, Dynamics)
    observation = dynamics.reset(np.random.default_rng(0))
    action = np.random.default_rng(1).uniform(-1.0, 1.0, (NUM_ENVS, family.action_size))
    step = dynamics.step(action.astype(np.float32))
    for seen in (observation, step.next_observation):
        assert seen.shape == (NUM_ENVS, family.observation_size)
        assert seen.dtype == np.float32
        assert np.isfinite(seen).all()
    assert step.measurement.shape == (NUM_ENVS, family.measurement_size)
    assert np.isfinite(step.measurement).all()
    assert step.ended.shape == (NUM_ENVS,)
    assert not step.ended.any()


@needs_its_package
def test_episodes_end_at_the_horizon_or_as_the_family_says(name):
    family = load_family(name)
    episodes = random_episodes(family, some_tasks(family, 8), scale=3.0)
    assert max(len(one) for one in episodes) <= family.horizon
    for one in episodes:
        assert one.truncated[-1] == (len(one) == family.horizon)
        assert one.truncated[-1] | one.terminated[-1]
        np.testing.assert_array_equal(one.observation[1:], one.next_observation[:-1])
    assert any(one.terminated[-1] for one in episodes) == (name in TERMINATE)


@needs_its_package
def test_an_episode_is_the_same_again_from_the_same_seed_and_another_from_another(name):
    family = load_family(name)
    tasks = some_tasks(family)
    first, again = random_episodes(family, tasks), random_episodes(family, tasks)
    other = random_episodes(family, tasks, seed=1)
    for left, right, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(left.next_observation, right.next_observation)
        np.testing.assert_array_equal(left.measurement, right.measurement)
        assert not np.array_equal(left.next_observation, different.next_observation)


@needs_its_package
def test_a_reset_forgets_what_came_before(name):
    family = load_family(name)
    dynamics = family.dynamics([task.dynamics for task in some_tasks(family)])
    actions = np.random.default_rng(1).uniform(-1.0, 1.0, (6, NUM_ENVS, family.action_size))

    def episode():
        return [dynamics.reset(np.random.default_rng(0))] + [
            dynamics.step(action).next_observation for action in actions.astype(np.float32)
        ]

    for left, right in zip(episode(), episode(), strict=True):
        np.testing.assert_array_equal(left, right)


@needs_its_package
def test_rewards_of_whole_episodes_are_those_of_their_steps(name):
    family = load_family(name)
    tasks = some_tasks(family)
    for task, one in zip(tasks, random_episodes(family, tasks), strict=True):
        whole = with_true_reward(family, task, one).reward
        assert np.isfinite(whole).all()
        assert whole.dtype == np.float32
        parts = (one.observation, one.action, one.next_observation, one.measurement)
        by_step = family.reward([task.reward] * len(one), *parts)
        np.testing.assert_array_equal(whole, by_step)


@needs_its_package
def test_a_task_rewards_by_its_own_parameters_alone(name):
    family = load_family(name)
    tasks = some_tasks(family)
    (one, *_) = random_episodes(family, tasks[:1])
    parts = [one.observation, one.action, one.next_observation, one.measurement]
    together = family.reward(
        [task.reward for task in tasks], *[np.stack([part] * NUM_ENVS) for part in parts]
    )
    for task, rewards in zip(tasks, together, strict=True):
        np.testing.assert_array_equal(rewards, with_true_reward(family, task, one).reward)


@needs_its_package
def test_what_collectors_are_given_holds_no_reward(name):
    family = load_family(name)
    assert not hasattr(family.dynamics, "__self__")
    dynamics = family.dynamics([task.dynamics for task in some_tasks(family)])
    assert not hasattr(dynamics, "reward")
    held = {**vars(dynamics), **vars(getattr(dynamics, "_robot", dynamics))}
    assert not [key for key in held if "goal" in key or "reward" in key]


@needs_its_package
def test_dynamics_refuse_parameters_that_no_body_has(name):
    family = load_family(name)
    with pytest.raises(ValueError, match="tail_length"):
        family.dynamics([{"tail_length": 1.0}])
