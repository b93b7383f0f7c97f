"""The baselines of MACAW equal slow loops over tasks, and adapt as they say."""

import copy
from dataclasses import fields, replace

import pytest
import torch

from causeway.datasets.batches import ContextBatch
from causeway.learners.behaviour_cloning import (
    MetaBc,
    MetaBcConfig,
    MultiTaskAwr,
    MultiTaskAwrConfig,
)
from tests.learners import macaw_reference as reference
from tests.learners.factories import LAYOUT, generator, make_batch
from tests.learners.test_macaw import case, doubled, gradients_of

SMALL = {"hidden": (7, 6, 5)}


def make(cls, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return doubled(cls(LAYOUT.observation_size, LAYOUT.action_size, config))


def make_meta_bc(**changes):
    return make(MetaBc, MetaBcConfig(**SMALL, latent_dim=3, inner_rate=0.05, **changes))


def make_multi_task(**changes):
    return make(MultiTaskAwr, MultiTaskAwrConfig(**SMALL, discount=0.9, **changes))


def losses_of(algorithm, batch):
    (stage,) = algorithm.stages()
    return algorithm.losses(batch, stage, generator()).minimised


def imitation(policy, actor, rows):
    mean, _ = reference.policy_of(policy.policy, actor, rows.observation)
    log_prob = torch.distributions.Normal(mean, 0.2).log_prob(rows.action).sum(1)
    return -log_prob.mean()


@pytest.mark.parametrize("steps", [1, 2])
def test_meta_cloning_equals_a_loop_over_tasks(steps):
    fast, batch = make_meta_bc(inner_steps=steps), case()
    slow = copy.deepcopy(fast)
    loss = losses_of(fast, batch)["policy"]
    loss.backward()
    policy, total = slow.policy(), 0.0
    beliefs = fast.policy().adapt(batch.context)
    for task in range(3):
        actor = reference.parameters_by_transform(policy.policy)
        for part in torch.arange(9).tensor_split(steps):
            rows = reference.Rows(batch.context, task, part)
            actor = reference.step(imitation(policy, actor, rows), actor, policy.inner_rates[0])
        total = total + imitation(policy, actor, reference.Rows(batch.transitions, task)) / 3
        expected = torch.cat([reference.theta_of(p) for p in actor]).detach()
        torch.testing.assert_close(beliefs[task], expected, rtol=1e-9, atol=1e-12)
    total.backward()
    torch.testing.assert_close(loss, total, rtol=1e-10, atol=1e-12)
    theirs = gradients_of(slow)
    for name, gradient in gradients_of(fast).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.any()


def test_meta_cloning_needs_no_outcomes():
    algorithm = make_meta_bc()
    for module in algorithm.modules().values():
        module.float()
    assert losses_of(algorithm, make_batch())["policy"].isfinite()


def test_multi_task_losses_equal_a_loop_over_tasks():
    algorithm, batch = make_multi_task(), case()
    policy, losses = algorithm.policy(), losses_of(algorithm, batch)
    value = reference.parameters_by_transform(policy.value)
    actor = reference.parameters_by_transform(policy.policy)
    policy.config = policy.options
    expected = torch.zeros(2, dtype=torch.float64)
    for task in range(3):
        rows = reference.Rows(batch.transitions, task)
        values = reference.value_of(policy.value, value, rows.observation).detach()
        advantage = reference.returns_of(policy, value, rows) - values
        expected[0] += (values - rows.return_to_go).square().mean() / 3
        expected[1] += reference.regression(policy, actor, rows, advantage)[0].detach() / 3
    actual = torch.stack([losses["value"], losses["policy"]]).detach()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_multi_task_losses_reach_one_network_each_and_ignore_the_context():
    algorithm, batch = make_multi_task(), case()
    for name in ("value", "policy"):
        losses_of(algorithm, batch)[name].backward()
        reached = {
            module
            for module, network in algorithm.modules().items()
            if any(p.grad is not None and p.grad.any() for p in network.parameters())
        }
        assert reached == {name}
        for module in algorithm.modules().values():
            module.zero_grad(set_to_none=True)
    batch.context.reward[:] = 4242.0
    batch.context.outcomes.return_to_go[:] = 4242.0
    assert torch.equal(
        losses_of(algorithm, batch)["value"], losses_of(make_multi_task(), case())["value"]
    )


def test_multi_task_learns_from_batches_without_contexts():
    batch = case()
    names = [field.name for field in fields(ContextBatch) if field.name != "outcomes"]
    nothing = ContextBatch(**{name: getattr(batch.context, name)[:, :0] for name in names})
    losses = losses_of(make_multi_task(), replace(batch, context=nothing))
    assert losses == losses_of(make_multi_task(), batch)


def test_multi_task_adapts_by_fine_tuning_and_by_no_steps_not_at_all():
    context = case().context
    prior = make_multi_task().policy().prior(3)
    beliefs = [
        make_multi_task(fine_tuning_steps=steps).policy().adapt(context) for steps in (0, 1, 20)
    ]
    assert torch.equal(beliefs[0], prior)
    moved = [(belief - prior).abs().max().item() for belief in beliefs[1:]]
    assert moved[0] == pytest.approx(1e-4, rel=1e-3)  # Adam's first step is its rate
    assert moved[0] < moved[1] < 25e-4


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (MetaBcConfig, {"inner_rate": 0.0}),
        (MetaBcConfig, {"inner_steps": 0}),
        (MetaBcConfig, {"hidden": (0,)}),
        (MultiTaskAwrConfig, {"fine_tuning_steps": -1}),
        (MultiTaskAwrConfig, {"fine_tuning_rate": 0.0}),
        (MultiTaskAwrConfig, {"discount": 0.0}),
    ],
)
def test_a_meaningless_value_is_refused_by_name(config, changes):
    with pytest.raises(ValueError, match=f"{config.__name__}.{next(iter(changes))} must"):
        config(**changes)


def test_cloning_does_not_depend_on_rewards():
    batch = case()
    before = losses_of(make_meta_bc(), batch)["policy"]
    for part in (batch.context, batch.transitions):
        part.reward[:] = 4242.0
        part.outcomes.return_to_go[:] = 4242.0
    assert torch.equal(losses_of(make_meta_bc(), batch)["policy"], before)
