"""The MuJoCo families' tasks and rewards, against the numbers and formulas as they are written."""

import math

import gymnasium
import numpy as np
import pytest

from causeway.actors.rollout import run_episodes
from causeway.actors.tasks.locomotion import macaw_tasks
from causeway.actors.tasks.registry import load_family


def only(tasks, name):
    return [task.reward[name] for task in tasks]


def split_of(family, split):
    return load_family(family).splits()[split]


def sizes(split):
    return len(split.train), len(split.test)


# Splits


def test_smacs_cheetahs_run_at_pearls_speeds():
    split = split_of("cheetah-vel", "smac")
    assert sizes(split) == (100, 30)
    expected = np.random.RandomState(1337).uniform(0, 3, 130)
    np.testing.assert_array_equal(only(split.tasks, "velocity"), expected)
    assert [task.id for task in split.tasks] == list(range(130))


def test_the_yardsticks_of_smacs_test_speeds_are_theirs():
    speeds = np.array(only(split_of("cheetah-vel", "smac").test, "velocity"))
    assert 200 * -speeds.mean() == pytest.approx(-283.5, abs=0.05)  # standing still
    constant = [200 * -np.abs(speeds - speed).mean() for speed in np.linspace(0, 3, 3001)]
    assert max(constant) == pytest.approx(-160.2, abs=0.05)


def test_macaws_cheetahs_run_at_multiples_of_a_speed():
    split = split_of("cheetah-vel", "macaw")
    assert [task.id for task in split.test] == [2, 7, 15, 23, 26]
    assert sizes(split) == (35, 5)
    for task in split.tasks:
        assert task.reward["velocity"] == pytest.approx(0.075 * (task.id + 1), rel=1e-12)
    further = split_of("cheetah-vel", "macaw-extrapolate")
    assert [task.id for task in further.train] == list(range(26))
    assert [task.id for task in further.test] == list(range(26, 40))
    by_id = {task.id: task for task in split.tasks}
    assert all(task == by_id[task.id] for task in further.tasks)


def test_ldms_cheetahs_are_tested_between_the_speeds_they_trained_at():
    split = split_of("cheetah-vel", "ldm")
    assert only(split.test, "velocity") == [0.75, 1.25, 1.75, 2.25, 2.75]
    speeds = np.array(only(split.train, "velocity"))
    slow, fast = speeds[speeds <= 0.5], speeds[(speeds >= 3.0) & (speeds <= 3.5)]
    assert len(slow) == len(fast) == 50
    assert np.ptp(slow) > 0.4
    assert np.ptp(fast) > 0.4


def test_cheetahs_go_forward_and_backward():
    split = split_of("cheetah-dir", "standard")
    assert only(split.train, "direction") == only(split.test, "direction") == [1.0, -1.0]


def test_smacs_ants_go_in_pearls_directions():
    split = split_of("ant-dir", "smac")
    assert sizes(split) == (100, 20)
    degrees = np.random.RandomState(1337).uniform(0, 360, 120)
    np.testing.assert_allclose(only(split.tasks, "angle"), degrees / 180 * np.pi, rtol=1e-15)


def test_macaws_ants_go_in_the_published_directions():
    split = split_of("ant-dir", "macaw")
    assert sizes(split) == (45, 5)
    assert [task.id for task in split.test] == [6, 17, 23, 30, 41]
    by_id = {task.id: task.reward["angle"] for task in split.tasks}
    assert by_id[0] == 1.2033605945679715
    assert by_id[6] == 0.2454395410534735
    assert by_id[49] == 0.1831988121347493
    assert sorted(by_id) == list(range(50))


def test_ldms_ants_train_on_the_axes_and_are_tested_on_the_diagonals():
    split = split_of("ant-dir", "ldm")
    np.testing.assert_allclose(only(split.train, "angle"), np.arange(4) * np.pi / 2)
    np.testing.assert_allclose(only(split.test, "angle"), np.pi / 4 + np.arange(4) * np.pi / 2)


