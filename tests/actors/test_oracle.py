"""An oracle's collector: it acts as any other, and what it gathers has the true rewards."""

import numpy as np

from causeway.actors.collector import Assignment, CollectorConfig
from causeway.actors.oracle import OracleCollector
from causeway.actors.tasks.family import with_true_reward
from causeway.actors.tasks.registry import load_family
from causeway.datasets.batches import Episode, RowLayout
from causeway.learners.pearl import Pearl, PearlConfig
from tests.actors.collecting import FAMILY, LAYOUT, SMALL, TASK, assignment
from tests.fakes import SeekingPolicy


class Mute(SeekingPolicy):
    label = None


def make(policy, family=FAMILY, layout=LAYOUT, **config):
    split = next(iter(family.splits().values()))
    collector = OracleCollector(
        policy,
        family,
        split.train,
        layout,
        config=CollectorConfig(**{**SMALL, **config}),
        seed=0,
        index=0,
    )
    collector.set_weights(policy.state_dict(), (1, 0))
    return collector


def test_a_rollout_has_the_tasks_true_rewards_and_its_policy_need_not_label():
    (rollout,) = make(Mute()).collect([assignment()])
    assert rollout.task_id == TASK.id
    for episode in rollout.trajectories:
        assert isinstance(episode, Episode)
        assert episode.measurement is None
        np.testing.assert_array_equal(
            episode.reward, with_true_reward(FAMILY, TASK, episode).reward
        )


def test_the_posterior_is_inferred_from_true_rewards():
    policy = Mute()
    (rollout,) = make(policy, num_envs=1, context_size=None).collect([assignment()])
    first = np.concatenate([one.reward for one in rollout.trajectories[:4]])
    context = policy.contexts[0]
    assert context.reward.shape == (1, 80)  # three episodes and the first of the second part
    np.testing.assert_array_equal(context.reward[0].numpy(), first)


def test_rewards_that_read_a_measurement_are_given_where_it_was_measured():
    family = load_family("cheetah-vel")
    layout = RowLayout(family.observation_size, family.action_size)
    config = PearlConfig(encoder_hidden=(8,), critic_hidden=(8,), actor_hidden=(8,))
    policy = Pearl(layout.observation_size, layout.action_size, config).policy()
    collector = make(policy, family, layout, num_envs=1, prior_env_steps=5, posterior_env_steps=0)
    task = next(iter(family.splits().values())).train[0]
    rows = np.zeros((1, layout.width), np.float32)
    given = Assignment(task_id=task.id, dynamics=task.dynamics, labelling_context=rows, sequence=0)
    (rollout,) = collector.collect([given])
    (episode,) = rollout.trajectories
    assert episode.measurement is None
    assert episode.reward.std() > 0
