"""Adaptation to own trajectories: what explores, what is adapted to, and what is learned after."""

import json
from itertools import groupby

import numpy as np
import pytest
import torch

from causeway.actors.behaviour import ScriptedBehaviour, collect_scripted
from causeway.actors.online_adaptation import OnlineAdaptationConfig, adapt_online
from causeway.actors.task_players import TaskPlayer
from causeway.actors.tasks.point_robot import PointRobot
from causeway.datasets.batches import RowLayout
from tests.fakes import SeekingPolicy

FAMILY = PointRobot()
SPLIT = FAMILY.splits()["standard"]
TASKS = SPLIT.test[:3]
LAYOUT = RowLayout(2, 2, outcome_discount=0.9)


class TunedSeeker(SeekingPolicy):
    """Its belief can be trained: the mean goes to the best place of all that was gathered."""

    def __init__(self):
        super().__init__()
        self.tuned_on = []

    def fine_tune(self, belief, context, tuning):
        self.tuned_on.append((context, tuning))
        return self._belief(context)


@pytest.fixture(scope="module")
def logs():
    """Labelled rows of every task, by id."""
    options = ScriptedBehaviour(heading_noise=0.1, random_share=0.0)
    collected = collect_scripted(FAMILY, SPLIT, options, episodes_per_task=20, seed=0)
    return {task.id: np.concatenate([LAYOUT.pack(e) for e in es]) for task, es in collected}


def run(policy, logs=None, training=None, seed=0, play=None, **config):
    return adapt_online(
        policy,
        FAMILY,
        TASKS,
        layout=LAYOUT,
        config=OnlineAdaptationConfig(**{"repeats": 2, **config}),
        seed=seed,
        training_contexts=training or {},
        offline_contexts=logs,
        play=play,
    )


def training_logs(logs):
    return {task.id: logs[task.id] for task in SPLIT.train}


def test_the_context_is_all_rows_of_the_explored_episodes():
    policy = SeekingPolicy()
    found = run(policy, exploration_episodes=3)
    (context,) = policy.contexts
    assert context.mask.shape == (6, 60)
    assert context.mask.all()
    assert (context.outcomes.steps_to_go[:, [0, 20, 40]] == 20).all()
    goals = torch.tensor([[t.reward["goal_x"], t.reward["goal_y"]] for t in TASKS])
    expected = -(context.next_observation - goals.repeat_interleave(2, 0)[:, None]).norm(dim=-1)
    torch.testing.assert_close(context.reward, expected.float())
    assert len(found.adapted.per_task) == 3


def test_exploration_is_noisy_and_all_else_is_not():
    policy = SeekingPolicy()
    run(policy, exploration_episodes=2)
    # Noise is drawn for one task after the other; without noise all act in one pass.
    each = [(drawn, len(list(some))) for drawn, some in groupby(policy.were_actions_drawn)]
    steps = FAMILY.horizon
    assert each == [(False, steps), (True, 2 * len(TASKS) * steps), (False, steps)]


def test_by_noise_every_episode_acts_on_the_prior():
    policy = SeekingPolicy()
    run(policy, exploration_episodes=2)
    assert len(policy.drawn) == 4 * len(TASKS)
    for belief in policy.drawn[: 3 * len(TASKS)]:
        torch.testing.assert_close(belief, policy.prior(2))


def test_by_training_tasks_each_episode_acts_on_the_belief_of_one_drawn_anew(logs):
    policy = SeekingPolicy()
    run(policy, training=training_logs(logs), exploration="training_tasks", exploration_episodes=4)
    library = policy.adapt(policy.contexts[0])
    assert len(library) == len(SPLIT.train)
    explored = torch.cat(policy.drawn[len(TASKS) : 5 * len(TASKS)]).split(6)
    chosen = [
        [int((library == one).all(-1).all(-1).nonzero()[0, 0]) for one in belief]
        for belief in explored
    ]
    assert len({tuple(each) for each in chosen}) == 4
    assert len({one for each in chosen for one in each}) > 8


def test_exploring_as_in_training_tasks_finds_more_than_one_prior(logs):
    certain = SeekingPolicy()
    certain.prior = lambda n: torch.stack([torch.zeros(n, 2), torch.full((n, 2), 1e-6)], dim=1)
    noise = run(certain)
    tasks = run(certain, training=training_logs(logs), exploration="training_tasks")
    assert tasks.adapted.mean > noise.adapted.mean + 2.0


