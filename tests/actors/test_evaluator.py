import json

import numpy as np
import pytest
import torch

from causeway.actors.behaviour import ScriptedBehaviour, collect_scripted
from causeway.actors.evaluator import (
    EvaluationConfig,
    context_shift,
    evaluate,
    gaussian_kl,
    optimal_return,
    random_return,
)
from causeway.actors.tasks.family import Task
from causeway.actors.tasks.point_robot import PointRobot
from causeway.datasets.batches import RowLayout
from tests.fakes import LedgeRobot, SeekingPolicy

FAMILY = PointRobot()
SPLIT = FAMILY.splits()["standard"]
TASKS = SPLIT.test[:4]
LAYOUT = RowLayout(2, 2)


@pytest.fixture(scope="module")
def logs():
    """Labelled rows of every task, by id."""
    options = ScriptedBehaviour(heading_noise=0.1, random_share=0.0)
    collected = collect_scripted(FAMILY, SPLIT, options, episodes_per_task=20, seed=0)
    return {task.id: np.concatenate([LAYOUT.pack(e) for e in es]) for task, es in collected}


def run(policy, tasks=TASKS, protocol="online_prior", seed=0, logs=None, family=FAMILY, **config):
    return evaluate(
        policy,
        family,
        tasks,
        layout=RowLayout(family.observation_size, family.action_size),
        protocol=protocol,
        config=EvaluationConfig(**config),
        seed=seed,
        offline_contexts=logs,
    )


def test_every_episode_of_every_run_has_a_return():
    evaluation = run(SeekingPolicy(), repeats=3, episodes=5, prior_episodes=2)
    assert evaluation.returns.shape == (4, 3, 5)
    np.testing.assert_allclose(
        evaluation.prior_return.per_task, evaluation.returns[:, :, 0].mean(axis=1)
    )
    np.testing.assert_allclose(
        evaluation.adapted_return.per_task, evaluation.returns[:, :, 4].mean(axis=1)
    )


def test_returns_are_the_sums_of_true_rewards_along_the_paths():
    evaluation = run(SeekingPolicy())
    for n, task in enumerate(TASKS):
        goal = np.array([task.reward["goal_x"], task.reward["goal_y"]])
        for episode, path in ((0, evaluation.paths_first[n]), (-1, evaluation.paths_last[n])):
            assert path.shape == (21, 2)
            expected = -np.linalg.norm(path[1:] - goal, axis=1).sum()
            assert evaluation.returns[n, 0, episode] == pytest.approx(expected, rel=1e-5)


def test_the_last_episode_acts_on_all_that_was_gathered_with_its_true_rewards():
    policy = SeekingPolicy()
    run(policy, repeats=2, context_size=None)
    (context,) = policy.contexts  # one belief for all runs, before the third episode
    assert context.mask.shape == (8, 40)
    assert context.mask.all()
    goals = torch.tensor([[t.reward["goal_x"], t.reward["goal_y"]] for t in TASKS])
    goals = goals.repeat_interleave(2, dim=0)[:, None]
    expected = -(context.next_observation - goals).norm(dim=-1)
    torch.testing.assert_close(context.reward, expected.float())
    assert (context.observation[:, [0, 20]] == 0.0).all()  # two episodes, one after the other


def test_later_episodes_see_a_context_that_grows():
    policy = SeekingPolicy()
    run(policy, episodes=4, prior_episodes=1, context_size=None)
    assert [context.mask.shape[1] for context in policy.contexts] == [20, 40, 60]


def test_a_context_is_subsampled_to_its_size_without_repeats():
    policy = SeekingPolicy(gain=0.1)  # so slow that no place is visited twice
    run(policy, context_size=16)
    (context,) = policy.contexts
    assert context.mask.shape == (16, 16)
    for one in context.next_observation.numpy():
        assert len(np.unique(one, axis=0)) == 16


