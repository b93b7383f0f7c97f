import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from causeway.actors.tasks.cheetah_vel import CheetahVel
from causeway.actors.tasks.family import Task
from causeway.actors.tasks.hopper_params import HopperParams
from causeway.actors.tasks.registry import families, load_family
from causeway.actors.vector_env import FamilyVectorEnv
from tests.fakes import LedgeRobot

each_family = pytest.mark.parametrize("name", list(families()))


def make(family, num_envs=3):
    tasks = next(iter(family.splits().values())).tasks
    tasks = [tasks[i % len(tasks)] for i in range(num_envs)]
    return FamilyVectorEnv(family, tasks, family.dynamics([task.dynamics for task in tasks]))


class OnlyOne(gymnasium.Env):
    """The one environment of a vector environment, for gymnasium's checker of single ones."""

    def __init__(self, vector):
        self.vector = vector
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        observation, info = self.vector.reset(seed=seed, options=options)
        return observation[0], info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.vector.step(action[None])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info


# It says of every environment that infinite bounds and this shape are unusual, and no more.
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is")
@pytest.mark.filterwarnings("ignore:.*not able to test alternative render modes")
@pytest.mark.usefixtures("installed")
@each_family
def test_gymnasiums_checker_finds_no_fault(name):
    check_env(OnlyOne(make(load_family(name), 1)), skip_render_check=True)


@pytest.mark.usefixtures("installed")
@each_family
def test_gymnasiums_wrappers_go_around_it_and_count_whole_episodes(name):
    family = load_family(name)
    wrapped = RecordEpisodeStatistics(make(family))
    observation, _ = wrapped.reset(seed=0)
    assert observation in wrapped.observation_space
    wrapped.action_space.seed(0)
    lengths = []
    for _ in range(family.horizon + 1):
        observation, reward, terminated, truncated, info = wrapped.step(
            wrapped.action_space.sample()
        )
        assert observation in wrapped.observation_space
        assert reward.shape == terminated.shape == truncated.shape == (3,)
        lengths += [int(info["episode"]["l"][i]) for i in np.flatnonzero(terminated | truncated)]
    assert len(lengths) >= 3
    assert max(lengths) <= family.horizon


def test_it_goes_on_from_episode_to_episode_as_gymnasiums_does():
    hoppers = [Task(id=i) for i in range(4)]
    ours = FamilyVectorEnv(HopperParams(), hoppers, HopperParams.dynamics([{}] * 4))
    make_one = lambda: gymnasium.make("Hopper-v5", max_episode_steps=200)  # noqa: E731
    theirs = SyncVectorEnv([make_one] * 4, autoreset_mode=AutoresetMode.NEXT_STEP)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (300, 4, 3)).astype(np.float32)
    expected, _ = theirs.reset(seed=11)
    observation, _ = ours.reset(seed=11)
    falls = np.zeros(4, int)
    for action in actions:
        np.testing.assert_allclose(observation, expected, atol=1e-5)
        observation, reward, terminated, truncated, _ = ours.step(action)
        expected, paid, has_fallen, is_over, _ = theirs.step(action)
        np.testing.assert_array_equal(terminated, has_fallen)
        np.testing.assert_array_equal(truncated, is_over)
        # Ours pays for being alive on the last step too.
        np.testing.assert_allclose(reward, paid + has_fallen, atol=1e-5)
        falls += has_fallen
    assert (falls > 3).all()
    theirs.close()


def test_environments_are_paid_by_their_own_tasks():
    family = CheetahVel()
    tasks = family.splits()["smac"].train[:2]
    both = FamilyVectorEnv(family, tasks, family.dynamics([{}, {}]))
    both.reset(seed=[5, 5])
    observation, reward, *_ = both.step(np.zeros((2, 6), np.float32))
    np.testing.assert_array_equal(observation[0], observation[1])
    speeds = [task.reward["velocity"] for task in tasks]
    assert reward[1] - reward[0] == pytest.approx(speeds[0] - speeds[1], abs=1e-6)


def test_an_action_beyond_its_limits_is_paid_as_it_is_taken():
    rewards = []
    for scale in (1.0, 7.0):
        vector = make(CheetahVel(), 2)
        vector.reset(seed=0)
        rewards.append(vector.step(np.full((2, 6), scale))[1])
    np.testing.assert_array_equal(*rewards)


def test_the_marked_environments_are_reset_and_the_others_go_on():
    vector = make(CheetahVel())
    vector.reset(seed=0)
    before, *_ = vector.step(np.ones((3, 6), np.float32))
    mask = np.array([True, False, False])
    after, _ = vector.reset(seed=[1, None, None], options={"reset_mask": mask})
    np.testing.assert_array_equal(after[1:], before[1:])
    fresh, _ = make(CheetahVel()).reset(seed=1)
    np.testing.assert_array_equal(after[0], fresh[0])


def test_a_lost_simulation_is_truncated_and_named():
    vector = make(CheetahVel())
    vector.reset(seed=0)
    vector._dynamics._qvel[1] = np.nan
    observation, reward, terminated, truncated, info = vector.step(np.zeros((3, 6), np.float32))
    np.testing.assert_array_equal(info["diverged"], [False, True, False])
    np.testing.assert_array_equal(truncated, [False, True, False])
    assert not terminated.any()
    assert np.isfinite(observation).all()
    assert np.isfinite(reward).all()
    _, _, _, truncated, info = vector.step(np.zeros((3, 6), np.float32))
    assert not truncated.any()
    assert info == {}


def test_what_it_cannot_be_made_of_is_refused():
    family = LedgeRobot()
    tasks = family.splits()["standard"].train
    with pytest.raises(ValueError, match=r"must have `restart`.*LedgeDynamics has none"):
        FamilyVectorEnv(family, tasks, family.dynamics([task.dynamics for task in tasks]))
    tasks = CheetahVel().splits()["smac"].train[:2]
    with pytest.raises(ValueError, match="as many environments as there are tasks, 2, got 3"):
        FamilyVectorEnv(CheetahVel(), tasks, CheetahVel.dynamics([{}] * 3))
