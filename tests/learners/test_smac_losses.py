"""Each loss against the paper's sum, written as a slow loop over single transitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from causeway.learners import context_losses, rl_losses
from tests.learners.factories import derandomised, doubles

EXACT = 1e-12
WEIGHTINGS = ["batch_softmax", "task_softmax", "exponential"]
seeds = st.integers(0, 2**32 - 1)


def reference_target(reward, terminated, next_q, reward_scale, discount):
    members, tasks, size = next_q.shape
    target = torch.empty(tasks, size, dtype=torch.float64)
    for n in range(tasks):
        for b in range(size):
            y = reward_scale * reward[n, b].item()
            if not terminated[n, b]:
                y += discount * min(next_q[k, n, b].item() for k in range(members))
            target[n, b] = y
    return target


def reference_critic_loss(q, target):
    members, tasks, size = q.shape
    total = 0.0
    for k in range(members):
        for n in range(tasks):
            for b in range(size):
                total += (q[k, n, b].item() - target[n, b].item()) ** 2
    return total / (tasks * size)


def reference_reward_loss(predicted, reward, mask, reduction):
    tasks, size = reward.shape
    total, count = 0.0, 0
    for n in range(tasks):
        for b in range(size):
            if mask is None or mask[n, b]:
                total += (predicted[n, b].item() - reward[n, b].item()) ** 2
                count += 1
    return total / (count if reduction == "rl_batch" else tasks)


def reference_weights(advantage, weighting, temperature, max_weight):
    tasks, size = advantage.shape
    scaled = [[advantage[n, b].item() / temperature for b in range(size)] for n in range(tasks)]
    over_all = sum(math.exp(a) for row in scaled for a in row)
    weight = torch.empty(tasks, size, dtype=torch.float64)
    for n in range(tasks):
        over_task = sum(math.exp(a) for a in scaled[n])
        for b in range(size):
            exponential = math.exp(scaled[n][b])
            weight[n, b] = {
                "exponential": min(exponential, max_weight),
                "batch_softmax": tasks * size * exponential / over_all,
                "task_softmax": size * exponential / over_task,
            }[weighting]
    return weight


def reference_actor_loss(log_prob, weight):
    total = 0.0
    for n in range(log_prob.shape[0]):
        for b in range(log_prob.shape[1]):
            total -= weight[n, b].item() * log_prob[n, b].item()
    return total / log_prob.numel()


def critic_target(reward, terminated, next_q, **changes):
    options = {"reward_scale": 5.0, "discount": 0.9, **changes}
    return rl_losses.critic_target(reward, terminated, next_q, **options)


def weights(advantage, weighting, temperature=0.5, max_weight=2.0):
    return rl_losses.advantage_weights(
        advantage, weighting=weighting, temperature=temperature, max_weight=max_weight
    )


# Golden: the paper's sums.


def test_the_critic_target_equals_the_papers_sum():
    reward, next_q = doubles(3, 5), doubles(2, 3, 5, seed=1, low=-9, high=9)
    terminated = doubles(3, 5, seed=2) > 0
    assert (next_q[0] < next_q[1]).any()
    assert (next_q[0] > next_q[1]).any()
    assert terminated.any()
    assert not terminated.all()
    torch.testing.assert_close(
        critic_target(reward, terminated, next_q),
        reference_target(reward, terminated, next_q, 5.0, 0.9),
        rtol=EXACT,
        atol=0.0,
    )


def test_a_true_end_takes_nothing_from_the_next_state_even_if_it_is_infinite():
    reward, terminated = doubles(1, 2), torch.tensor([[True, False]])
    next_q = torch.tensor([[[math.inf, 1.0]], [[math.inf, 2.0]]], dtype=torch.float64)
    target = critic_target(reward, terminated, next_q)
    expected = [5.0 * reward[0, 0].item(), 5.0 * reward[0, 1].item() + 0.9]
    assert target[0].tolist() == pytest.approx(expected, rel=EXACT)


def test_the_critic_loss_equals_the_papers_sum():
    q, target = doubles(2, 3, 5), doubles(3, 5, seed=1)
    actual = rl_losses.critic_loss(q, target).item()
    assert actual == pytest.approx(reference_critic_loss(q, target), rel=EXACT)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reduction", ["rl_batch", "context_sum"])
def test_the_reward_loss_equals_the_papers_sum(reduction, masked):
    predicted, reward = doubles(3, 5), doubles(3, 5, seed=1)
    mask = doubles(3, 5, seed=2) > 0 if masked else None
    actual = context_losses.reward_loss(predicted, reward, mask, reduction=reduction).item()
    expected = reference_reward_loss(predicted, reward, mask, reduction)
    assert actual == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("over_tasks", ["mean", "sum"])
def test_the_kl_loss_equals_the_papers_sum(over_tasks):
    mean, variance = doubles(3, 4, low=-2, high=2), doubles(3, 4, seed=1, low=0.01, high=3)
    total = 0.0
    for n in range(3):
        for z in range(4):
            m, v = mean[n, z].item(), variance[n, z].item()
            total += 0.5 * (v + m * m - 1.0 - math.log(v))
    expected = 0.1 * total / (3 if over_tasks == "mean" else 1)
    belief = torch.stack([mean, variance], dim=1)
    actual = context_losses.kl_loss(belief, kl_weight=0.1, over_tasks=over_tasks).item()
    assert actual == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_advantage_weights_equal_the_papers_formula(weighting):
    advantage = doubles(3, 5, low=-2, high=2)
    expected = reference_weights(advantage, weighting, 0.5, 2.0)
    if weighting == "exponential":
        assert (expected == 2.0).any()
        assert (expected < 2.0).any()
    torch.testing.assert_close(weights(advantage, weighting), expected, rtol=EXACT, atol=0.0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_actor_loss_equals_the_papers_sum(weighting):
    log_prob, advantage = doubles(3, 5, low=-4, high=4), doubles(3, 5, seed=1, low=-2, high=2)
    expected = reference_actor_loss(log_prob, reference_weights(advantage, weighting, 0.5, 2.0))
    actual = rl_losses.actor_loss(log_prob, weights(advantage, weighting)).item()
    assert actual == pytest.approx(expected, rel=EXACT)


def test_the_reparameterised_loss_equals_its_sum():
    q = doubles(2, 3, 5)
    total = sum(min(q[0, n, b].item(), q[1, n, b].item()) for n in range(3) for b in range(5))
    actual = rl_losses.reparameterised_loss(q, weight=0.7).item()
    assert actual == pytest.approx(-0.7 * total / 15, rel=EXACT)


def test_the_effective_sample_share_is_that_of_the_worst_task():
    weight = doubles(3, 5, low=0.1, high=3)
    shares = []
    for n in range(3):
        row = weight[n].tolist()
        shares.append(sum(row) ** 2 / sum(w * w for w in row) / 5)
    assert rl_losses.effective_sample_share(weight).item() == pytest.approx(min(shares), rel=EXACT)


def test_one_weight_alone_is_an_effective_sample_of_one():
    weight = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 9.0, 0.0, 0.0]], dtype=torch.float64)
    assert rl_losses.effective_sample_share(weight).item() == pytest.approx(1 / 4, rel=EXACT)


# Gradients: each loss stops those that it must not send.


def test_the_critic_target_sends_no_gradient():
    reward, next_q = doubles(2, 3).requires_grad_(), doubles(2, 2, 3).requires_grad_()
    target = critic_target(reward, torch.zeros(2, 3, dtype=torch.bool), next_q)
    assert not target.requires_grad


def test_the_critic_loss_sends_gradient_to_q_and_none_to_the_target():
    q, target = doubles(2, 3, 5).requires_grad_(), doubles(3, 5, seed=1).requires_grad_()
    rl_losses.critic_loss(q, target).backward()
    assert target.grad is None
    expected = 2.0 * (q - target).detach() / 15
    torch.testing.assert_close(q.grad, expected, rtol=EXACT, atol=0.0)


def test_padding_sends_no_gradient_through_the_reward_loss():
    predicted, mask = doubles(2, 3).requires_grad_(), torch.tensor([[True, False, True]] * 2)
    reward = doubles(2, 3, seed=1)
    context_losses.reward_loss(predicted, reward, mask, reduction="context_sum").backward()
    assert not predicted.grad[~mask].any()
    assert predicted.grad[mask].all()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_advantage_weights_send_no_gradient(weighting):
    assert not weights(doubles(2, 3).requires_grad_(), weighting).requires_grad


def test_the_actor_loss_sends_gradient_to_the_log_prob_and_none_to_the_weight():
    log_prob, weight = doubles(2, 3).requires_grad_(), doubles(2, 3, seed=1).requires_grad_()
    rl_losses.actor_loss(log_prob, weight).backward()
    assert weight.grad is None
    torch.testing.assert_close(log_prob.grad, -weight.detach() / 6, rtol=EXACT, atol=0.0)


def test_the_reparameterised_loss_pulls_on_the_smaller_q_alone():
    q = doubles(2, 3, 5).requires_grad_()
    rl_losses.reparameterised_loss(q, weight=0.7).backward()
    smaller = q.detach() == q.detach().amin(0)
    assert not q.grad[~smaller].any()
    expected = torch.full_like(q.grad[smaller], -0.7 / 15)
    torch.testing.assert_close(q.grad[smaller], expected, rtol=EXACT, atol=0.0)


# Properties.


def losses_of_a_batch(q, target, log_prob, weight, reward):
    """Every loss that is a mean over transitions, and so is the mean of its halves."""
    return torch.stack(
        [
            rl_losses.critic_loss(q, target),
            rl_losses.actor_loss(log_prob, weight),
            context_losses.reward_loss(log_prob, reward, None, reduction="rl_batch"),
            context_losses.reward_loss(log_prob, reward, None, reduction="context_sum"),
            rl_losses.reparameterised_loss(q, weight=0.7),
            context_losses.kl_loss(
                torch.stack([reward, weight], 1), kl_weight=0.1, over_tasks="mean"
            ),
        ]
    )


@given(seed=seeds, tasks=st.integers(1, 4), size=st.integers(1, 6))
@derandomised
def test_the_loss_of_a_batch_of_tasks_is_the_mean_of_its_halves(seed, tasks, size):
    q = doubles(2, 2 * tasks, size, seed=seed)
    flat = [doubles(2 * tasks, size, seed=seed + i, low=0.1, high=3.0) for i in range(1, 5)]
    halves = [
        losses_of_a_batch(q[:, half], *(x[half] for x in flat))
        for half in (slice(None, tasks), slice(tasks, None))
    ]
    torch.testing.assert_close(
        losses_of_a_batch(q, *flat), (halves[0] + halves[1]) / 2, rtol=1e-9, atol=1e-12
    )


@given(seed=seeds, shift=st.floats(-50.0, 50.0))
@derandomised
def test_softmax_weights_average_one_and_ignore_a_constant(seed, shift):
    advantage = doubles(3, 5, seed=seed, low=-3, high=3)
    batch, task = weights(advantage, "batch_softmax"), weights(advantage, "task_softmax")
    assert batch.mean().item() == pytest.approx(1.0, rel=1e-9)
    assert task.mean(1).tolist() == pytest.approx([1.0] * 3, rel=1e-9)
    for weighting, before in (("batch_softmax", batch), ("task_softmax", task)):
        torch.testing.assert_close(
            weights(advantage + shift, weighting), before, rtol=1e-9, atol=1e-12
        )


@given(seed=seeds)
@derandomised
def test_task_weights_do_not_see_the_other_tasks(seed):
    advantage = doubles(3, 5, seed=seed, low=-3, high=3)
    alone = torch.cat([weights(advantage[n : n + 1], "task_softmax") for n in range(3)])
    torch.testing.assert_close(weights(advantage, "task_softmax"), alone, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_huge_advantages_leave_the_weights_finite(weighting):
    advantage = torch.tensor([[1e30, -1e30, 0.0], [3e38, 1.0, -3e38]])
    assert weights(advantage, weighting, temperature=1.0).isfinite().all()


@given(seed=seeds, temperature=st.floats(0.1, 1000.0))
@derandomised
def test_better_actions_never_count_less(seed, temperature):
    advantage = doubles(1, 8, seed=seed, low=-5, high=5).sort(dim=1).values
    for weighting in WEIGHTINGS:
        weight = weights(advantage, weighting, temperature, 3.0)
        assert (weight.diff(dim=1) >= 0).all()