def test_the_belief_stands_still_inside_an_episode_and_actions_are_deterministic():
    policy = SeekingPolicy()
    evaluation = run(policy)
    assert len(policy.drawn) == 3
    torch.testing.assert_close(policy.drawn[0], policy.prior(16))
    torch.testing.assert_close(policy.drawn[1], policy.prior(16))
    np.testing.assert_array_equal(policy.drawn[2].numpy(), evaluation.belief)
    assert not any(policy.were_actions_drawn)


def test_adaptation_pays_and_logs_near_the_goal_pay_more(logs):
    online = run(SeekingPolicy(), SPLIT.test)
    offline = run(SeekingPolicy(), SPLIT.test, protocol="offline", logs=logs)
    best = optimal_return(FAMILY, SPLIT.test)
    assert online.prior_return.mean + 5.0 < online.adapted_return.mean
    assert online.adapted_return.mean + 2.0 < offline.adapted_return.mean
    assert best.mean - 3.0 < offline.adapted_return.mean <= best.mean


def test_under_offline_every_episode_acts_on_the_logs_and_there_is_no_prior_return(logs):
    policy = SeekingPolicy()
    evaluation = run(policy, protocol="offline", logs=logs, context_size=32)
    assert [context.mask.shape for context in policy.contexts] == [(16, 32)] * 3
    assert np.ptp(evaluation.returns.mean(axis=(0, 1))) < 1.0
    with pytest.raises(ValueError, match="no episode acts on the prior"):
        _ = evaluation.prior_return


def test_offline_without_the_logs_of_a_task_is_refused(logs):
    with pytest.raises(ValueError, match="'offline' needs labelled transitions"):
        run(SeekingPolicy(), protocol="offline")
    fewer = {task_id: rows for task_id, rows in logs.items() if task_id != TASKS[1].id}
    with pytest.raises(ValueError, match="'offline' needs labelled transitions"):
        run(SeekingPolicy(), protocol="offline", logs=fewer)


def test_an_evaluation_depends_on_its_seed_and_on_no_global_random_state():
    torch.manual_seed(0)
    first = run(SeekingPolicy(), context_size=16)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    again = run(SeekingPolicy(), context_size=16)
    other = run(SeekingPolicy(), context_size=16, seed=1)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert not np.array_equal(first.returns, other.returns)


def test_runs_of_different_lengths_count_their_own_steps_alone():
    family = LedgeRobot()
    tasks = family.splits()["standard"].tasks
    policy = SeekingPolicy(size=1)
    evaluation = run(policy, tasks, family=family, repeats=5, context_size=None)
    (context,) = policy.contexts
    lengths = context.mask.sum(dim=1)
    assert lengths.min() < lengths.max()
    for n, task in enumerate(tasks):
        path = evaluation.paths_last[n]
        earned = task.reward["pay"] * (path[-1, 0] - path[0, 0])
        assert evaluation.returns[n, 0, -1] == pytest.approx(earned, abs=1e-5)
    assert evaluation.to_json()["paths_last"] == []  # nothing to draw in a plane


def test_a_run_whose_simulation_is_lost_acts_on_the_prior_and_leaves_the_others_alone():
    family = LedgeRobot()
    tasks = [
        Task(id=0, reward={"pay": 1.0}, dynamics={"edge": 9.0}),
        Task(id=1, reward={"pay": 1.0}, dynamics={"edge": np.nan}),
    ]
    policy = SeekingPolicy(size=1)
    evaluation = run(policy, tasks, family=family, repeats=2)
    assert (evaluation.returns[1] == 0.0).all()
    assert np.isfinite(evaluation.returns).all()
    (context,) = policy.contexts
    assert context.mask.shape[0] == 2  # of the task that can be simulated
    np.testing.assert_array_equal(evaluation.belief[2:], evaluation.prior[2:])
    assert not np.array_equal(evaluation.belief[:2], evaluation.prior[:2])


