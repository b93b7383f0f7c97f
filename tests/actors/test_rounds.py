"""Rounds of play and the replay of what they gave."""

import math

import numpy as np
import pytest

from causeway.actors.replay import Replay
from causeway.actors.rounds import Round, RoundPlayer
from causeway.actors.tasks.family import find_split, with_true_reward
from causeway.actors.tasks.registry import load_family
from causeway.datasets.batches import RowLayout, Trajectory
from causeway.datasets.episodes import TERMINATED, TRUNCATED, flags_of
from tests.fakes import LedgeRobot

LEDGE = LedgeRobot()
LEDGE_TASKS = find_split(LEDGE, "standard").tasks


def play_ledge(act, tasks=LEDGE_TASKS, seed=0):
    player = RoundPlayer(LEDGE, tasks, range(len(tasks)), threads=1)
    return player.play(act, np.random.default_rng(seed))


def rightwards(observation):
    return np.ones((len(observation), 1))


def play_random(name, split, seed=0, envs_per_task=1, num_tasks=2):
    family = load_family(name)
    tasks = find_split(family, split).tasks[:num_tasks] * envs_per_task
    places = [i % num_tasks for i in range(len(tasks))]
    generator = np.random.default_rng(seed)
    player = RoundPlayer(family, tasks, places, threads=1)
    size = (len(tasks), family.action_size)
    return family, player.play(lambda _: generator.uniform(-1.0, 1.0, size), generator)


def columns(family, rows):
    o, a = family.observation_size, family.action_size
    width = RowLayout(o, a).width
    fields = np.split(rows[:, :width], np.cumsum([o, a, 1, o]), axis=1)[:4]
    flags = flags_of(rows[:, :width])
    ends = flags[:, [TERMINATED]], flags[:, [TRUNCATED]]
    return [*fields, *ends, rows[:, width:]]


def test_an_environment_that_cannot_restart_gives_one_episode_up_to_its_end():
    played = play_ledge(rightwards)
    assert played.task.tolist() == [0, 1, 2, 3]
    assert played.whole.all()
    assert played.length[2] == LEDGE.horizon
    assert (played.length[[0, 1, 3]] < LEDGE.horizon).all()
    *_, terminated, truncated, _ = columns(LEDGE, played.rows)
    last = played.begins + played.length - 1
    assert terminated[last, 0].tolist() == [1, 1, 0, 1]
    assert truncated[last, 0].tolist() == [0, 0, 1, 0]
    assert terminated.sum() + truncated.sum() == 4


def test_a_diverged_step_belongs_to_no_episode():
    ruined = [
        *LEDGE_TASKS[:1],
        type(LEDGE_TASKS[0])(id=7, reward={"pay": 1.0}, dynamics={"edge": math.nan}),
    ]
    played = play_ledge(rightwards, tasks=ruined)
    assert played.task.tolist() == [0]
    assert len(played.rows) == played.length.sum()


def test_environments_that_fall_start_again_until_the_round_is_over():
    family, played = play_random("hopper-params", "standard", envs_per_task=3)
    assert len(played.length) > 6  # random hoppers fall
    assert played.length.sum() == 6 * family.horizon
    assert (~played.whole).sum() == 6  # what the end of the round cut off
    *_, terminated, truncated, _ = columns(family, played.rows)
    last = played.begins + played.length - 1
    assert terminated[last, 0].astype(bool).tolist() == played.whole.tolist()
    assert truncated[last, 0].astype(bool).tolist() == (~played.whole).tolist()
    inside = np.ones(len(played.rows), bool)
    inside[last] = False
    assert not terminated[inside].any()
    assert not truncated[inside].any()


@pytest.mark.parametrize(
    ("name", "split"), [("cheetah-vel", "smac"), ("hopper-params", "standard")]
)
def test_rows_are_whole_trajectories_with_the_true_rewards_of_their_task(name, split):
    family, played = play_random(name, split)
    tasks = find_split(family, split).tasks
    layout = RowLayout(family.observation_size, family.action_size)
    returns = played.returns(layout)
    for index, (begin, length) in enumerate(zip(played.begins, played.length, strict=True)):
        rows = played.rows[begin : begin + length]
        observation, action, reward, following, terminated, truncated, measurement = columns(
            family, rows
        )
        np.testing.assert_array_equal(observation[1:], following[:-1])
        trajectory = Trajectory(
            observation=observation,
            action=action,
            next_observation=following,
            terminated=terminated[:, 0] > 0.5,
            truncated=truncated[:, 0] > 0.5,
            measurement=measurement.astype(np.float64),
        )
        episode = with_true_reward(family, tasks[played.task[index]], trajectory)
        np.testing.assert_allclose(reward[:, 0], episode.reward, rtol=1e-5, atol=1e-5)
        assert returns[index] == pytest.approx(episode.undiscounted_return, rel=1e-4)


