import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import (
    Independent,
    Normal,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.transforms import TanhTransform

from causeway.learners.formulas import (
    draw_gaussian,
    kl_between_gaussians,
    kl_to_standard_normal,
    polyak_update_,
    product_of_gaussians,
    tanh_gaussian_log_prob,
    tanh_log_jacobian,
)
from tests.learners.factories import derandomised, doubles

EXACT = {"rtol": 1e-12, "atol": 0.0}
seeds = st.integers(0, 2**32 - 1)


def make_factors(seed=0, tasks=3, size=5, latent=2):
    """Means, and variances on both sides of the clamp at 1e-7."""
    mean = doubles(tasks, size, latent, seed=seed, low=-2, high=2)
    variance = 10.0 ** doubles(tasks, size, latent, seed=seed + 1, low=-9, high=1)
    return mean, variance


def reference_product(mean, variance, mask):
    """PEARL's eq. (2), one factor at a time."""
    tasks, size, latent = mean.shape
    belief = torch.empty(tasks, 2, latent, dtype=torch.float64)
    for n in range(tasks):
        for z in range(latent):
            precision, weighted = 0.0, 0.0
            for k in range(size):
                if mask[n, k]:
                    v = max(variance[n, k, z].item(), 1e-7)
                    precision += 1.0 / v
                    weighted += mean[n, k, z].item() / v
            belief[n, 0, z] = weighted / precision if mask[n].any() else 0.0
            belief[n, 1, z] = 1.0 / precision if mask[n].any() else 1.0
    return belief


def belief_of(mean, variance):
    return torch.stack([mean, variance], dim=1)


def test_the_product_of_gaussians_equals_the_papers_sum():
    mean, variance = make_factors(tasks=4)
    assert (variance < 1e-7).any()
    assert (variance > 1e-7).any()
    mask = torch.tensor(
        [[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]], dtype=torch.bool
    )
    expected = reference_product(mean, variance, mask)
    torch.testing.assert_close(product_of_gaussians(mean, variance, mask), expected, **EXACT)


def test_a_product_of_one_gaussian_is_that_gaussian():
    mean, variance = make_factors(size=1)
    variance = variance.clamp_min(1e-6)
    belief = product_of_gaussians(mean, variance, torch.ones(3, 1, dtype=torch.bool))
    torch.testing.assert_close(belief, belief_of(mean[:, 0], variance[:, 0]), **EXACT)


@pytest.mark.parametrize("size", [0, 4])
def test_no_context_at_all_gives_exactly_the_prior(size):
    mean, variance = make_factors(size=size)
    belief = product_of_gaussians(mean, variance, torch.zeros(3, size, dtype=torch.bool))
    assert torch.equal(belief[:, 0], torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(belief[:, 1], torch.ones(3, 2, dtype=torch.float64))


@given(seed=seeds, size=st.integers(1, 12), padding=st.integers(0, 7))
@derandomised
def test_a_belief_ignores_the_order_and_the_padding_of_its_context(seed, size, padding):
    mean, variance = make_factors(seed, size=size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    junk = torch.full((3, padding, 2), 4242.0, dtype=torch.float64)
    mask = (torch.arange(size + padding) < size).expand(3, -1)
    padded = product_of_gaussians(
        torch.cat([mean[:, order], junk], 1), torch.cat([variance[:, order], junk], 1), mask
    )
    plain = product_of_gaussians(mean, variance, mask[:, :size])
    torch.testing.assert_close(padded, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("junk", [torch.inf, torch.nan])
def test_padding_that_is_not_finite_does_not_reach_a_belief(junk):
    mean, variance = make_factors()
    mask = torch.tensor([[True, True, False, True, False]] * 3)
    expected = product_of_gaussians(mean, variance, mask)
    mean[~mask], variance[~mask] = junk, junk
    assert torch.equal(product_of_gaussians(mean, variance, mask), expected)


@given(seed=seeds, size=st.integers(1, 12))
@derandomised
def test_more_context_never_widens_a_belief(seed, size):
    mean, variance = make_factors(seed, size=size)
    mask = torch.ones(3, size, dtype=torch.bool)
    all_but_one = mask.clone()
    all_but_one[:, -1] = size == 1
    with_all = product_of_gaussians(mean, variance, mask)[:, 1]
    with_less = product_of_gaussians(mean, variance, all_but_one)[:, 1]
    assert (with_all <= with_less * (1 + 1e-12)).all()


def test_padding_gets_no_gradient_from_a_belief():
    mean, variance = (x.requires_grad_() for x in make_factors())
    mask = torch.tensor([[True, True, False, True, False]] * 3)
    product_of_gaussians(mean, variance, mask).square().sum().backward()
    assert not mean.grad[~mask].any()
    assert not variance.grad[~mask].any()
    assert mean.grad[mask].all()


def test_kl_to_the_prior_equals_the_sum_over_dimensions():
    mean, variance = doubles(3, 4, low=-2, high=2), doubles(3, 4, seed=1, low=0.01, high=3)
    for n in range(3):
        expected = sum(
            0.5 * (v + m * m - 1.0 - math.log(v))
            for m, v in zip(mean[n].tolist(), variance[n].tolist(), strict=True)
        )
        actual = kl_to_standard_normal(belief_of(mean, variance))[n].item()
        assert actual == pytest.approx(expected, rel=1e-12)


def test_kl_divergences_equal_torchs():
    p_mean, p_variance = doubles(3, 4), doubles(3, 4, seed=1, low=0.01, high=3)
    q_mean, q_variance = doubles(3, 4, seed=2), doubles(3, 4, seed=3, low=0.01, high=3)
    p, q = Normal(p_mean, p_variance.sqrt()), Normal(q_mean, q_variance.sqrt())
    prior = Normal(torch.zeros_like(p_mean), torch.ones_like(p_mean))
    torch.testing.assert_close(
        kl_between_gaussians(belief_of(p_mean, p_variance), belief_of(q_mean, q_variance)),
        kl_divergence(p, q).sum(-1),
        **EXACT,
    )
    torch.testing.assert_close(
        kl_to_standard_normal(belief_of(p_mean, p_variance)),
        kl_divergence(p, prior).sum(-1),
        **EXACT,
    )


def test_the_kl_of_a_belief_to_itself_is_zero():
    belief = belief_of(doubles(3, 4), doubles(3, 4, seed=1, low=0.01, high=3))
    assert torch.equal(kl_between_gaussians(belief, belief), torch.zeros(3, dtype=torch.float64))


def test_a_draw_is_the_mean_and_one_standard_deviation_of_noise():
    mean, variance, noise = doubles(2, 3), doubles(2, 3, seed=1, low=0.1), doubles(2, 3, seed=2)
    actual = draw_gaussian(belief_of(mean, variance), noise)
    for n in range(2):
        for z in range(3):
            expected = mean[n, z].item() + math.sqrt(variance[n, z]) * noise[n, z].item()
            assert actual[n, z].item() == pytest.approx(expected, rel=1e-12)


def test_a_draw_sends_gradient_to_mean_and_variance():
    belief = belief_of(doubles(2, 3), doubles(2, 3, seed=1, low=0.1)).requires_grad_()
    draw_gaussian(belief, doubles(2, 3, seed=2)).sum().backward()
    assert belief.grad.all()


def test_the_jacobian_of_tanh_equals_its_definition_and_survives_the_tails():
    raw = doubles(50, low=-6, high=6)
    expected = [math.log(1.0 - math.tanh(u) ** 2) for u in raw.tolist()]
    torch.testing.assert_close(
        tanh_log_jacobian(raw), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )
    tails = tanh_log_jacobian(torch.tensor([-300.0, 300.0]))
    torch.testing.assert_close(tails, torch.full((2,), 2 * math.log(2) - 600.0))


def reference_tanh_log_prob(action, mean, log_std):
    """Haarnoja et al.'s eq. (21) for one action, its Jacobian as 1 - tanh^2 = 1 - a^2."""
    total = 0.0
    for a, m, s in zip(action.tolist(), mean.tolist(), log_std.tolist(), strict=True):
        inside = min(max(a, -0.999999), 0.999999)
        raw, std = math.atanh(inside), math.exp(s)
        density = math.exp(-0.5 * ((raw - m) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        total += math.log(density) - math.log((1.0 - inside) * (1.0 + inside))
    return total


def test_the_log_prob_of_an_action_equals_the_papers_sum():
    action = doubles(3, 4, 2)
    action[0, 0], action[0, 1], action[0, 2] = 1.0, -1.0, 0.9999995  # beyond the clamp
    mean, log_std = doubles(3, 4, 2, seed=1), doubles(3, 4, 2, seed=2, low=0.0, high=2.0)
    actual = tanh_gaussian_log_prob(action, mean, log_std)
    assert actual.shape == (3, 4)
    for n in range(3):
        for b in range(4):
            expected = reference_tanh_log_prob(action[n, b], mean[n, b], log_std[n, b])
            assert actual[n, b].item() == pytest.approx(expected, rel=1e-12)


def test_the_log_prob_of_an_action_equals_torchs_transformed_distribution():
    action = doubles(3, 4, 2, low=-0.99, high=0.99)
    mean, log_std = doubles(3, 4, 2, seed=1), doubles(3, 4, 2, seed=2, low=-2.0, high=2.0)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    torch.testing.assert_close(
        tanh_gaussian_log_prob(action, mean, log_std),
        Independent(squashed, 1).log_prob(action),
        **EXACT,
    )


def test_actions_on_the_bound_have_finite_log_probs_and_gradients_in_float32():
    mean = torch.zeros(2, 2, requires_grad=True)
    log_std = torch.zeros(2, 2, requires_grad=True)
    action = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    log_prob = tanh_gaussian_log_prob(action, mean, log_std)
    log_prob.sum().backward()
    for value in (log_prob, mean.grad, log_std.grad):
        assert value.isfinite().all()


def test_a_squashed_density_integrates_to_one():
    grid = torch.linspace(-0.99999, 0.99999, 200_001, dtype=torch.float64)
    mean, log_std = torch.full_like(grid, 0.3), torch.full_like(grid, -0.5)
    density = tanh_gaussian_log_prob(grid[:, None], mean[:, None], log_std[:, None]).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-4)


@given(seed=seeds, rate=st.floats(0.001, 1.0))
@derandomised
def test_polyak_moves_targets_by_the_rate_and_leaves_sources(seed, rate):
    targets, sources = [doubles(2, 3, seed=seed)], [doubles(2, 3, seed=seed + 1)]
    expected = [(1 - rate) * t + rate * s for t, s in zip(targets, sources, strict=True)]
    kept = sources[0].clone()
    polyak_update_(targets, sources, rate)
    torch.testing.assert_close(targets[0], expected[0], rtol=1e-9, atol=1e-12)
    assert torch.equal(sources[0], kept)


def test_polyak_at_rate_one_copies():
    targets, sources = [doubles(2, 3)], [doubles(2, 3, seed=1).requires_grad_()]
    polyak_update_(targets, sources, 1.0)
    assert torch.equal(targets[0], sources[0])
    assert not targets[0].requires_grad