def test_ants_goals_fill_a_disc():
    split = split_of("ant-goal", "standard")
    assert sizes(split) == (100, 30)
    radius = np.hypot(only(split.tasks, "goal_x"), only(split.tasks, "goal_y"))
    assert radius.max() <= 3.0
    assert (radius < 3.0 * math.sqrt(0.5)).mean() == pytest.approx(0.5, abs=0.1)  # by area


def test_ldms_ants_are_tested_between_the_goals_they_trained_on():
    split = split_of("ant-goal", "ldm")
    radius = np.hypot(only(split.train, "goal_x"), only(split.train, "goal_y"))
    inner, outer = radius <= 1.0, (radius >= 2.5) & (radius <= 3.0)
    assert (inner | outer).all()
    assert inner.mean() == pytest.approx(1.0 / (1.0 + 9.0 - 6.25), abs=0.1)  # by area
    radius = np.hypot(only(split.test, "goal_x"), only(split.test, "goal_y"))
    np.testing.assert_allclose(radius, 1.75)


def test_humanoids_go_anywhere():
    split = split_of("humanoid-dir", "standard")
    assert sizes(split) == (50, 5)
    angles = np.array(only(split.tasks, "angle"))
    assert 0.0 <= angles.min() < 0.5
    assert 5.8 < angles.max() < 2 * np.pi


@pytest.mark.parametrize("name", ["hopper-params", "walker-params"])
def test_drawn_bodies_are_forty_and_ten(name):
    split = split_of(name, "standard")
    assert sizes(split) == (40, 10)
    masses = [task.dynamics["body_mass/torso"] for task in split.tasks]
    assert len(set(masses)) == 50
    nominal = 3.66519143
    assert nominal / 1.5**3 <= min(masses) < max(masses) <= nominal * 1.5**3
    assert not any(task.reward for task in split.tasks)


def test_macaws_walkers_have_the_published_bodies():
    split = split_of("walker-params", "macaw")
    assert sizes(split) == (45, 5)
    assert [task.id for task in split.test] == [2, 12, 15, 39, 43]
    task = split.train[0]
    assert task.id == 0
    assert len(task.dynamics) == 7 + 21 + 6 + 24
    assert task.dynamics["body_mass/torso"] == 5.965683295020098
    assert task.dynamics["body_mass/foot_left"] == 7.626978589962205
    assert task.dynamics["body_inertia/thigh/2"] == 0.001527769444690094
    assert task.dynamics["dof_damping/thigh_joint"] == 0.12034351640896322
    assert task.dynamics["dof_damping/foot_left_joint"] == 0.08015879044881952
    assert task.dynamics["geom_friction/floor/0"] == 0.6005778415921931
    assert task.dynamics["geom_friction/foot_left_geom/0"] == 2.779222047553154
    model = load_family("walker-params").dynamics([task.dynamics])._batch.get_model(0)
    published = macaw_tasks("walker_params")[0]
    for field, values in published.items():
        np.testing.assert_array_equal(getattr(model, field), values)


def test_dominos_cheetahs_are_tested_in_four_corners():
    split = split_of("cheetah-mass-damping", "domino")
    factors = [0.75, 0.85, 1.0, 1.15, 1.25]
    trained = {(t.dynamics["mass_factor"], t.dynamics["damping_factor"]) for t in split.train}
    assert trained == {(mass, damping) for mass in factors for damping in factors}
    corners = {}
    for task in split.test:
        mass, damping = task.dynamics["mass_factor"], task.dynamics["damping_factor"]
        assert all(0.2 <= f <= 0.5 or 1.5 <= f <= 1.8 for f in (mass, damping))
        corners.setdefault((mass > 1.0, damping > 1.0), []).append(task)
    assert {corner: len(tasks) for corner, tasks in corners.items()} == {
        (False, False): 5,
        (False, True): 5,
        (True, False): 5,
        (True, True): 5,
    }


# Rewards, one transition at a time


def effort(weight, action):
    total = 0.0
    for a in action.tolist():
        total += weight * a * a
    return total


def cheetah_vel(task, action, measured):
    return -abs(measured[0] - task["velocity"]) - effort(0.05, action)


