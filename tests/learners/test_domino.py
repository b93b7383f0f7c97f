"""DOMINO: its losses against slow sums, where gradients go, and what its window holds."""

import dataclasses
import math

import pytest
import torch

from causeway.learners import domino
from causeway.learners.context_losses import hsic, nce_information
from causeway.learners.domino import MODEL, OFFLINE, ONLINE, DominoConfig
from tests.learners.factories import (
    doubles,
    generator,
    make_batch,
    make_small,
    tensors_of,
)


def make(**changes):
    return make_small("domino", **{"dynamics_hidden": (8,), "window": 3, **changes})


def test_the_likelihood_loss_equals_the_papers_sum():
    mean, log_variance, target = (doubles(2, 3, 4, seed=seed) for seed in range(3))
    total = 0.0
    for n in range(2):
        for b in range(3):
            for o in range(4):
                m, v, y = (x[n, b, o].item() for x in (mean, log_variance, target))
                total += (m - y) ** 2 * math.exp(-v) + v
    actual = domino.likelihood_loss(mean, log_variance, target).item()
    assert actual == pytest.approx(total / 24, rel=1e-12)


def test_the_log_variance_stays_within_its_soft_bounds_and_keeps_its_slope_between():
    low, high = (torch.tensor([x], dtype=torch.float64) for x in (-10.0, 0.5))
    raw = torch.tensor([[-60.0], [-5.0], [60.0]], dtype=torch.float64, requires_grad=True)
    bounded = domino.bounded_log_variance(raw, low, high)
    assert bounded[0].item() == pytest.approx(-10.0, abs=1e-4)
    assert bounded[1].item() == pytest.approx(-5.0, abs=0.02)
    assert bounded[2].item() == pytest.approx(0.5, abs=1e-4)
    bounded.sum().backward()
    assert raw.grad[:, 0].tolist() == pytest.approx([0.0, 1.0, 0.0], abs=0.02)


@pytest.mark.parametrize("disentangling", ["nce", "hsic"])
def test_the_information_is_summed_over_contexts_and_over_their_pairs(disentangling):
    first, second = doubles(5, 3, 2), doubles(5, 3, 2, seed=1)
    task = torch.tensor([1, 2, 1, 4, 5])
    told, shared = domino.information_loss(
        first, second, task, temperature=0.5, disentangling=disentangling
    )
    expected = [0.0, 0.0]
    for k in range(3):
        expected[0] += nce_information(first[:, k], second[:, k], task, temperature=0.5).item()
        for other in range(k + 1, 3):
            pair = (first[:, k], first[:, other])
            if disentangling == "hsic":
                expected[1] += hsic(*pair).item()
            else:
                expected[1] += max(0.0, nce_information(*pair, task, temperature=0.5).item())
    assert [told.item(), shared.item()] == pytest.approx(expected, rel=1e-12)


def test_the_loss_rewards_what_tells_the_task_and_punishes_what_contexts_share():
    algorithm, batch = make(information_weight=2.0), make_batch()
    losses = algorithm.losses(batch, MODEL, generator())
    between, of_task = (losses.watched[f"information_{name}"] for name in ("between", "of_task"))
    torch.testing.assert_close(losses.minimised["information"], 2.0 * (between - of_task))


MAPS = {
    MODEL: {
        "forward": {"contexts", "dynamics"},
        "backward": {"contexts", "dynamics"},
        "bounds": {"dynamics"},
        "reward": {"contexts", "decoder"},
        "information": {"contexts"},
    },
    OFFLINE: {"critic": {"critics"}, "actor": {"actor"}, "reward": {"decoder"}},
    ONLINE: {"critic": {"critics"}, "actor": {"actor"}, "reparameterised": {"actor"}},
}


@pytest.mark.parametrize("stage", MAPS, ids=lambda stage: stage.name)
def test_each_loss_reaches_exactly_its_modules(stage):
    algorithm, batch = make(), make_batch()
    for module in algorithm.modules().values():
        module.requires_grad_(True)
    found = {}
    for name in algorithm.losses(batch, stage, generator()).minimised:
        for module in algorithm.modules().values():
            module.zero_grad(set_to_none=True)
        algorithm.losses(batch, stage, generator()).minimised[name].backward()
        found[name] = {
            m
            for m, module in algorithm.modules().items()
            if any(p.grad is not None and p.grad.any() for p in module.parameters())
        }
    assert found == MAPS[stage]


def test_the_information_reaches_the_disentangled_contexts_and_not_the_global_one():
    algorithm = make()
    algorithm.losses(make_batch(), MODEL, generator()).minimised["information"].backward()
    contexts = algorithm.policy().contexts
    assert all(p.grad is None or not p.grad.any() for p in contexts.common.parameters())
    assert any(p.grad is not None and p.grad.any() for p in contexts.parts.parameters())


def test_a_window_is_the_last_transitions_and_what_came_before_them_changes_nothing():
    policy, batch = make().policy(), make_batch()
    z = policy.embed(batch.context)
    for place, changes in ((1, False), (2, True), (4, True)):
        reward = batch.context.reward.clone()
        reward[:, place] += 1.0
        other = policy.embed(dataclasses.replace(batch.context, reward=reward))
        assert torch.equal(other, z) != changes


def test_a_longer_context_gives_the_mean_of_its_whole_windows():
    policy, c = make(window=2).policy(), make_batch().context
    ends = [torch.full((3,), place) for place in (4, 2)]  # not that of the first transition alone
    expected = sum(policy.of_window(c, end) for end in ends) / 2
    torch.testing.assert_close(policy.embed(c), expected)


def test_acting_is_trained_on_histories_of_any_length():
    algorithm, context = make(), make_batch().context
    kept = {
        int(n)
        for seed in range(40)
        for n in algorithm._shortened(context, generator(seed)).mask.sum(1)
    }
    assert kept == {1, 2, 3, 4, 5}


def test_a_short_history_stands_behind_zeros():
    policy, batch = make().policy(), make_batch()
    c = batch.context
    first = {name: value[:, :1] for name, value in tensors_of(c).items()}
    seen = torch.cat([c.next_observation - c.observation, c.action, c.reward[..., None]], -1)[:, 0]
    window = torch.cat([torch.zeros(3, 2 * seen.shape[1]), seen], dim=1)
    expected = policy.contexts(window)
    torch.testing.assert_close(policy.embed(dataclasses.replace(c, **first)), expected)


def test_without_rewards_in_the_window_they_change_nothing():
    policy, batch = make(reward_in_context=False).policy(), make_batch()
    other = dataclasses.replace(batch.context, reward=batch.context.reward + 1.0)
    assert torch.equal(policy.embed(other), policy.embed(batch.context))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"contexts": 0}, "DominoConfig.contexts must be > 0, got 0"),
        ({"window": 0}, "DominoConfig.window must be > 0, got 0"),
        ({"information_weight": -1.0}, "information_weight must be >= 0, got -1.0"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        DominoConfig(**wrong)
