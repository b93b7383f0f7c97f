import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from causeway.actors.gymnasium_dynamics import GymnasiumDynamics
from causeway.actors.rollout import run_episodes
from causeway.actors.tasks.family import RestartableDynamics, with_true_reward
from causeway.actors.tasks.registry import load_family
from causeway.actors.vector_env import FamilyVectorEnv

# What the module's first words tell a user to write, and the imports that it takes.
FAMILY = """
import gymnasium
import numpy as np
from causeway.actors.gymnasium_dynamics import GymnasiumDynamics
from causeway.actors.tasks.family import Split, Task

"""


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    from causeway.actors import gymnasium_dynamics

    text = gymnasium_dynamics.__doc__
    example = text[text.index("    class PendulumGravity") : text.index("Here the environment's")]
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(FAMILY + "\n".join(line[4:] for line in example.splitlines()))
    return load_family(f"{path}:PendulumGravity")


def pendulums(num_envs=2, horizon=200, measure=None, make=None, measurement_size=0):
    return GymnasiumDynamics(
        make or (lambda: gymnasium.make("Pendulum-v1")),
        [{"gravity": 10.0}] * num_envs,
        set_task=lambda env, parameters: setattr(env.unwrapped, "g", parameters["gravity"]),
        measure=measure,
        measurement_size=measurement_size,
        horizon=horizon,
    )


def test_the_documented_example_is_a_family_whose_episodes_are_gymnasiums(family):
    tasks = family.splits()["standard"].train[:2]
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (200, 2, 1)).astype(np.float32)
    remaining = iter(actions)
    trajectories = run_episodes(
        family.dynamics([task.dynamics for task in tasks]),
        lambda observation: next(remaining),
        horizon=family.horizon,
        generator=[np.random.default_rng(seed) for seed in (1, 2)],
    )
    for n, (task, trajectory) in enumerate(zip(tasks, trajectories, strict=True)):
        theirs = gymnasium.make("Pendulum-v1", g=task.dynamics["gravity"])
        seed = int(np.random.default_rng(n + 1).integers(2**31))
        observation, _ = theirs.reset(seed=seed)
        rewards = with_true_reward(family, task, trajectory).reward
        assert len(trajectory) == 200
        for t in range(200):
            np.testing.assert_allclose(trajectory.observation[t], observation, atol=1e-6)
            observation, reward, _, _, _ = theirs.step(2.0 * actions[t, n])
            assert rewards[t] == pytest.approx(reward, rel=1e-5)


def test_it_makes_a_vector_environment(family):
    tasks = family.splits()["standard"].tasks
    vector = FamilyVectorEnv(family, tasks, family.dynamics([task.dynamics for task in tasks]))
    vector.reset(seed=0)
    for _ in range(201):
        _, reward, _, truncated, _ = vector.step(np.zeros((5, 1), np.float32))
    assert not truncated.any()
    assert (reward == 0.0).all()  # the step that starts the second episode


def test_a_restart_leaves_the_others_as_they_are():
    dynamics = pendulums(3)
    assert isinstance(dynamics, RestartableDynamics)
    dynamics.reset(np.random.default_rng(0))
    before = dynamics.step(np.ones((3, 1), np.float32)).next_observation
    after = dynamics.restart(np.array([False, True, False]), np.random.default_rng(1))
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])


def test_episodes_are_truncated_at_the_familys_horizon_and_then_stand_still():
    dynamics = pendulums(2, horizon=3)
    dynamics.reset(np.random.default_rng(0))
    ended = [dynamics.step(np.zeros((2, 1), np.float32)).truncated.all() for _ in range(3)]
    assert ended == [False, False, True]
    last = dynamics.step(np.zeros((2, 1), np.float32)).next_observation
    np.testing.assert_array_equal(dynamics.step(np.ones((2, 1), np.float32)).next_observation, last)


class Breaking(gymnasium.Env):
    """Loses its state in the third step."""

    observation_space = Box(-np.inf, np.inf, (1,))
    action_space = Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        value = np.nan if self.count == 3 else float(self.count)
        return np.array([value], np.float32), value, False, False, {}


@pytest.mark.parametrize("is_measured", [False, True])
def test_numbers_that_are_not_finite_mark_the_step(is_measured):
    dynamics = GymnasiumDynamics(
        Breaking,
        [{}, {}],
        set_task=lambda env, parameters: None,
        measure=(lambda env, reward, info: [reward]) if is_measured else None,
        measurement_size=int(is_measured),
        horizon=10,
    )
    trajectories = run_episodes(
        dynamics,
        lambda observation: np.zeros((2, 1)),
        horizon=10,
        generator=np.random.default_rng(0),
    )
    assert [len(one) for one in trajectories] == [2, 2]
    for one in trajectories:
        assert one.truncated[-1]
        assert np.isfinite(one.next_observation).all()
        assert np.isfinite(one.measurement).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gymnasium.make("CartPole-v1"), "action space must be a Box of one axis"),
        (lambda: gymnasium.make("FrozenLake-v1"), "observation space must be a Box of one axis"),
    ],
)
def test_spaces_that_are_no_vectors_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        pendulums(make=make)


def test_actions_without_limits_are_refused():
    class Boundless(Breaking):
        action_space = Box(-np.inf, np.inf, (1,))

    with pytest.raises(ValueError, match="must have limits"):
        pendulums(make=Boundless)


def test_no_environment_at_all_is_refused():
    with pytest.raises(ValueError, match="an entry for each environment, got none"):
        pendulums(0)
