import copy

import gymnasium
import mujoco
import numpy as np
import pytest

from causeway.actors.robots import Ant, Cheetah, Hopper, Humanoid, PlacedAnt, Walker, load_model
from causeway.actors.rollout import run_episodes
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.family import Dynamics

ROBOTS = [Cheetah, Hopper, Walker, Ant, PlacedAnt, Humanoid]
# What gymnasium observes of each: its environment, and how many of our first columns that is. The
# last 84 of the humanoid's are contact forces, which are not simulated.
GYMNASIUM = {
    Cheetah: ("HalfCheetah-v5", {}, 17),
    Hopper: ("Hopper-v5", {}, 11),
    Walker: ("Walker2d-v5", {}, 17),
    Ant: ("Ant-v5", {"include_cfrc_ext_in_observation": False}, 27),
    PlacedAnt: (
        "Ant-v5",
        {
            "include_cfrc_ext_in_observation": False,
            "exclude_current_positions_from_observation": False,
        },
        29,
    ),
    Humanoid: ("Humanoid-v4", {}, 292),
}
each_robot = pytest.mark.parametrize("robot", ROBOTS)


def make(robot=Cheetah, num_envs=3, *, horizon=200, threads=1, ends_when_fallen=True, models=None):
    return Simulator(
        robot,
        [load_model(robot)] * num_envs if models is None else models,
        horizon=horizon,
        ends_when_fallen=ends_when_fallen,
        threads=threads,
    )


def random_actions(robot, num_steps, num_envs, seed=0):
    drawn = np.random.default_rng(seed).uniform(-1.0, 1.0, (num_steps, num_envs, robot.action_size))
    return drawn.astype(np.float32)


def run(simulator, actions, generators=None):
    """All that an episode tells, in full precision: [T + 1, N, O] and [T, N, M]."""
    if generators is None:
        generators = np.random.default_rng(3)
    simulator.restart(np.ones(simulator.num_envs, bool), generators)
    observations, measurements = [simulator.observe()], []
    for action in actions:
        measurements.append(simulator.step(action).measurement)
        observations.append(simulator.observe())
    return np.stack(observations), np.stack(measurements)


def generators_of(seeds):
    return [np.random.default_rng(seed) for seed in seeds]


@pytest.mark.filterwarnings("ignore:.*Humanoid-v4 is out of date:DeprecationWarning")
@each_robot
def test_a_robot_moves_as_gymnasiums_over_whole_episodes_from_the_same_seed(robot):
    name, options, columns = GYMNASIUM[robot]
    theirs, ours = gymnasium.make(name, **options), make(robot, 1)
    control_scale = theirs.unwrapped.model.actuator_ctrlrange[:, 1]
    generator = np.random.default_rng(5)
    falls = 0
    for episode in range(4):  # the later ones go on with the same random states
        expected, _ = theirs.reset(seed=5 if episode == 0 else None)
        ours.reset(generator)
        np.testing.assert_allclose(ours.observe()[0, :columns], expected[:columns], atol=1e-9)
        for t, action in enumerate(random_actions(robot, 200, 1, seed=episode)):
            step = ours.step(action)
            expected, _, has_fallen, _, info = theirs.step(action[0] * control_scale)
            observation = ours.observe()[0, :columns]
            np.testing.assert_allclose(observation, expected[:columns], rtol=0, atol=1e-9)
            velocity = [info[f"{axis}_velocity"] for axis in "xy" if f"{axis}_velocity" in info]
            measured = step.measurement[0, : len(velocity)]
            np.testing.assert_allclose(measured, velocity, rtol=0, atol=1e-9)
            assert step.terminated[0] == has_fallen
            assert step.truncated[0] == (t == 199)
            if step.ended[0]:
                falls += has_fallen
                break
    theirs.close()
    assert (falls > 0) == (robot is not Cheetah)


