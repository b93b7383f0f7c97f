"""Meta-World's families. What needs the package runs where its extra is installed."""

import pickle

import numpy as np
import pytest

from causeway.actors.rollout import run_episodes
from causeway.actors.tasks.family import with_true_reward
from causeway.actors.tasks.registry import load_family

NAMES = ["metaworld-reach", "metaworld-push"]
each_family = pytest.mark.parametrize("name", NAMES)
LIMITS = {
    "metaworld-reach": ((-0.1, 0.8, 0.05), (0.1, 0.9, 0.3)),
    "metaworld-push": ((-0.1, 0.8, 0.01), (0.1, 0.9, 0.02)),
}


def vectors(tasks):
    goals = np.array([[task.reward[f"goal_{axis}"] for axis in "xyz"] for task in tasks])
    starts = np.array([[task.dynamics[f"start_{axis}"] for axis in "xyz"] for task in tasks])
    return starts, goals


@each_family
def test_goals_and_starts_fill_meta_worlds_ranges(name):
    split = load_family(name).splits()["standard"]
    assert (len(split.train), len(split.test)) == (45, 5)
    starts, goals = vectors(split.tasks)
    low, high = LIMITS[name]
    assert (goals >= low).all()
    assert (goals <= high).all()
    assert (np.ptp(goals, axis=0) > 0.8 * (np.array(high) - low)).all()
    assert (starts >= (-0.1, 0.6, 0.02)).all()
    assert (starts <= (0.1, 0.7, 0.02)).all()
    assert (np.linalg.norm((goals - starts)[:, :2], axis=1) >= 0.15).all()


@each_family
def test_parameters_other_than_a_start_are_refused(name):
    with pytest.raises(ValueError, match="start_x, start_y and start_z, got goal_x"):
        load_family(name).dynamics([{"goal_x": 0.0}])


@each_family
def test_its_ranges_are_those_of_the_package(name, installed):
    space = installed.env_dict.ALL_V3_ENVIRONMENTS[f"{name[10:]}-v3"]()._random_reset_space
    low, high = LIMITS[name]
    np.testing.assert_array_equal(space.low, [-0.1, 0.6, 0.02, *low])
    np.testing.assert_array_equal(space.high, [0.1, 0.7, 0.02, *high])


def played(package, name, task, make_policy):
    """An environment of Meta-World's with the task's own goal, played by its scripted policy."""
    environment = package.env_dict.ALL_V3_ENVIRONMENTS[f"{name[10:]}-v3"]()
    starts, goals = vectors([task])
    data = {
        "env_cls": type(environment),
        "rand_vec": np.concatenate([starts[0], goals[0]]),
        "partially_observable": False,
    }
    environment.set_task(package.Task(env_name=f"{name[10:]}-v3", data=pickle.dumps(data)))
    observation, _ = environment.reset()
    policy, noise = make_policy(), np.random.default_rng(task.id)
    actions, rewards, observations = [], [], [observation]
    for _ in range(200):
        action = np.clip(policy.get_action(observation) + 0.1 * noise.normal(size=4), -1.0, 1.0)
        actions.append(action.astype(np.float32))
        observation, reward, *_ = environment.step(actions[-1])
        rewards.append(reward)
        observations.append(observation)
    return np.array(actions), np.array(rewards), np.array(observations)


@each_family
def test_rewards_are_meta_worlds_own_step_for_step(name, installed):
    from metaworld import policies

    family = load_family(name)
    make_policy = getattr(policies, f"Sawyer{name[10:].title()}V3Policy")
    largest = 0.0
    for task in family.splits()["standard"].test[:2]:
        actions, rewards, observations = played(installed, name, task, make_policy)
        remaining = iter(actions)
        (trajectory,) = run_episodes(
            family.dynamics([task.dynamics]),
            lambda observation, remaining=remaining: next(remaining)[None],
            horizon=family.horizon,
            generator=np.random.default_rng(0),
        )
        ours = with_true_reward(family, task, trajectory).reward
        np.testing.assert_allclose(ours, rewards, rtol=1e-5, atol=1e-5)
        # They are theirs but for the goal, which is hidden.
        np.testing.assert_allclose(trajectory.next_observation[:, :36], observations[1:, :36])
        np.testing.assert_array_equal(trajectory.next_observation[:, 36:], 0.0)
        largest = max(largest, ours.max())
    assert largest == 10.0  # the scripted policy gets there
