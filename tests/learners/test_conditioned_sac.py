"""The agent that is told its task: its losses, its state, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from causeway.datasets.batches import RowLayout
from causeway.learners import conditioned_sac, rl_losses
from causeway.learners.conditioned_sac import ConditionedSac, ConditionedSacConfig
from causeway.learners.formulas import squashed_draw, tanh_gaussian_log_prob
from causeway.learners.trainer import DivergedError
from tests.learners.factories import LAYOUT, doubles, generator, make_rows

SMALL = ConditionedSacConfig(hidden=(8, 8), precision="float32")


def make_agent(seed=0, config=SMALL, condition=3):
    return ConditionedSac(LAYOUT.observation_size, LAYOUT.action_size, condition, config, seed=seed)


def make_batch(seed=0, tasks=4, transitions=6):
    rows = make_rows(np.random.default_rng(seed), tasks, transitions)
    condition = doubles(tasks, 3, seed=seed).float()
    return LAYOUT.transitions(torch.from_numpy(rows)), condition


def train(agent, updates, first=0):
    for update in range(first, first + updates):
        agent.update(*make_batch(update), generator(update))
    return agent


def test_the_target_equals_the_papers_sum_and_a_time_limit_keeps_its_bootstrap():
    reward, log_prob = doubles(3, 5), doubles(3, 5, seed=1, high=9.0)
    next_q = doubles(2, 3, 5, seed=2)
    terminated = doubles(3, 5, seed=3) > 0.2
    expected = np.zeros((3, 5))
    for n in range(3):
        for b in range(5):
            value = min(next_q[0, n, b], next_q[1, n, b]) - 0.3 * log_prob[n, b]
            expected[n, b] = 4.0 * reward[n, b] + (0.0 if terminated[n, b] else 0.9 * value)
    actual = rl_losses.soft_target(
        reward,
        terminated,
        next_q.requires_grad_(),
        log_prob.requires_grad_(),
        torch.tensor(0.3, dtype=torch.float64),
        reward_scale=4.0,
        discount=0.9,
    )
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)
    assert not actual.requires_grad


def test_the_actors_loss_equals_the_papers_sum_and_leaves_the_entropy_weight_alone():
    q, log_prob = doubles(2, 3, 5), doubles(3, 5, seed=1)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    total = 0.0
    for n in range(3):
        for b in range(5):
            total += 0.7 * log_prob[n, b].item() - min(q[0, n, b].item(), q[1, n, b].item())
    q.requires_grad_()
    loss = rl_losses.soft_actor_loss(q, log_prob.requires_grad_(), weight)
    assert loss.item() == pytest.approx(total / 15, rel=1e-12)
    loss.backward()
    assert weight.grad is None
    assert torch.equal(q.grad != 0, q == q.amin(0))


@pytest.mark.parametrize(("log_prob", "sign"), [(5.0, -1.0), (-5.0, 1.0)])
def test_the_entropy_weight_grows_where_entropy_is_below_its_target(log_prob, sign):
    log_weight = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    given = torch.full((2, 3), log_prob, dtype=torch.float64, requires_grad=True)
    loss = conditioned_sac.entropy_weight_loss(log_weight, given, target_entropy=-2.0)
    assert loss.item() == pytest.approx(log_prob - 2.0, rel=1e-12)
    loss.backward()
    assert math.copysign(1.0, log_weight.grad) == sign  # descent goes the other way
    assert given.grad is None


def test_a_drawn_action_has_the_density_of_the_squashed_gaussian():
    mean, log_std = doubles(4, 2), doubles(4, 2, seed=1, low=-2.0, high=0.0)
    noise = doubles(4, 2, seed=2, low=-2.0, high=2.0)
    action, log_prob = squashed_draw(mean, log_std, noise)
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))
    torch.testing.assert_close(log_prob, tanh_gaussian_log_prob(action, mean, log_std))


def test_each_loss_reaches_its_own_parameters_alone():
    agent = make_agent()
    batch, condition = make_batch()
    reached = {
        "critic": list(agent.critics.parameters()),
        "actor": list(agent.policy.actor.parameters()),
        "entropy_weight": [agent.log_entropy_weight],
    }
    losses = agent.losses(batch, condition, generator(), with_actor=True)
    assert list(losses) == list(reached)
    for name, loss in losses.items():
        for owner, parameters in reached.items():
            grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            touched = [grad is not None and bool((grad != 0).any()) for grad in grads]
            assert any(touched) == (owner == name), (name, owner)
    assert not any(p.requires_grad for p in agent.target_critics.parameters())


def test_the_actor_is_stepped_only_so_often():
    agent = make_agent(config=ConditionedSacConfig(hidden=(8,), actor_every=3))
    named = [sorted(agent.update(*make_batch(i), generator(i))) for i in range(4)]
    both = ["actor", "critic", "entropy_weight"]
    assert named == [both, ["critic"], ["critic"], both]


def test_a_restored_agent_goes_on_as_if_nothing_had_happened():
    whole = train(make_agent(), 7)
    half = train(make_agent(), 4)
    again = make_agent(seed=9)
    again.load_state(half.state(), half.updates)
    train(again, 3, first=4)
    assert again.updates == whole.updates
    assert whole.state().keys() == again.state().keys()
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, again.state()[name]), name


def test_a_state_does_not_change_with_the_agent_that_gave_it():
    agent = make_agent()
    state = agent.state()
    copies = {name: tensor.clone() for name, tensor in state.items()}
    train(agent, 2)
    assert all(torch.equal(state[name], copy) for name, copy in copies.items())


def test_it_acts_by_the_task_it_is_told():
    agent = make_agent()
    observation = torch.zeros(2, LAYOUT.observation_size)
    told = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    action = agent.policy.act(observation, told, None)
    assert action.shape == (2, LAYOUT.action_size)
    assert action.abs().max() <= 1.0
    assert not torch.equal(action[0], action[1])
    assert torch.equal(action, agent.policy.act(observation, told, None))
    drawn = agent.policy.act(observation, told, generator(3))
    assert torch.equal(drawn, agent.policy.act(observation, told, generator(3)))
    assert not torch.equal(drawn, action)


def test_observations_are_normalised_within_bounds():
    agent = make_agent()
    mean, spread = np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0, 1.0])
    agent.normalise_by(mean, spread)
    seen = agent.policy.normalised(torch.tensor([[3.0, 2.0, 3.5], [1.0, 99.0, -99.0]]))
    torch.testing.assert_close(seen, torch.tensor([[1.0, 0.0, 0.5], [0.0, 10.0, -10.0]]))


def test_bfloat16_minimises_nearly_the_same_losses():
    batch, condition = make_batch(tasks=16, transitions=16)
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = ConditionedSacConfig(hidden=(32, 32), precision=precision)
        losses[precision] = make_agent(config=config).update(batch, condition, generator())
    for name, loss in losses["float32"].items():
        assert losses["bfloat16"][name].dtype == torch.float32
        assert losses["bfloat16"][name].item() == pytest.approx(loss.item(), rel=0.03, abs=0.03)


def test_ruined_weights_are_refused():
    agent = make_agent()
    agent.check_finite()
    with torch.no_grad():
        next(agent.critics.parameters())[0, 0, 0] = math.nan
    with pytest.raises(DivergedError, match="after update 0 they are not: try a lower"):
        agent.check_finite()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"discount": 1.0}, r"discount must lie in \[0, 1\), got 1.0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"polyak_rate": 0.0}, r"polyak_rate must lie in \(0, 1\], got 0.0"),
        ({"actor_every": 0}, "actor_every must be at least 1, got 0"),
        ({"hidden": ()}, r"hidden must be one or more widths of at least 1, got \(\)"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ConditionedSacConfig(**wrong)


def test_an_agent_that_is_told_nothing_is_allowed():
    layout = RowLayout(3, 2)
    agent = make_agent(condition=0)
    rows = torch.from_numpy(make_rows(np.random.default_rng(0), 2, 4))
    agent.update(layout.transitions(rows), torch.zeros(2, 0), generator())