def test_what_only_ours_observe_is_gymnasiums_state():
    theirs, ours = gymnasium.make("HalfCheetah-v5"), make(Cheetah, 1)
    theirs.reset(seed=1)
    ours.reset(np.random.default_rng(1))
    for action in random_actions(Cheetah, 20, 1):
        ours.step(action)
        theirs.step(action[0])
        torso = theirs.unwrapped.data.body("torso").xpos
        np.testing.assert_allclose(ours.observe()[0, 17:], torso, rtol=0, atol=1e-9)
    theirs.close()
    theirs, ours = gymnasium.make("Ant-v5"), make(Ant, 1)
    theirs.reset(seed=1)
    ours.reset(np.random.default_rng(1))
    for action in random_actions(Ant, 20, 1):
        step = ours.step(action)
        theirs.step(action[0])
        torso = theirs.unwrapped.data.body("torso").xpos
        np.testing.assert_allclose(step.measurement[0, 2:], torso[:2], rtol=0, atol=1e-9)
    theirs.close()


@each_robot
def test_the_flags_that_are_switched_off_change_no_bit(robot):
    with_flags = load_model(robot)
    disabled = mujoco.mjtDisableBit.mjDSBL_ISLAND | mujoco.mjtDisableBit.mjDSBL_MIDPHASE
    assert with_flags.opt.disableflags & disabled == int(disabled)
    without_flags = copy.copy(with_flags)
    without_flags.opt.disableflags &= ~int(disabled)
    actions = random_actions(robot, 100, 4)
    ours = run(make(robot, 4), actions)
    plain = run(make(robot, 4, models=[without_flags] * 4), actions)
    for left, right in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(left, right)


@each_robot
def test_the_number_of_threads_changes_no_bit(robot):
    actions = random_actions(robot, 40, 5)
    for left, right in zip(
        run(make(robot, 5, threads=1), actions),
        run(make(robot, 5, threads=2), actions),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right)


@each_robot
def test_an_environment_does_not_depend_on_its_neighbours(robot):
    actions = random_actions(robot, 40, 4)
    among = run(make(robot, 4), actions, generators_of([1, 2, 3, 4]))
    alone = run(make(robot, 1), actions[:, 2:3], generators_of([3]))
    for left, right in zip(among, alone, strict=True):
        np.testing.assert_array_equal(left[:, 2], right[:, 0])


def test_the_global_random_state_changes_nothing_and_is_not_changed():
    np.random.seed(1)  # noqa: NPY002
    first = run(make(), random_actions(Cheetah, 5, 3))
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002
    again = run(make(), random_actions(Cheetah, 5, 3))
    np.testing.assert_array_equal(first[0], again[0])


def test_a_restart_starts_the_marked_environments_and_leaves_the_others():
    simulator = make(Ant, 3, horizon=10)
    simulator.reset(np.random.default_rng(0))
    for action in random_actions(Ant, 9, 3):
        step = simulator.step(action)
    before = simulator.observe()
    observation = simulator.restart(np.array([False, True, False]), np.random.default_rng(1))
    np.testing.assert_array_equal(observation[[0, 2]], step.next_observation[[0, 2]])
    np.testing.assert_array_equal(simulator.observe()[[0, 2]], before[[0, 2]])
    fresh = make(Ant, 1).reset(np.random.default_rng(1))
    np.testing.assert_array_equal(observation[1], fresh[0])
    step = simulator.step(random_actions(Ant, 1, 3)[0])
    np.testing.assert_array_equal(step.truncated, [True, False, True])
    # What it measures from its new place is one step's way.
    assert np.abs(step.measurement[1, :2]).max() < 10.0
    unchanged = simulator.restart(np.zeros(3, bool), np.random.default_rng(1))
    np.testing.assert_array_equal(unchanged, step.next_observation)