def test_an_evaluation_goes_to_json():
    written = json.loads(json.dumps(run(SeekingPolicy(), repeats=2).to_json()))
    assert written["protocol"] == "online_prior"
    assert written["task_ids"] == [40, 41, 42, 43]
    assert written["task_parameters"][0].keys() == {"goal_x", "goal_y"}
    assert np.shape(written["returns"]) == (4, 2, 3)
    assert np.shape(written["paths_first"]) == np.shape(written["paths_last"]) == (4, 21, 2)


def test_the_shift_between_contexts_is_measured_in_nats(logs):
    online = run(SeekingPolicy())
    offline = run(SeekingPolicy(), protocol="offline", logs=logs)
    shift = context_shift(offline, online)
    prior = online.prior
    assert shift == {
        "offline_vs_prior": pytest.approx(gaussian_kl(offline.belief, prior).mean()),
        "online_vs_prior": pytest.approx(gaussian_kl(online.belief, prior).mean()),
        "offline_vs_online": pytest.approx(gaussian_kl(offline.belief, online.belief).mean()),
    }
    assert min(shift.values()) > 0.0
    assert context_shift(offline, offline)["offline_vs_online"] == 0.0


def test_the_shift_compares_like_with_like(logs):
    offline = run(SeekingPolicy(), protocol="offline", logs=logs)
    with pytest.raises(ValueError, match="must have the same tasks and repeats"):
        context_shift(offline, run(SeekingPolicy(), repeats=2))


def test_beliefs_that_are_no_gaussians_are_not_compared():
    class Pointwise(SeekingPolicy):
        """Believes in one goal, [N, 2]."""

        def prior(self, num_tasks):
            return torch.zeros(num_tasks, 2)

        def adapt(self, context):
            return super().adapt(context)[:, 0]

        def draw(self, belief, generator):
            return belief

    evaluation = run(Pointwise())
    assert evaluation.prior is None
    assert evaluation.belief is None
    assert context_shift(evaluation, evaluation) is None


def test_gaussian_kl_equals_the_mean_log_ratio_of_samples():
    generator = np.random.default_rng(0)
    left = np.array([[[0.3, -1.0], [0.5, 2.0]]])
    right = np.array([[[0.0, 0.5], [1.5, 1.0]]])
    samples = left[0, 0] + np.sqrt(left[0, 1]) * generator.normal(size=(400_000, 2))

    def log_density(gaussian):
        mean, variance = gaussian[0]
        terms = -0.5 * ((samples - mean) ** 2 / variance + np.log(2 * np.pi * variance))
        return terms.sum(axis=1)

    expected = (log_density(left) - log_density(right)).mean()
    assert gaussian_kl(left, right)[0] == pytest.approx(expected, rel=0.01)


def test_random_actions_earn_about_what_standing_still_does():
    summary = random_return(FAMILY, SPLIT.test, repeats=50, seed=0)
    assert len(summary.per_task) == 10
    assert summary.mean == pytest.approx(-20.0, abs=1.0)
    assert summary == random_return(FAMILY, SPLIT.test, repeats=50, seed=0)