def test_the_same_generator_plays_the_same_round():
    first, again, other = (play_random("cheetah-vel", "smac", seed=s)[1] for s in (3, 3, 4))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)


def filled_replay(rounds=2, num_tasks=4):
    family = load_family("cheetah-vel")
    tasks = find_split(family, "smac").tasks[:num_tasks]
    replay = Replay(family, tasks, rounds * num_tasks * family.horizon)
    for seed in range(rounds):
        replay.add(play_random("cheetah-vel", "smac", seed=seed, num_tasks=num_tasks)[1])
    return family, tasks, replay


def drawn_from(replay, rows):
    """Which task each drawn row was gathered in, found by its observation and action."""
    key = [r.tobytes() for played in replay.rounds for r in played.rows[:, :26]]
    place = np.concatenate([np.repeat(p.task, p.length) for p in replay.rounds])
    owner = dict(zip(key, place, strict=True))
    return np.array([owner[r[:26].tobytes()] for r in rows])


def test_a_tasks_own_transitions_keep_their_rewards():
    _, _, replay = filled_replay()
    places, rows = replay.draw(
        np.random.default_rng(0), num_tasks=4, transitions_per_task=50, own_share=1.0
    )
    assert sorted(places.tolist()) == [0, 1, 2, 3]
    rewards = {r[:26].tobytes(): r[26] for played in replay.rounds for r in played.rows}
    for place, of_task in zip(places, rows, strict=True):
        assert (drawn_from(replay, of_task) == place).all()
        assert all(row[26] == rewards[row[:26].tobytes()] for row in of_task)


def test_other_tasks_transitions_get_the_reward_of_the_task_they_are_drawn_for():
    _, tasks, replay = filled_replay()
    before = [played.rows.copy() for played in replay.rounds]
    places, rows = replay.draw(
        np.random.default_rng(0), num_tasks=4, transitions_per_task=200, own_share=0.25
    )
    velocity = {r[:26].tobytes(): r[-1] for played in replay.rounds for r in played.rows}
    for place, of_task in zip(places, rows, strict=True):
        owners = drawn_from(replay, of_task)
        assert (owners[:50] == place).all()
        assert set(owners[50:].tolist()) == {0, 1, 2, 3}
        wanted = tasks[place].reward["velocity"]
        for row in of_task:
            speed = float(velocity[row[:26].tobytes()])
            effort = 0.05 * float(np.square(row[20:26].astype(np.float64)).sum())
            assert row[26] == pytest.approx(-abs(speed - wanted) - effort, abs=1e-5)
    for played, rows_before in zip(replay.rounds, before, strict=True):
        np.testing.assert_array_equal(played.rows, rows_before)  # drawing changes nothing


def test_all_tasks_are_drawn_equally_often_whatever_the_batch():
    _, _, replay = filled_replay()
    for num_tasks in (1, 4, 8, 11):
        places, _ = replay.draw(
            np.random.default_rng(1), num_tasks=num_tasks, transitions_per_task=2, own_share=0.5
        )
        counts = np.bincount(places, minlength=4)
        assert counts.sum() == num_tasks
        assert counts.max() - counts.min() <= 1


def test_moments_are_those_of_all_observations():
    _, _, replay = filled_replay()
    seen = np.concatenate([played.rows[:, :20] for played in replay.rounds]).astype(np.float64)
    mean, spread = replay.moments()
    np.testing.assert_allclose(mean, seen.mean(0), atol=1e-9)
    np.testing.assert_allclose(spread, seen.std(0), atol=1e-6)


def test_a_full_replay_refuses_more():
    _, _, replay = filled_replay()
    with pytest.raises(ValueError, match="room for 1600 rows, got 2400"):
        replay.add(replay.rounds[0])


def test_rounds_put_together_keep_their_episodes():
    parts = [play_ledge(rightwards, seed=s) for s in (0, 1)]
    both = Round.concatenate(parts)
    layout = RowLayout(1, 1)
    np.testing.assert_allclose(
        both.returns(layout), np.concatenate([part.returns(layout) for part in parts])
    )
