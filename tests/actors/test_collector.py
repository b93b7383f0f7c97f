import gc
import inspect
from types import FunctionType, ModuleType

import numpy as np
import pytest
import torch

from causeway.actors import collector as collector_module
from causeway.actors.collector import Assignment, Collector, CollectorConfig
from causeway.actors.tasks.family import Family, Split, Task
from causeway.actors.tasks.point_robot import PointRobot
from causeway.datasets.batches import Episode, RowLayout, Trajectory
from tests.actors.collecting import (
    FAMILY,
    LAYOUT,
    TASK,
    assert_same_trajectories,
    assignment,
    logged_rows,
    make,
)
from tests.fakes import LedgeRobot, SeekingPolicy


def is_prior(belief):
    return [bool((one[0] == 0.0).all() and (one[1] == 1.0).all()) for one in belief]


def test_a_rollout_says_where_it_comes_from_and_holds_no_reward():
    collector = make(index=7)
    collector.set_weights(SeekingPolicy().state_dict(), (2, 30))
    (rollout,) = collector.collect([assignment(sequence=11)])
    assert (rollout.task_id, rollout.collector, rollout.sequence) == (TASK.id, 7, 11)
    assert rollout.version == (2, 30)
    assert repr(collector) == "Collector[7]"
    for trajectory in rollout.trajectories:
        assert type(trajectory) is Trajectory
        assert not isinstance(trajectory, Episode)
        assert trajectory.measurement is None


