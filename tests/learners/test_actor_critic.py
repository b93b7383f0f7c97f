"""The inner RL: each loss against the paper's sum, and where the gradients of each method go."""

import math

import pytest
import torch

from causeway.learners import rl_losses
from causeway.learners.actor_critic import ActorCritic, ActorCriticConfig
from causeway.learners.networks import LOG_RATIO_BOUND
from tests.learners.factories import LAYOUT, doubles, generator, make_batch

EXACT = 1e-12
KINDS = ["awac", "iql", "sac", "brac"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, **changes):
    sizes = (LAYOUT.observation_size, LAYOUT.action_size, 4)
    small = {"critic_hidden": (8, 8), "actor_hidden": (8, 8), "temperature": 1.0, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ActorCritic(*sizes, ActorCriticConfig(inner_rl=kind, **small))


def losses_of(rl, *, improves=False, z=None, batch=None):
    z = torch.randn(3, 4, generator=generator(5)) if z is None else z
    batch = make_batch() if batch is None else batch
    return rl.losses(batch.transitions, z, next_z=None, improves=improves, generator=generator(1))


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_the_expectile_loss_equals_the_papers_sum(expectile):
    value, q = doubles(3, 5), doubles(2, 3, 5, seed=1)
    total, signs = 0.0, set()
    for n in range(3):
        for b in range(5):
            error = min(q[0, n, b].item(), q[1, n, b].item()) - value[n, b].item()
            total += abs(expectile - (error < 0)) * error**2
            signs.add(error < 0)
    assert signs == {True, False}
    q.requires_grad_()
    loss = rl_losses.expectile_loss(value.requires_grad_(), q, expectile=expectile)
    assert loss.item() == pytest.approx(total / 15, rel=EXACT)
    loss.backward()
    assert q.grad is None


def test_an_expectile_of_a_half_is_half_the_mean_squared_error():
    value, q = doubles(3, 5), doubles(2, 3, 5, seed=1)
    loss = rl_losses.expectile_loss(value, q, expectile=0.5)
    torch.testing.assert_close(loss, 0.5 * (q.amin(0) - value).square().mean())


def test_the_divergence_loss_equals_the_papers_sum():
    own, data = doubles(3, 5), doubles(3, 5, seed=1)
    total = 0.0
    for n in range(3):
        for b in range(5):
            g_own, g_data = -math.exp(own[n, b]), -math.exp(data[n, b])
            total -= math.log(-g_own) + g_data + 1.0  # E_b[g] - E_pi[f*(g)], f = -log
    loss = rl_losses.divergence_loss(own, data)
    assert loss.item() == pytest.approx(total / 15, rel=EXACT)


def test_the_divergences_dual_is_the_kl_at_its_best_and_less_elsewhere():
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    behaviour = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    kl = (policy * (policy / behaviour).log()).sum().item()

    def dual(u):
        # Expectations over three actions: the loss's means, weighted by the probabilities.
        own, data = (3 * policy * u)[None], (3 * behaviour * u.exp()).log()[None]
        return -rl_losses.divergence_loss(own, data).item()

    best = (policy / behaviour).log()
    assert dual(best) == pytest.approx(kl, rel=1e-9)
    for seed in range(5):
        assert dual(best + doubles(3, seed=seed)) < kl


@each_kind
def test_each_loss_reaches_its_own_network_alone(kind):
    rl = make(kind)
    expected = {
        "awac": {"critic": {"critics"}, "actor": {"actor"}, "reparameterised": {"actor"}},
        "iql": {
            "critic": {"critics"},
            "value": {"value"},
            "actor": {"actor"},
            "reparameterised": {"actor"},
        },
        "sac": {"critic": {"critics"}, "actor": {"actor"}},
        "brac": {"critic": {"critics"}, "actor": {"actor"}, "divergence": {"log_ratio"}},
    }[kind]
    for module in rl.modules().values():
        module.requires_grad_(True)
    found = {}
    for name in losses_of(rl, improves=True)[0]:
        for module in rl.modules().values():
            module.zero_grad(set_to_none=True)
        losses_of(rl, improves=True)[0][name].backward()
        found[name] = {
            m
            for m, module in rl.modules().items()
            if any(p.grad is not None and p.grad.any() for p in module.parameters())
        }
    assert found == expected


@each_kind
def test_of_all_losses_the_critics_error_alone_reaches_z(kind):
    rl = make(kind)
    reached = set()
    for name in losses_of(rl, improves=True)[0]:
        z = torch.randn(3, 4, generator=generator(5)).requires_grad_()
        losses_of(rl, improves=True, z=z)[0][name].backward()
        if z.grad is not None and z.grad.any():
            reached.add(name)
    assert reached == {"critic"}


@each_kind
def test_policy_improvement_is_added_only_where_it_is_asked_for_and_the_method_has_it(kind):
    names = [losses_of(make(kind), improves=improves)[0].keys() for improves in (False, True)]
    assert names[1] - names[0] == ({"reparameterised"} if kind in ("awac", "iql") else set())


@each_kind
def test_a_true_end_drops_the_bootstrap(kind):
    rl, batch = make(kind, discount=0.9), make_batch()
    q = rl.critics(batch.transitions.observation, batch.transitions.action, torch.zeros(3, 4))
    object.__setattr__(
        batch.transitions, "terminated", torch.ones_like(batch.transitions.terminated)
    )
    found = losses_of(rl, z=torch.zeros(3, 4), batch=batch)[0]["critic"]
    expected = rl_losses.critic_loss(q, rl.config.reward_scale * batch.transitions.reward)
    torch.testing.assert_close(found, expected)


def test_sacs_losses_equal_their_formulas_on_the_same_draws():
    rl, batch = make("sac", entropy_weight=0.7), make_batch()
    t, z = batch.transitions, torch.randn(3, 4, generator=generator(5))
    draw = generator(1)
    noise = [torch.randn(t.action.shape, generator=draw) for _ in range(2)]

    def own(s, e):
        mean, log_std = rl.actor(s, z)
        raw = mean + log_std.exp() * e
        log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(raw)
        log_prob = log_prob - torch.log1p(-torch.tanh(raw).square())
        return torch.tanh(raw), log_prob.sum(-1)

    action, log_prob = own(t.next_observation, noise[0])
    soft = rl.target_critics(t.next_observation, action, z).amin(0) - 0.7 * log_prob
    target = 5.0 * t.reward + 0.99 * torch.where(t.terminated, 0.0, soft)
    critic = (rl.critics(t.observation, t.action, z) - target).square().mean((1, 2)).sum()
    action, log_prob = own(t.observation, noise[1])
    actor = (0.7 * log_prob - rl.critics(t.observation, action, z).amin(0)).mean()
    found, _ = losses_of(rl)
    torch.testing.assert_close(found["critic"], critic, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["actor"], actor, rtol=1e-4, atol=1e-5)


def test_iqls_advantage_is_q_of_the_data_less_the_value():
    rl, batch = make("iql", weighting="exponential", max_weight=2.0), make_batch()
    t, z = batch.transitions, torch.randn(3, 4, generator=generator(5))
    value = rl.value(t.observation, z)
    q = rl.target_critics(t.observation, t.action, z)
    found, _ = losses_of(rl)
    expected = rl_losses.expectile_loss(value, q, expectile=0.7)
    torch.testing.assert_close(found["value"], expected)
    target = rl_losses.critic_target(
        t.reward,
        t.terminated,
        rl.value(t.next_observation, z)[None],
        reward_scale=5.0,
        discount=0.99,
    )
    expected = rl_losses.critic_loss(rl.critics(t.observation, t.action, z), target)
    torch.testing.assert_close(found["critic"], expected)


def test_bracs_actor_pays_for_its_divergence():
    cheap, dear = (
        losses_of(make("brac", divergence_weight=weight))[0]["actor"] for weight in (0.0, 1.0)
    )
    rl, t = make("brac"), make_batch().transitions
    z, draw = torch.randn(3, 4, generator=generator(5)), generator(1)
    torch.randn(t.action.shape, generator=draw)  # of the next actions
    mean, log_std = rl.actor(t.observation, z)
    own = torch.tanh(mean + log_std.exp() * torch.randn(t.action.shape, generator=draw))
    torch.testing.assert_close(dear - cheap, rl.log_ratio(t.observation, own, z).mean())


def test_the_log_ratio_is_bounded():
    rl = make("brac")
    with torch.no_grad():
        rl.log_ratio.body[-1].bias.fill_(1e6)
    t = make_batch().transitions
    ratio = rl.log_ratio(t.observation, t.action, torch.zeros(3, 4))
    assert (ratio <= LOG_RATIO_BOUND).all()
    assert rl_losses.divergence_loss(ratio, ratio).isfinite()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"expectile": 1.0}, r"ActorCriticConfig.expectile must lie in \(0, 1\), got 1.0"),
        ({"entropy_weight": -1.0}, "entropy_weight must be >= 0, got -1.0"),
        ({"discount": 1.0}, r"discount must lie in \[0, 1\), got 1.0"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ActorCriticConfig(**wrong)
