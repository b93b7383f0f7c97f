import numpy as np
import pytest

from causeway.actors.behaviour import ScriptedBehaviour, collect_scripted
from causeway.actors.tasks.family import Split, Task
from causeway.actors.tasks.point_robot import PointRobot

FAMILY = PointRobot()
SPLIT = FAMILY.splits()["standard"]
EXACT = {"max_action": 1.0, "heading_noise": 0.0, "action_noise": 0.0, "random_share": 0.0}


def collect(options, tasks=SPLIT.train[:3], episodes_per_task=40, seed=0):
    split = Split(train=tuple(tasks), test=())
    return list(
        collect_scripted(FAMILY, split, options, episodes_per_task=episodes_per_task, seed=seed)
    )


def ends(episodes):
    return np.stack([episode.next_observation[-1] for episode in episodes])


def goal(task):
    return np.array([task.reward["goal_x"], task.reward["goal_y"]])


def test_train_and_test_tasks_are_collected_with_whole_episodes_and_true_rewards():
    collected = list(
        collect_scripted(FAMILY, SPLIT, ScriptedBehaviour(), episodes_per_task=3, seed=0)
    )
    assert [task.id for task, _ in collected] == list(range(50))
    for task, episodes in collected:
        assert [len(episode) for episode in episodes] == [20] * 3
        for episode in episodes:
            distance = np.linalg.norm(episode.next_observation - goal(task), axis=1)
            np.testing.assert_allclose(episode.reward, -distance, rtol=1e-5)
            assert episode.truncated.tolist() == [False] * 19 + [True]
            assert not episode.terminated.any()
            assert np.abs(episode.action).max() <= np.float32(0.98)


def test_without_errors_every_episode_ends_on_the_goal():
    for task, episodes in collect(ScriptedBehaviour(**EXACT, speed_low=0.8, speed_high=1.0)):
        np.testing.assert_allclose(ends(episodes), np.tile(goal(task), (40, 1)), atol=1e-5)


def test_a_heading_error_lasts_for_the_episode():
    options = ScriptedBehaviour(**{**EXACT, "heading_noise": 0.6}, speed_low=1.0, speed_high=1.0)
    (task, episodes), *_ = collect(options, episodes_per_task=400)
    end = ends(episodes)
    np.testing.assert_allclose(np.linalg.norm(end, axis=1), 1.0, atol=1e-5)
    aimed = np.arctan2(end[:, 1], end[:, 0]) - np.arctan2(goal(task)[1], goal(task)[0])
    error = (aimed + np.pi) % (2 * np.pi) - np.pi
    assert error.std() == pytest.approx(0.6, rel=0.15)
    for episode in episodes[:5]:  # straight, though in a wrong direction
        direction = episode.next_observation[:9] / np.linalg.norm(
            episode.next_observation[:9], axis=1, keepdims=True
        )
        np.testing.assert_allclose(direction, np.tile(direction[0], (9, 1)), atol=1e-4)


def test_the_random_share_of_the_episodes_has_nothing_to_do_with_the_task():
    options = ScriptedBehaviour(**{**EXACT, "random_share": 0.25}, speed_low=1.0, speed_high=1.0)
    (task, episodes), *_ = collect(options, episodes_per_task=400)
    missed = np.linalg.norm(ends(episodes) - goal(task), axis=1) > 1e-3
    assert missed.mean() == pytest.approx(0.25, abs=0.07)
    np.testing.assert_allclose(ends(episodes)[missed].mean(axis=0), (0.0, 2.0 / np.pi), atol=0.25)


def test_speeds_are_fractions_of_the_largest_straight_step():
    options = ScriptedBehaviour(**EXACT, speed_low=0.2, speed_high=0.4)
    for _, episodes in collect(options):
        first = np.array([np.abs(e.next_observation[0]).max() for e in episodes])
        assert first.min() >= 0.0199
        assert first.max() <= 0.0401


def test_the_default_is_better_than_nothing_and_worse_than_the_optimum():
    for task, episodes in collect(ScriptedBehaviour(), episodes_per_task=100):
        mean = np.mean([episode.undiscounted_return for episode in episodes])
        standing_still = -20.0
        assert standing_still + 1.0 < mean < FAMILY.optimal_return(task) - 4.0


def test_a_task_is_collected_alike_whatever_tasks_stand_beside_it():
    alone = collect(ScriptedBehaviour(), tasks=SPLIT.train[2:3])
    together = collect(ScriptedBehaviour(), tasks=SPLIT.train[:3])
    for one, other in zip(alone[0][1], together[2][1], strict=True):
        np.testing.assert_array_equal(one.action, other.action)
    others = collect(ScriptedBehaviour(), tasks=SPLIT.train[2:3], seed=1)
    assert not np.array_equal(alone[0][1][0].action, others[0][1][0].action)


def test_two_tasks_do_not_share_their_noise():
    twins = [Task(id=i, reward={"goal_x": 0.0, "goal_y": 1.0}) for i in range(2)]
    (_, first), (_, second) = collect(ScriptedBehaviour(), tasks=twins)
    assert not np.array_equal(first[0].action, second[0].action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heading_noise": -0.1}, r"heading_noise must be at least 0, got -0\.1"),
        ({"random_share": 1.5}, r"random_share must lie in \[0, 1\], got 1\.5"),
        ({"speed_low": 0.0}, "0 < speed_low <= speed_high <= 1, got 0.0"),
        ({"speed_low": 0.9, "speed_high": 0.5}, "got 0.9 and 0.5"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScriptedBehaviour(**options)


def test_tasks_without_a_goal_are_refused():
    with pytest.raises(ValueError, match=r"with goal_x and goal_y, task 7 .* has velocity"):
        collect(ScriptedBehaviour(), tasks=[Task(id=7, reward={"velocity": 1.0})])


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="episodes_per_task must be at least 1, got 0"):
        collect(ScriptedBehaviour(), episodes_per_task=0)