def test_of_the_explored_episodes_the_best_are_kept(logs):
    policy, library = SeekingPolicy(), training_logs(logs)
    contexts = []
    for kept in (None, 2):
        run(
            policy,
            training=library,
            exploration="training_tasks",
            exploration_episodes=6,
            kept_episodes=kept,
        )
        contexts.append(policy.contexts[-1].reward.reshape(6, -1, 20).sum(-1))
    every, best = contexts
    assert best.shape == (6, 2)
    torch.testing.assert_close(best, every.sort(dim=1, descending=True).values[:, :2])


def test_without_logs_of_training_tasks_their_behaviour_is_refused():
    with pytest.raises(ValueError, match="needs the logs of training tasks, got none"):
        run(SeekingPolicy(), exploration="training_tasks")


def test_given_logs_are_adapted_to_in_place_of_own_episodes(logs):
    policy = SeekingPolicy()
    found = run(policy, logs=logs, context_size=32)
    (context,) = policy.contexts
    assert context.mask.shape == (6, 32)
    assert found.explored is None
    assert found.adapted.mean > found.unadapted.mean + 5.0


def test_fine_tuning_starts_from_what_was_adapted_with_an_empty_buffer(logs):
    policy = TunedSeeker()
    found = run(
        policy,
        logs=logs,
        fine_tune_episodes=5,
        episodes_before_tuning=3,
        evaluate_every=2,
        tuning_rows=70,
        value_steps=7,
        policy_rate=0.5,
    )
    assert [episodes for episodes, _ in found.tuned] == [2, 4, 5]
    assert [context.mask.shape[1] for context, _ in policy.tuned_on] == [60, 70, 70]
    tuning = policy.tuned_on[0][1]
    assert (tuning.value_steps, tuning.policy_steps, tuning.policy_rate) == (7, 200, 0.5)


def test_a_policy_without_weights_to_train_is_refused():
    with pytest.raises(ValueError, match="fine-tuning needs a policy whose beliefs can be trained"):
        run(SeekingPolicy(), fine_tune_episodes=1)


def test_the_same_seed_gives_the_same_result_and_it_is_plain_json(logs):
    first, again, other = (
        run(TunedSeeker(), fine_tune_episodes=2, episodes_before_tuning=1, seed=seed).to_json()
        for seed in (1, 1, 2)
    )
    assert json.loads(json.dumps(first)) == again
    assert first != other


def test_episodes_are_the_same_whoever_plays_which_task(logs):
    options = {"fine_tune_episodes": 3, "episodes_before_tuning": 2, "exploration_episodes": 2}
    asked = []

    def one_by_one(turns):
        asked.append([turn.actions for turn in turns])
        played = []
        for turn in reversed(turns):  # each by a player of its own, in another order
            player = TaskPlayer(
                TunedSeeker(), FAMILY.dynamics, action_size=2, horizon=FAMILY.horizon
            )
            played += player.play([turn])
        return played[::-1]

    apart = run(TunedSeeker(), play=one_by_one, **options)
    assert apart == run(TunedSeeker(), **options)
    assert [len(one) for one in asked] == [len(TASKS)] * 8
    assert [one[0] for one in asked].count("stochastic") == 5


def test_a_turn_says_nothing_of_what_its_task_rewards():
    turns = []

    def play(given):
        turns.extend(given)
        return TaskPlayer(
            SeekingPolicy(), FAMILY.dynamics, action_size=2, horizon=FAMILY.horizon
        ).play(given)

    run(SeekingPolicy(), play=play)
    assert all(turn.dynamics == {} for turn in turns)
    assert len({turn.key for turn in turns}) == len(turns)


@pytest.mark.parametrize(
    "changes",
    [
        {"repeats": 0},
        {"exploration_episodes": 0},
        {"kept_episodes": 5},
        {"kept_episodes": 0},
        {"fine_tune_episodes": -1},
        {"evaluate_every": 0},
        {"exploration": "luck"},
    ],
)
def test_a_meaningless_value_is_refused_by_name(changes):
    with pytest.raises(ValueError, match=f"OnlineAdaptationConfig.{next(iter(changes))} must"):
        OnlineAdaptationConfig(**changes)