def test_the_optimum_is_unknown_where_one_task_does_not_know_it():
    assert optimal_return(LedgeRobot(), LedgeRobot().splits()["standard"].test) is None
    known = optimal_return(FAMILY, SPLIT.test)
    assert known.per_task == tuple(FAMILY.optimal_return(task) for task in SPLIT.test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"episodes": 2}, r"below episodes \(2\), got 2"),
        ({"prior_episodes": 0}, "prior_episodes must be at least 1"),
        ({"context_size": 0}, "context_size must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**options)


def test_no_task_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one task, got none"):
        run(SeekingPolicy(), tasks=[])


def true_rewards(task, positions):
    """What the task pays for being at these positions after a step."""
    nothing = np.zeros((1, len(positions), 0))
    return FAMILY.reward([task.reward], *[positions[None]] * 3, nothing)[0]


def test_shifted_context_is_the_tasks_own_by_the_behaviour_of_another(logs):
    policy = SeekingPolicy()
    run(policy, protocol="offline_shifted", logs=logs, repeats=1, context_size=None)
    contexts = policy.contexts[0]
    for index, task in enumerate(TASKS):
        donor = TASKS[(index + 2) % 4]
        own = contexts.next_observation[index].numpy()
        true = true_rewards(task, own)
        np.testing.assert_allclose(contexts.reward[index].numpy(), true, atol=1e-6)
        ends = own.reshape(-1, FAMILY.horizon, 2)[:, -1]
        goals = [np.array([t.reward["goal_x"], t.reward["goal_y"]]) for t in (donor, task)]
        near = [np.linalg.norm(ends - goal, axis=1).mean() for goal in goals]
        assert near[0] < near[1]  # it went where the other task's behaviour goes


def test_shifted_context_needs_another_task(logs):
    with pytest.raises(ValueError, match="at least two"):
        run(SeekingPolicy(), tasks=TASKS[:1], protocol="offline_shifted", logs=logs)


def test_random_exploration_is_uniform_and_then_every_step_is_adapted_to():
    policy = SeekingPolicy()
    evaluation = run(
        policy, protocol="online_random", repeats=1, episodes=3, prior_episodes=2, context_size=None
    )
    assert evaluation.returns.shape == (4, 1, 3)
    sizes = [int(context.mask[0].sum()) for context in policy.contexts]
    assert sizes == list(range(40, 60))  # two whole episodes, and each step of the third
    actions = policy.contexts[0].action
    assert actions.min() < -0.9
    assert actions.max() > 0.9
    assert abs(actions.mean().item()) < 0.15
    last = policy.contexts[-1]
    for index, task in enumerate(TASKS):
        true = true_rewards(task, last.next_observation[index].numpy())
        np.testing.assert_allclose(last.reward[index].numpy(), true, atol=1e-6)


def test_a_belief_may_follow_each_step_of_the_first_episode():
    still, following = (
        run(SeekingPolicy(), repeats=8, belief_per=per) for per in ("episode", "step")
    )
    assert following.prior_return.mean > still.prior_return.mean + 1.0


def test_only_good_episodes_are_kept_where_they_are_filtered():
    policy = SeekingPolicy()
    evaluation = run(
        policy, protocol="online_filtered", repeats=2, episodes=3, kept_share=0.5, context_size=None
    )
    context = policy.contexts[0]
    assert context.mask.sum(1).tolist() == [20] * 8
    best = evaluation.returns[:, :, :2].max(axis=2).ravel()
    np.testing.assert_allclose(context.reward.sum(1).numpy(), best, rtol=1e-4)


def test_an_episode_that_ended_early_adds_no_more_to_the_belief():
    policy = SeekingPolicy(size=1)
    family = LedgeRobot()
    tasks = tuple(next(iter(family.splits().values())).tasks)[:2]
    evaluation = run(
        policy, tasks=tasks, family=family, belief_per="step", repeats=1, context_size=None
    )
    lengths = [len(path) - 1 for path in evaluation.paths_first]
    first = [int(context.mask.sum(1).max()) for context in policy.contexts[: max(lengths) - 1]]
    assert first == sorted(first)
    assert max(first) <= max(lengths)


def test_rows_with_outcomes_cannot_be_followed_step_by_step():
    with pytest.raises(ValueError, match="belief_per 'episode'"):
        evaluate(
            SeekingPolicy(),
            FAMILY,
            TASKS,
            layout=RowLayout(2, 2, outcome_discount=0.9),
            protocol="online_prior",
            config=EvaluationConfig(belief_per="step"),
            seed=0,
            offline_contexts=None,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept_share": 0.0}, r"kept_share must lie in \(0, 1\], got 0.0"),
        ({"kept_share": 1.5}, r"kept_share must lie in \(0, 1\], got 1.5"),
    ],
)
def test_ways_of_adapting_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**options)