def test_what_is_handed_out_is_the_observation_in_single_precision_and_ones_own():
    simulator = make()
    assert isinstance(simulator, Dynamics)
    first = simulator.reset(np.random.default_rng(0))
    kept = first.copy()
    step = simulator.step(random_actions(Cheetah, 1, 3)[0])
    assert step.next_observation.dtype == np.float32
    assert step.measurement.dtype == np.float64
    np.testing.assert_array_equal(step.next_observation, simulator.observe().astype(np.float32))
    np.testing.assert_array_equal(first, kept)
    taken = step.next_observation.copy()
    simulator.step(random_actions(Cheetah, 1, 3)[0])
    np.testing.assert_array_equal(step.next_observation, taken)


@each_robot
def test_actions_beyond_their_limits_act_as_those_at_the_limits(robot):
    actions = 3.0 * random_actions(robot, 10, 2)
    wild = run(make(robot, 2), actions)
    tame = run(make(robot, 2), np.clip(actions, -1.0, 1.0))
    np.testing.assert_array_equal(wild[0], tame[0])


def test_actions_that_are_no_numbers_are_refused_with_their_environment():
    simulator = make()
    simulator.reset(np.random.default_rng(0))
    actions = random_actions(Cheetah, 1, 3)[0]
    actions[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"must be finite, got .* for environment 1"):
        simulator.step(actions)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_state_that_is_lost_is_put_back_counted_and_marked(bad, threads):
    simulator = make(threads=threads)
    simulator.reset(np.random.default_rng(0))
    simulator._qvel[1] = bad
    step = simulator.step(random_actions(Cheetah, 1, 3)[0])
    for marked in (step.diverged, step.truncated, step.ended):
        np.testing.assert_array_equal(marked, [False, True, False])
    assert not step.terminated.any()
    assert np.isfinite(step.next_observation).all()
    assert np.isfinite(step.measurement).all()
    assert simulator.num_diverged == 1
    simulator.restart(step.ended, np.random.default_rng(1))
    step = simulator.step(random_actions(Cheetah, 1, 3)[0])
    assert not step.ended.any()
    assert np.abs(step.measurement).max() < 10.0
    assert simulator.num_diverged == 1


def test_neighbours_of_a_lost_state_go_on_as_if_nothing_had_been():
    actions = random_actions(Cheetah, 20, 3)
    undisturbed, _ = run(make(), actions)
    simulator = make()
    simulator.reset(np.random.default_rng(3))
    for t, action in enumerate(actions):
        if t == 7:
            simulator._qvel[1] = np.nan
        simulator.step(action)
    np.testing.assert_array_equal(simulator.observe()[[0, 2]], undisturbed[-1, [0, 2]])


class Fragile(Simulator):
    """Loses its second robot at step 7 and its third at the first."""

    def step(self, action):
        if self._env_steps[0] == 7:
            self._qvel[1] = np.inf
        if self._env_steps[0] == 0:
            self._qvel[2] = 1e200
        return super().step(action)


def test_a_trajectory_ends_before_the_step_that_diverged():
    models = [load_model(Cheetah)] * 3
    trajectories = run_episodes(
        Fragile(Cheetah, models, horizon=20, ends_when_fallen=False, threads=1),
        lambda observation: np.zeros((3, 6)),
        horizon=20,
        generator=np.random.default_rng(0),
    )
    assert [len(one) for one in trajectories] == [20, 7, 0]
    for trajectory in trajectories[:2]:
        assert trajectory.truncated[-1]
        assert not trajectory.truncated[:-1].any()
        assert not trajectory.terminated.any()
        assert np.isfinite(trajectory.next_observation).all()
        assert trajectory.measurement.shape == (len(trajectory), 1)


def test_falls_end_an_episode_only_where_the_task_says_so():
    actions = random_actions(Hopper, 150, 2)
    ends = [
        [step.terminated.any() for step in steps_of(simulator, actions)]
        for simulator in (
            make(Hopper, 2, ends_when_fallen=True),
            make(Hopper, 2, ends_when_fallen=False),
        )
    ]
    assert any(ends[0])
    assert not any(ends[1])


def steps_of(simulator, actions):
    simulator.reset(np.random.default_rng(0))
    return (simulator.step(action) for action in actions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": []}, "one for each robot, got none"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_a_simulator_of_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
