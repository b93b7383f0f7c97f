import numpy as np
import pytest

from causeway.actors.tasks.family import Dynamics, Family, Task
from causeway.actors.tasks.point_robot import PointRobot, SparsePointRobot
from causeway.actors.tasks.registry import load_family

GENERATOR = np.random.default_rng(0)


def walk(family, actions):
    """Observations [T + 1, 2] of one point that takes the actions [T, 2]."""
    dynamics = family.dynamics([{}])
    start = dynamics.reset(GENERATOR)
    steps = [dynamics.step(np.asarray([action], np.float32)) for action in actions]
    return np.concatenate([start, *[step.next_observation for step in steps]])


@pytest.mark.parametrize("name", ["point-robot", "sparse-point-robot"])
def test_every_task_has_its_goal_on_the_upper_unit_semicircle(name):
    split = load_family(name).splits()["standard"]
    assert [task.id for task in split.train] == list(range(40))
    assert [task.id for task in split.test] == list(range(40, 50))
    goals = np.array([[t.reward["goal_x"], t.reward["goal_y"]] for t in split.tasks])
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1.0, rtol=1e-12)
    assert (goals[:, 1] >= 0.0).all()
    assert len(np.unique(goals, axis=0)) == 50


def test_tasks_are_the_same_whatever_the_global_random_state():
    np.random.seed(1)  # noqa: NPY002
    first = PointRobot().splits()
    np.random.seed(2)  # noqa: NPY002
    assert PointRobot().splits() == first


def test_an_action_moves_the_point_by_a_tenth_and_nothing_else_does():
    observations = walk(PointRobot(), [[1.0, -0.5], [0.0, 0.0], [-1.0, 0.25]])
    expected = [[0.0, 0.0], [0.1, -0.05], [0.1, -0.05], [0.0, -0.025]]
    np.testing.assert_allclose(observations, expected, atol=1e-7)


def test_an_episode_is_truncated_at_step_20_and_never_terminated():
    dynamics = PointRobot.dynamics([{}, {}])
    for _ in range(2):  # a second episode starts as the first one did
        np.testing.assert_array_equal(dynamics.reset(GENERATOR), np.zeros((2, 2)))
        for step_number in range(1, 21):
            step = dynamics.step(np.ones((2, 2), np.float32))
            assert not step.terminated.any()
            assert (step.truncated == (step_number == 20)).all()


def test_the_dense_reward_is_minus_the_distance_after_the_step():
    reward = PointRobot().reward(
        [{"goal_x": 0.0, "goal_y": 1.0}, {"goal_x": 1.0, "goal_y": 0.0}],
        np.full((2, 2), 9.0, np.float32),
        np.full((2, 2), 9.0, np.float32),
        np.array([[0.0, 0.25], [1.0, 0.5]], np.float32),
        np.zeros((2, 0)),
    )
    np.testing.assert_allclose(reward, [-0.75, -0.5])
    assert reward.dtype == np.float32


def test_the_sparse_reward_is_zero_outside_its_disc():
    following = np.array([[1.0, 0.0], [0.9, 0.0], [0.81, 0.0], [0.79, 0.0]], np.float32)
    reward = SparsePointRobot().reward(
        [{"goal_x": 1.0, "goal_y": 0.0}] * 4, following, following, following, np.zeros((4, 0))
    )
    np.testing.assert_allclose(reward, [1.0, 0.9, 0.81, 0.0], rtol=1e-6)


@pytest.mark.parametrize("family", [PointRobot(), SparsePointRobot()])
def test_rewards_of_whole_trajectories_are_those_of_their_steps(family):
    tasks = family.splits()["standard"].train[:3]
    drawn = np.random.default_rng(0).normal(size=(3, 3, 7, 2), scale=0.5)
    observation, action, following = drawn.astype(np.float32)
    rewards = [task.reward for task in tasks]
    nothing = np.zeros((3, 7, 0))
    whole = family.reward(rewards, observation, action, following, nothing)
    by_step = [
        family.reward(rewards, observation[:, t], action[:, t], following[:, t], nothing[:, t])
        for t in range(7)
    ]
    np.testing.assert_array_equal(whole, np.stack(by_step, axis=1))


@pytest.mark.parametrize("family", [PointRobot(), SparsePointRobot()])
def test_the_optimal_return_is_reached_and_not_beaten(family):
    generator = np.random.default_rng(0)
    for task in family.splits()["standard"].tasks[::7]:
        goal = np.array([task.reward["goal_x"], task.reward["goal_y"]])

        def return_of(actions, task=task):
            observations = walk(family, actions)[None]
            before, after = observations[:, :-1], observations[:, 1:]
            taken = np.array([actions], np.float32)
            nothing = np.zeros((1, len(actions), 0))
            rewards = family.reward([task.reward], before, taken, after, nothing)
            return rewards.sum(dtype=np.float64)

        remaining = goal.copy()
        greedy = []
        for _ in range(20):  # each axis closes its own gap as fast as it can
            greedy.append(np.clip(remaining / 0.1, -1.0, 1.0))
            remaining -= 0.1 * greedy[-1]
        optimal = family.optimal_return(task)
        assert return_of(greedy) == pytest.approx(optimal, abs=1e-4)
        for _ in range(20):
            noisy = np.clip(np.array(greedy) + generator.normal(0, 0.2, (20, 2)), -1.0, 1.0)
            assert return_of(noisy) <= optimal + 1e-4


def test_the_optimum_of_a_goal_on_an_axis_is_the_sum_one_can_do_by_hand():
    task = Task(id=0, reward={"goal_x": 1.0, "goal_y": 0.0})
    # distances 0.9, 0.8, ..., 0.1, then eleven times 0
    assert PointRobot().optimal_return(task) == pytest.approx(-4.5)
    # within 0.2 after step 8: 0.8, 0.9, then eleven times 1
    assert SparsePointRobot().optimal_return(task) == pytest.approx(0.8 + 0.9 + 11.0)


def test_dynamics_parameters_are_refused():
    with pytest.raises(ValueError, match="no dynamics parameters, got goal_x, mass"):
        PointRobot.dynamics([{}, {"mass": 2.0, "goal_x": 1.0}])


@pytest.mark.parametrize("name", ["point-robot", "sparse-point-robot"])
def test_dynamics_hold_neither_reward_nor_goal(name):
    family = load_family(name)
    dynamics = family.dynamics([{}])
    assert isinstance(family, Family)
    assert isinstance(dynamics, Dynamics)
    assert not hasattr(dynamics, "reward")
    assert not [name for name in vars(dynamics) if "goal" in name or "reward" in name]
    # A plain function: whoever is handed it cannot walk back to the family.
    assert not hasattr(family.dynamics, "__self__")
