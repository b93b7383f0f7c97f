"""Advantage-weighted regression on returns: each formula as a slow loop, and what masks leave."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from causeway.datasets.batches import Outcomes
from causeway.learners import awr
from tests.learners.factories import WITH_OUTCOMES, doubles, make_batch

DISCOUNT, DECAY = 0.9, 0.7


def episode_sample(length, *, terminated, seed=0, rows=None):
    """Whole episodes of one task as a sample, or some of their rows."""
    rng = np.random.default_rng(seed)
    states = torch.from_numpy(rng.normal(size=(length + 1, 3)))
    reward = torch.from_numpy(rng.normal(size=length))
    returns = [
        sum(DISCOUNT**k * r for k, r in enumerate(reward[t:].tolist())) for t in range(length)
    ]
    rows = torch.arange(length) if rows is None else torch.tensor(rows)
    outcomes = Outcomes(
        return_to_go=torch.tensor(returns, dtype=torch.float64)[rows][None],
        steps_to_go=torch.arange(length, 0, -1.0, dtype=torch.float64)[rows][None],
        final_observation=states[-1].expand(length, -1)[rows][None],
        final_terminated=torch.full((1, len(rows)), terminated),
    )
    return awr.Sample(
        observation=states[:-1][rows][None],
        action=torch.zeros(1, len(rows), 2, dtype=torch.float64),
        reward=reward[rows][None],
        next_observation=states[1:][rows][None],
        known_outcomes=outcomes,
        mask=torch.ones(1, len(rows), dtype=torch.bool),
    )


def values(sample):
    """Some value of each next observation, and of the last one."""
    return sample.next_observation.sum(-1), sample.outcomes.final_observation.sum(-1)


@pytest.mark.parametrize("past_true_end", [True, False])
@pytest.mark.parametrize("terminated", [True, False])
def test_lambda_returns_of_a_whole_episode_are_the_weighted_n_step_returns(
    terminated, past_true_end
):
    sample = episode_sample(6, terminated=terminated)
    next_value, final_value = values(sample)
    actual = awr.lambda_returns(
        sample,
        next_value,
        final_value,
        discount=DISCOUNT,
        trace_decay=DECAY,
        past_true_end=past_true_end,
    )
    reward, following = sample.reward[0].tolist(), next_value[0].tolist()
    if terminated and not past_true_end:
        following[-1] = 0.0
    for t in range(6):
        n_step = [
            sum(DISCOUNT**k * reward[t + k] for k in range(n)) + DISCOUNT**n * following[t + n - 1]
            for n in range(1, 7 - t)
        ]
        expected = sum((1 - DECAY) * DECAY**n * g for n, g in enumerate(n_step[:-1]))
        expected += DECAY ** (len(n_step) - 1) * n_step[-1]
        assert actual[0, t].item() == pytest.approx(expected, rel=1e-12)


def test_lambda_one_gives_bootstrapped_returns_and_zero_gives_one_step_targets():
    sample = episode_sample(5, terminated=False)
    next_value, final_value = values(sample)
    one, zero = (
        awr.lambda_returns(
            sample, next_value, final_value, discount=DISCOUNT, trace_decay=d, past_true_end=False
        )
        for d in (1.0, 0.0)
    )
    whole = awr.bootstrapped_returns(
        sample.outcomes, final_value, discount=DISCOUNT, past_true_end=False
    )
    torch.testing.assert_close(one, whole)
    torch.testing.assert_close(zero, sample.reward + DISCOUNT * next_value)


def test_behind_a_cut_the_return_of_the_whole_episode_goes_on():
    whole, cut = (episode_sample(6, terminated=False, rows=rows) for rows in (None, [1, 2, 4]))
    kwargs = {"discount": DISCOUNT, "trace_decay": 1.0, "past_true_end": False}
    of_whole, of_cut = (awr.lambda_returns(s, *values(s), **kwargs) for s in (whole, cut))
    torch.testing.assert_close(of_cut, of_whole[:, [1, 2, 4]])
    assert cut.is_followed().tolist() == [[True, False]]


@pytest.mark.parametrize("past_true_end", [True, False])
def test_bootstrapped_returns_equal_a_slow_loop(past_true_end):
    outcomes = make_batch(layout=WITH_OUTCOMES).transitions.outcomes
    final_value = doubles(3, 6).float()
    actual = awr.bootstrapped_returns(
        outcomes, final_value, discount=DISCOUNT, past_true_end=past_true_end
    )
    assert outcomes.final_terminated.any()
    assert not outcomes.final_terminated.all()
    for n in range(3):
        for b in range(6):
            expected = outcomes.return_to_go[n, b].item()
            if past_true_end or not outcomes.final_terminated[n, b]:
                steps = int(outcomes.steps_to_go[n, b])
                expected += DISCOUNT**steps * final_value[n, b].item()
            assert actual[n, b].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("floor", [True, False])
def test_weights_equal_a_slow_loop_over_the_rows_that_count(floor):
    advantage = doubles(3, 7, low=-5.0, high=5.0)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = False
    actual = awr.advantage_weights(
        advantage, mask, temperature=0.5, max_weight=4.0, floor=floor, epsilon=0.1
    )
    for n in range(3):
        real = [a for a, m in zip(advantage[n].tolist(), mask[n], strict=True) if m]
        mean, std = np.mean(real), np.std(real, ddof=1)
        for b, a in enumerate(real):
            weight = min(math.exp((a - mean) / (std + 0.1) / 0.5), 4.0)
            weight = max(weight, 0.25) if floor else weight
            assert actual[n, b].item() == pytest.approx(weight, rel=1e-12)
    assert actual.max() == pytest.approx(4.0)


def test_means_are_over_the_rows_that_count_and_of_none_are_zero():
    mask = torch.tensor([[True, True, False], [False, False, False]])
    batch = make_batch(tasks=2, context=3, layout=WITH_OUTCOMES).context
    sample = awr.Sample.of(dataclasses.replace(batch, mask=mask))
    assert sample.share.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    value, target = doubles(2, 3), doubles(2, 3, seed=1)
    share = sample.share.double()
    expected = ((value - target)[0, :2] ** 2).mean()
    torch.testing.assert_close(
        awr.value_loss(value, target, share), torch.stack([expected, 0 * expected])
    )
    torch.testing.assert_close(
        awr.advantage_loss(value, target, share), awr.value_loss(value, target, share)
    )
    weight = doubles(2, 3, seed=2, low=0.1)
    expected = -(weight * value)[0, :2].mean()
    torch.testing.assert_close(
        awr.regression_loss(value, weight, share), torch.stack([expected, 0 * expected])
    )


def test_log_densities_are_those_of_a_gaussian():
    action, mean = doubles(2, 3, 4), doubles(2, 3, 4, seed=1)
    expected = torch.distributions.Normal(mean, 0.2).log_prob(action).sum(-1)
    torch.testing.assert_close(awr.gaussian_log_prob(action, mean, 0.2), expected)


def test_targets_and_weights_get_no_gradient():
    inputs = [doubles(2, 3, seed=s).requires_grad_() for s in range(2)]
    for loss in (awr.value_loss, awr.advantage_loss, awr.regression_loss):
        loss(*inputs, torch.full((2, 3), 1 / 3)).sum().backward()
        assert inputs[1].grad is None
        assert inputs[0].grad.any()
        inputs[0].grad = None


def test_chunks_part_the_rows_in_their_order():
    sample = awr.Sample.of(make_batch(context=7, layout=WITH_OUTCOMES).context)
    parts = sample.chunks(3)
    assert [len(part.reward[0]) for part in parts] == [3, 2, 2]
    for name in ("observation", "reward", "mask"):
        together = torch.cat([getattr(part, name) for part in parts], dim=1)
        assert torch.equal(together, getattr(sample, name))
    ends = torch.cat([part.outcomes.final_observation for part in parts], dim=1)
    assert torch.equal(ends, sample.outcomes.final_observation)
