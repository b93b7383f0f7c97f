import gymnasium
import numpy as np
import pytest

from causeway.actors.robots import Cheetah, load_model
from causeway.actors.rollout import run_episodes
from causeway.actors.simulator import Simulator
from causeway.actors.tasks.cheetah_vel import CheetahVel

SEED = 3


def make(robot=Cheetah, num_envs=3, *, horizon=200, threads=1, ends_when_fallen=False):
    return Simulator(
        robot,
        [load_model(robot)] * num_envs,
        horizon=horizon,
        ends_when_fallen=ends_when_fallen,
        threads=threads,
    )


def random_actions(num_steps, num_envs, size, seed=0):
    drawn = np.random.default_rng(seed).uniform(-1.0, 1.0, (num_steps, num_envs, size))
    return drawn.astype(np.float32)


def run(simulator, actions, seed=SEED):
    """Observations in full precision [T + 1, N, O], and the steps."""
    simulator.reset(np.random.default_rng(seed))
    observations, steps = [simulator.observe()], []
    for action in actions:
        steps.append(simulator.step(action))
        observations.append(simulator.observe())
    return np.stack(observations), steps


def test_cheetahs_are_gymnasiums_step_for_step():
    theirs = gymnasium.make("HalfCheetah-v5")
    ours = make(num_envs=1)
    actions = random_actions(200, 1, 6)
    observations, steps = run(ours, actions)
    observation, _ = theirs.reset(seed=SEED)
    np.testing.assert_allclose(observations[0, 0, :17], observation, rtol=0, atol=1e-9)
    for t, action in enumerate(actions[:, 0]):
        observation, _, _, _, info = theirs.step(action)
        np.testing.assert_allclose(observations[t + 1, 0, :17], observation, rtol=0, atol=1e-9)
        torso = theirs.unwrapped.data.body("torso").xpos
        np.testing.assert_allclose(observations[t + 1, 0, 17:], torso, rtol=0, atol=1e-9)
        assert steps[t].measurement[0, 0] == pytest.approx(info["x_velocity"], abs=1e-9)
    theirs.close()


def test_what_is_handed_out_is_the_observation_in_single_precision_and_ones_own():
    simulator = make()
    first = simulator.reset(np.random.default_rng(0))
    kept = first.copy()
    step = simulator.step(random_actions(1, 3, 6)[0])
    assert step.next_observation.dtype == np.float32
    np.testing.assert_array_equal(step.next_observation, simulator.observe().astype(np.float32))
    np.testing.assert_array_equal(first, kept)


def test_a_state_that_is_not_finite_is_put_back_counted_and_marked():
    simulator = make()
    simulator.reset(np.random.default_rng(0))
    simulator._qvel[1] = np.nan
    step = simulator.step(random_actions(1, 3, 6)[0])
    np.testing.assert_array_equal(step.diverged, [False, True, False])
    np.testing.assert_array_equal(step.truncated, [False, True, False])
    np.testing.assert_array_equal(step.ended, [False, True, False])
    assert np.isfinite(step.next_observation).all()
    assert np.isfinite(step.measurement).all()
    assert simulator.num_diverged == 1
    simulator.restart(step.ended, np.random.default_rng(1))
    step = simulator.step(random_actions(1, 3, 6)[0])
    assert not step.ended.any()
    assert simulator.num_diverged == 1


def test_a_trajectory_ends_before_the_step_that_diverged():
    class Unstable(Simulator):
        def step(self, action):
            if self._env_steps[0] == 7:
                self._qvel[1] = np.inf
            if self._env_steps[0] == 0:
                self._qvel[2] = 1e200
            return super().step(action)

    model = load_model(Cheetah)
    simulator = Unstable(Cheetah, [model] * 3, horizon=20, ends_when_fallen=False, threads=1)
    trajectories = run_episodes(
        simulator,
        lambda observation: np.zeros((3, 6)),
        horizon=20,
        generator=np.random.default_rng(0),
    )
    assert [len(one) for one in trajectories] == [20, 7, 0]
    for trajectory in trajectories[:2]:
        assert trajectory.truncated[-1]
        assert not trajectory.truncated[:-1].any()
        assert np.isfinite(trajectory.next_observation).all()


def test_episodes_are_truncated_at_the_family_s_horizon():
    dynamics = CheetahVel.dynamics([{}, {}])
    trajectories = run_episodes(
        dynamics,
        lambda observation: np.zeros((2, 6)),
        horizon=200,
        generator=np.random.default_rng(0),
    )
    assert [len(one) for one in trajectories] == [200, 200]