@pytest.mark.parametrize("num_envs", [1, 2, 3, 100])
def test_at_least_the_configured_steps_are_taken_on_prior_and_posterior(num_envs):
    policy = SeekingPolicy()
    (rollout,) = make(policy, num_envs=num_envs).collect([assignment()])
    on_prior = [flag for belief in policy.drawn for flag in is_prior(belief)]
    lanes = min(num_envs, 5)  # 100 steps are five episodes of 20
    assert {len(belief) for belief in policy.drawn} == {lanes}
    assert len(on_prior) == len(rollout.trajectories)
    num_prior = lanes * -(-3 // lanes)  # three episodes are 60 steps, in rounds of `lanes`
    assert on_prior[: num_prior + 1] == [True] * (num_prior + 1)  # one more: the second part's
    assert not any(on_prior[num_prior + 1 :])
    assert len(on_prior) - num_prior == lanes * -(-5 // lanes)
    assert rollout.env_steps == 20 * len(on_prior)


def test_the_posterior_is_inferred_from_what_this_collection_gathered_so_far():
    policy = SeekingPolicy()
    (rollout,) = make(policy, num_envs=1, context_size=None).collect([assignment()])
    sizes = [context.mask.shape for context in policy.contexts]
    assert sizes == [(1, 20 * k) for k in (4, 5, 6, 7)]  # three on the prior, then one, then more
    np.testing.assert_array_equal(
        policy.contexts[-1].next_observation[0].numpy(),
        np.concatenate([t.next_observation for t in rollout.trajectories[:7]]),
    )


def test_the_gathered_context_is_labelled_by_the_policy_from_logs_alone():
    policy = SeekingPolicy()
    rows = logged_rows()
    rows[:, 4] = -np.linalg.norm(rows[:, 5:7] - [-1.0, 0.0], axis=1)  # logs that tell another goal
    make(policy, num_envs=5, context_size=None).collect([assignment(rows=rows)])
    assert len(policy.label_contexts) == 1  # what follows the last belief is never labelled
    logged = {tuple(row) for row in rows[:, :2].tolist()}
    for context in policy.label_contexts:
        assert {tuple(o) for o in context.observation.reshape(-1, 2).tolist()} <= logged
    best = rows[rows[:, 4].argmax(), 5:7]
    for context in policy.contexts:
        told = -(context.next_observation - torch.tensor(best)).norm(dim=-1)
        torch.testing.assert_close(context.reward, told, atol=0.05, rtol=0.0)


def test_contexts_are_subsampled_to_their_size_one_draw_for_each():
    policy = SeekingPolicy()
    make(policy, num_envs=5, context_size=16).collect([assignment()])
    for context in policy.contexts + policy.label_contexts:
        assert context.mask.shape[1] == 16
        first, second = context.observation[:2]
        assert not torch.equal(first, second)


def test_actions_are_stochastic_and_latents_belong_to_trajectories():
    policy = SeekingPolicy()
    (rollout,) = make(policy, num_envs=1).collect([assignment()])
    assert all(policy.were_actions_drawn)
    assert len(policy.drawn) == len(rollout.trajectories)
    per_step = SeekingPolicy()
    make(per_step, num_envs=1, latent_per="step").collect([assignment()])
    assert len(per_step.drawn) > 20 * len(rollout.trajectories)


def test_actions_can_be_those_that_adaptation_will_take():
    policy = SeekingPolicy()
    make(policy, actions="deterministic").collect([assignment()])
    assert policy.were_actions_drawn
    assert not any(policy.were_actions_drawn)


def test_without_a_part_on_the_prior_the_first_round_explores():
    policy = SeekingPolicy()
    make(policy, num_envs=2, prior_env_steps=0).collect([assignment()])
    assert is_prior(policy.drawn[0]) == [True, True]
    assert is_prior(policy.drawn[1]) == [False, False]


def test_without_a_part_on_the_posterior_nothing_is_labelled():
    policy = SeekingPolicy()
    (rollout,) = make(policy, posterior_env_steps=0).collect([assignment()])
    assert rollout.env_steps == 80
    assert not policy.label_contexts
    assert not policy.contexts


def test_a_rollout_does_not_depend_on_who_ran_it_nor_on_what_ran_before():
    rows = logged_rows()
    torch.manual_seed(0)
    _, second = make(index=0).collect([assignment(5, rows), assignment(6, rows)])
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    alone = make(index=9).collect([assignment(6, rows)])[0]
    assert_same_trajectories(second, alone)


def test_rollouts_of_other_sequences_seeds_and_weights_differ():
    rows = logged_rows()
    (first,) = make().collect([assignment(5, rows)])
    slower = make()
    slower.set_weights({"gain": torch.tensor([0.2])}, (1, 1))
    others = [
        make().collect([assignment(6, rows)])[0],
        make(seed=1).collect([assignment(5, rows)])[0],
        slower.collect([assignment(5, rows)])[0],
    ]
    for other in others:
        assert not np.array_equal(first.trajectories[0].action, other.trajectories[0].action)


def test_weights_are_copied_also_from_read_only_arrays():
    collector = make(policy := SeekingPolicy())
    array = np.array([0.5], np.float32)
    array.flags.writeable = False
    collector.set_weights({"gain": array}, (1, 5))
    assert policy.gain.item() == 0.5
    tensor = torch.tensor([0.25])
    collector.set_weights({"gain": tensor}, (1, 6))
    tensor.fill_(9.0)
    assert policy.gain.item() == 0.25
    assert collector.version == (1, 6)


def test_older_weights_are_refused_and_a_new_generation_is_newer():
    collector = make()
    state = SeekingPolicy().state_dict()
    collector.set_weights(state, (1, 50))
    collector.set_weights(state, (1, 50))
    with pytest.raises(ValueError, match=r"\(1, 49\) arrived after version \(1, 50\)"):
        collector.set_weights(state, (1, 49))
    collector.set_weights(state, (2, 10))  # after a restore: fewer updates, newer all the same
    with pytest.raises(ValueError, match=r"\(1, 60\) arrived after version \(2, 10\)"):
        collector.set_weights(state, (1, 60))


def test_a_collector_without_weights_does_not_collect():
    collector = Collector(
        SeekingPolicy(),
        PointRobot.dynamics,
        LAYOUT,
        horizon=20,
        config=CollectorConfig(),
        seed=0,
        index=2,
    )
    assert collector.version is None
    with pytest.raises(ValueError, match=r"Collector\[2\] must have weights before it collects"):
        collector.collect([assignment()])


def test_episodes_that_end_early_are_counted_and_labelled_by_their_own_length():
    family, policy = LedgeRobot(), SeekingPolicy(size=1)
    layout = RowLayout(1, 1)
    collector = Collector(
        policy,
        family.dynamics,
        layout,
        horizon=family.horizon,
        config=CollectorConfig(
            num_envs=4, prior_env_steps=30, posterior_env_steps=30, context_size=None
        ),
        seed=0,
        index=0,
    )
    collector.set_weights(policy.state_dict(), (1, 0))
    (rollout,) = collector.collect(
        [
            Assignment(
                task_id=0,
                dynamics={"edge": 0.15},
                labelling_context=np.ones((5, layout.width), np.float32),
                sequence=0,
            )
        ]
    )
    lengths = [len(trajectory) for trajectory in rollout.trajectories]
    assert min(lengths) < max(lengths)
    assert rollout.env_steps == sum(lengths) >= 60
    gathered = policy.contexts[-1]
    assert gathered.mask.all()
    positions = np.concatenate([t.next_observation for t in rollout.trajectories])
    count = gathered.mask.shape[1]
    np.testing.assert_array_equal(gathered.next_observation[0].numpy(), positions[:count])
    # Labels are those of the rows' own steps, not of the padding beside them.
    told = -(gathered.next_observation[0] - 1.0).norm(dim=-1)
    torch.testing.assert_close(gathered.reward[0], told, atol=0.05, rtol=0.0)


def test_a_family_whose_reward_cannot_be_read_is_collected_in_all_the_same():
    class Silent(PointRobot):
        def reward(self, *args):
            raise AssertionError("a collector asked for a reward")

        def optimal_return(self, task):
            raise AssertionError("a collector asked for an optimum")

    (rollout,) = make(dynamics=Silent().dynamics).collect([assignment()])
    assert rollout.env_steps >= 160


def reachable(*roots):
    """Every object that the roots hold, directly or through others; not by way of modules."""
    seen, waiting = {}, list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, ModuleType | type):
            continue
        seen[id(one)] = one
        if isinstance(one, FunctionType):  # its globals are its module, which anyone can import
            waiting += [*(one.__closure__ or ()), *(one.__defaults__ or ())]
        else:
            waiting += gc.get_referents(one)
    return list(seen.values())


def test_no_reward_function_and_no_goal_is_within_a_collectors_reach():
    collector, given = make(), assignment()
    collector.collect([given])
    goal = set(TASK.reward.values())
    objects = reachable(collector, given)
    assert any(one is given.labelling_context for one in objects)  # the walk gets somewhere
    for one in objects:
        assert not isinstance(one, Task | Split)
        assert not isinstance(one, PointRobot)
        assert not (isinstance(one, float) and one in goal)
    # The same walk would have found them.
    assert any(one is FAMILY for one in reachable(lambda: None, {"splits": FAMILY.splits}))
    assert goal <= {one for one in reachable([TASK]) if isinstance(one, float)}


def test_the_collectors_module_knows_neither_families_nor_tasks():
    names = set(vars(collector_module))
    assert not names & {"Family", "Task", "Split", "with_true_reward", "load_family"}
    assert "reward" not in inspect.signature(Assignment).parameters
    assert isinstance(FAMILY, Family)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"batch_envs": 0}, "batch_envs must be at least 1, got 0"),
        ({"context_size": 0}, "context_size must be at least 1, got 0"),
        ({"prior_env_steps": -1}, "must not be negative and not both be 0, got -1 and 600"),
        ({"prior_env_steps": 0, "posterior_env_steps": 0}, "got 0 and 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CollectorConfig(**options)


def test_a_labelling_context_of_another_width_is_refused():
    with pytest.raises(ValueError, match="rows of width 8 and at least one"):
        make().collect([assignment(rows=np.zeros((4, 5), np.float32))])