def cheetah_dir(task, action, measured):
    return task["direction"] * measured[0] - effort(0.05, action)


def cheetah_forward(task, action, measured):
    return measured[0] - effort(0.1, action)


def ant_dir(task, action, measured):
    along = measured[0] * math.cos(task["angle"]) + measured[1] * math.sin(task["angle"])
    return along - effort(0.5, action) + 1.0


def ant_goal(task, action, measured):
    away = math.sqrt((measured[2] - task["goal_x"]) ** 2 + (measured[3] - task["goal_y"]) ** 2)
    return -away - effort(0.1, action)


def humanoid_dir(task, action, measured):
    change_x, change_y = 0.015 * measured[0], 0.015 * measured[1]
    along = change_x * math.cos(task["angle"]) + change_y * math.sin(task["angle"])
    return 0.25 * along / 0.003 - effort(0.1, 0.4 * action.astype(float)) + 5.0


def forward_alive(task, action, measured):
    return measured[0] + 1.0 - effort(0.001, action)


REFERENCES = {
    "cheetah-vel": cheetah_vel,
    "cheetah-dir": cheetah_dir,
    "cheetah-mass-damping": cheetah_forward,
    "ant-dir": ant_dir,
    "ant-goal": ant_goal,
    "humanoid-dir": humanoid_dir,
    "hopper-params": forward_alive,
    "walker-params": forward_alive,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_rewards_are_the_formula_one_transition_at_a_time(name):
    family = load_family(name)
    tasks = [task.reward for task in next(iter(family.splits().values())).train[:4]]
    generator = np.random.default_rng(0)
    shape = (len(tasks), 6)
    observation = generator.normal(size=(*shape, family.observation_size)).astype(np.float32)
    action = generator.uniform(-1.0, 1.0, (*shape, family.action_size)).astype(np.float32)
    measured = generator.normal(size=(*shape, family.measurement_size), scale=2.0)
    rewards = family.reward(tasks, observation, action, observation, measured)
    assert rewards.shape == shape
    assert rewards.dtype == np.float32
    for n, task in enumerate(tasks):
        for t in range(shape[1]):
            expected = REFERENCES[name](task, action[n, t], measured[n, t])
            assert rewards[n, t] == pytest.approx(expected, rel=1e-6, abs=1e-6)


# Where gymnasium pays the same, or the same but for terms that the families name: its bonus for
# being alive is not paid on the step that ends it, and its contact forces cost something.
PAID_ALIKE = [
    ("cheetah-mass-damping", {}, "HalfCheetah-v5", {}, 0.0),
    ("hopper-params", {}, "Hopper-v5", {}, 1.0),
    ("walker-params", {}, "Walker2d-v5", {}, 1.0),
    ("ant-dir", {"angle": 0.0}, "Ant-v5", {"contact_cost_weight": 0.0}, 1.0),
    ("humanoid-dir", {"angle": 0.0}, "Humanoid-v5", {"contact_cost_weight": 0.0}, 5.0),
]


@pytest.mark.parametrize(("name", "task", "environment", "options", "alive"), PAID_ALIKE)
def test_whole_episodes_earn_what_gymnasium_pays(name, task, environment, options, alive):
    family = load_family(name)
    theirs = gymnasium.make(environment, **options)
    control_scale = theirs.unwrapped.model.actuator_ctrlrange[:, 1]
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 1, family.action_size))
    remaining = iter(actions)
    (trajectory,) = run_episodes(
        family.dynamics([{}]),
        lambda observation: next(remaining),
        horizon=200,
        generator=np.random.default_rng(7),
    )
    rewards = family.reward(
        [task],
        trajectory.observation[None],
        trajectory.action[None],
        trajectory.next_observation[None],
        trajectory.measurement[None],
    )[0]
    theirs.reset(seed=7)
    for action, reward, ended in zip(
        trajectory.action, rewards, trajectory.terminated, strict=True
    ):
        _, expected, has_fallen, _, _ = theirs.step(action * control_scale)
        assert has_fallen == ended
        assert reward == pytest.approx(expected + alive * has_fallen, rel=1e-5, abs=1e-5)
    theirs.close()
