"""MACAW: the fast path equals the slow one, and each loss reaches exactly what it must."""

import copy
import dataclasses
import math

import pytest
import torch

from causeway.datasets.batches import MetaBatch, Outcomes
from causeway.datasets.policy import FineTuning
from causeway.learners.algorithm import Losses
from causeway.learners.macaw import OFFLINE, Macaw, MacawConfig
from causeway.learners.trainer import Trainer
from tests.learners import macaw_reference as reference
from tests.learners.factories import CPU, generator, make_batch
from tests.learners.factories import WITH_OUTCOMES as LAYOUT

SMALL = {"hidden": (7, 6, 5), "head_hidden": 4, "latent_dim": 3, "discount": 0.9}
# Rates so large that every term of a second step counts.
LARGE = {"inner_rate": 0.05, "advantage_weight": 0.3}
FORMS = [
    {},
    {"fidelity": "authors"},
    {"inner_steps": 2},
    {"inner_steps": 2, "fidelity": "authors", "max_weight": 1.5},
    {"latent_dim": None},
    {"latent_dim": None, "inner_steps": 2},
    {"value_targets": "td_lambda", "inner_steps": 2, "trace_decay": 0.7},
    {"inner_steps": 3, "target_rate": 0.4, "temperature": 0.3},
]


def make_macaw(seed=0, **changes):
    """MACAW with small networks; leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = MacawConfig(**{**SMALL, **LARGE, **changes})
        return Macaw(LAYOUT.observation_size, LAYOUT.action_size, config)


def as_it_comes(observation_size, action_size):
    with torch.random.fork_rng(devices=[]):
        return Macaw(observation_size, action_size, MacawConfig())


def doubled(algorithm):
    for module in algorithm.modules().values():
        module.double()
    return algorithm


def in_double(batch):
    """The batch in float64, some of its rows successive steps of one episode."""

    def wide(part):
        changed = {}
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if isinstance(value, Outcomes):
                value = wide(value)
            elif isinstance(value, torch.Tensor) and value.is_floating_point():
                value = value.double()
            changed[field.name] = value
        return type(part)(**changed)

    return MetaBatch(
        task=batch.task, context=wide(batch.context), transitions=wide(batch.transitions)
    )


def case(seed=0, **sizes):
    batch = in_double(make_batch(seed, layout=LAYOUT, **{"context": 9, "transitions": 8, **sizes}))
    for part in (batch.context, batch.transitions):
        steps = part.outcomes.steps_to_go
        steps[:, 1:5] = torch.tensor([4.0, 3.0, 2.0, 1.0])
        part.observation[:, 2:5] = part.next_observation[:, 1:4]
    return batch


def gradients_of(algorithm):
    return {
        f"{module}.{name}": parameter.grad.clone()
        for module, network in algorithm.modules().items()
        for name, parameter in network.named_parameters()
    }


def losses_of(algorithm, batch):
    return algorithm.losses(batch, OFFLINE, generator())


@pytest.mark.parametrize("changes", FORMS)
def test_losses_and_meta_gradients_equal_those_of_a_loop_over_tasks(changes):
    fast, batch = doubled(make_macaw(**changes)), case()
    slow = copy.deepcopy(fast)
    minimised = losses_of(fast, batch).minimised
    sum(minimised.values()).backward()
    expected = reference.backward(slow.policy(), batch)
    actual = torch.stack([minimised["value"], minimised["policy"]]).detach()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    theirs = gradients_of(slow)
    for name, gradient in gradients_of(fast).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.any(), f"{name} has no gradient: nothing was compared"


@pytest.mark.parametrize("steps", [1, 2])
def test_three_optimiser_steps_equal_those_of_a_loop_over_tasks(steps):
    fast = doubled(make_macaw(inner_steps=steps))
    slow = copy.deepcopy(fast)
    trainer = Trainer(fast, LAYOUT, CPU, seed=0)
    optimiser = torch.optim.Adam(slow.parameter_groups())
    for update in range(3):
        batch = case(update)
        trainer.update(batch)
        optimiser.zero_grad()
        reference.backward(slow.policy(), batch)
        optimiser.step()
    for name, module in fast.modules().items():
        theirs = slow.modules()[name].state_dict()
        for key, value in module.state_dict().items():
            torch.testing.assert_close(
                value, theirs[key], rtol=1e-10, atol=1e-10, msg=f"{name}.{key}"
            )


def test_the_papers_sizes_agree_too():
    changes = {"hidden": (100, 100, 100), "head_hidden": 32, "latent_dim": 100}
    fast, batch = doubled(make_macaw(**changes, inner_rate=1e-3)), case()
    slow = copy.deepcopy(fast)
    sum(losses_of(fast, batch).minimised.values()).backward()
    reference.backward(slow.policy(), batch)
    theirs = gradients_of(slow)
    for name, gradient in gradients_of(fast).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-8, atol=1e-10, msg=name)


def test_the_default_networks_have_the_papers_number_of_parameters():
    modules = as_it_comes(20, 6).modules()
    counts = {n: sum(p.numel() for p in m.parameters()) for n, m in modules.items()}
    assert counts["policy"] == 26_363 * 101 + 6 * 100
    assert counts["value"] == 22_401 * 101 + 4 * 100
    assert counts["inner_rates"] == 3 * (6 + 4) + 1


# What each loss reaches.


def test_each_loss_sends_gradient_to_exactly_its_modules():
    algorithm, batch = make_macaw(), make_batch(layout=LAYOUT)
    found = {}
    for name in ("value", "policy"):
        losses_of(algorithm, batch).minimised[name].backward()
        found[name] = {
            module if module != "inner_rates" else f"{module}.{parameter}"
            for module, network in algorithm.modules().items()
            for parameter, tensor in network.named_parameters()
            if tensor.grad is not None and tensor.grad.any()
        }
        for module in algorithm.modules().values():
            module.zero_grad(set_to_none=True)
    assert found == {
        "value": {"value", "inner_rates.value"},
        "policy": {"policy", "inner_rates.policy", "inner_rates.advantage"},
    }


def test_what_is_watched_carries_no_gradient():
    losses = losses_of(make_macaw(), make_batch(layout=LAYOUT))
    assert isinstance(losses, Losses)
    assert not any(value.requires_grad for value in losses.watched.values())


def test_a_batch_without_outcomes_is_refused_in_words():
    with pytest.raises(ValueError, match="must bring the outcomes of their episodes"):
        losses_of(make_macaw(), make_batch())


# The policy.


def adapted(algorithm, context):
    return algorithm.policy().adapt(context)


def test_adapting_takes_the_steps_of_training():
    for changes in FORMS:
        algorithm, batch = doubled(make_macaw(**changes)), case()
        belief = adapted(algorithm, batch.context)
        slow = algorithm.policy()
        for task in range(3):
            actor = reference.parameters_by_transform(slow.policy)
            value = reference.parameters_by_transform(slow.value)
            parts = torch.arange(9).tensor_split(slow.config.inner_steps)
            for part in parts:
                rows = reference.Rows(batch.context, task, part)
                aim = rows.return_to_go
                if slow.config.value_targets == "td_lambda":
                    aim = reference.returns_of(slow, value, rows)
                values = reference.value_of(slow.value, value, rows.observation)
                loss = (values - aim).square().mean()
                value = reference.step(loss, value, slow.inner_rates.value)
            for part in parts:
                rows = reference.Rows(batch.context, task, part)
                advantage = reference.returns_of(slow, value, rows) - reference.value_of(
                    slow.value, value, rows.observation
                )
                actor = reference.step(
                    policy_loss(slow, actor, rows, advantage.detach()),
                    actor,
                    slow.inner_rates.policy,
                )
            body = slow.policy.num_body_transforms
            expected = torch.cat([reference.theta_of(p) for p in (*actor[:body], *value)])
            torch.testing.assert_close(belief[task], expected.detach(), rtol=1e-9, atol=1e-12)


def policy_loss(policy, actor, rows, advantage):
    loss, hidden = reference.regression(policy, actor, rows, advantage)
    rectifies = policy.config.departures.head_rectifies_action
    told = reference.predicted_advantage(policy.policy, actor, hidden, rows.action, rectifies)
    weight = torch.nn.functional.softplus(policy.inner_rates.advantage)
    return loss + weight * (told - advantage).square().mean()


def test_a_task_adapts_by_its_own_rows_alone():
    algorithm, context = make_macaw(), make_batch(layout=LAYOUT).context
    together = adapted(algorithm, context)
    for task in range(3):
        fields = {f.name: getattr(context, f.name) for f in dataclasses.fields(context)}
        outcomes = fields.pop("outcomes")
        alone = type(context)(
            **{name: value[task : task + 1] for name, value in fields.items()},
            outcomes=Outcomes(
                **{
                    f.name: getattr(outcomes, f.name)[task : task + 1]
                    for f in dataclasses.fields(outcomes)
                }
            ),
        )
        torch.testing.assert_close(adapted(algorithm, alone)[0], together[task])


def test_adapting_works_where_gradients_are_off():
    algorithm, context = make_macaw(), make_batch(layout=LAYOUT).context
    expected = adapted(algorithm, context)
    with torch.no_grad():
        assert torch.equal(adapted(algorithm, context), expected)
    assert not torch.equal(expected, algorithm.policy().prior(3))
    assert not expected.requires_grad


def test_actions_are_the_clipped_mean_plus_noise_of_each_tasks_own_weights():
    algorithm = doubled(make_macaw())
    policy, batch = algorithm.policy(), case()
    belief = policy.adapt(batch.context)
    observation = batch.transitions.observation[:, 0]
    noise = torch.randn(3, 2, generator=generator(), dtype=torch.float64)
    noise[0] = 40.0
    certain, noisy = (
        policy.act(observation, belief, None),
        policy.act_with_noise(observation, belief, noise),
    )
    for task in range(3):
        widths = policy.policy.widths()[:4]
        theta = torch.split(belief[task][: sum(widths)], widths)
        as_offsets = [*((one,) for one in theta), (), ()]  # the head does not act
        mean, _ = reference.policy_of(policy.policy, as_offsets, observation[task : task + 1])
        torch.testing.assert_close(certain[task], mean[0])
        expected = (mean[0] + 0.2 * noise[task]).clamp(-1, 1)
        torch.testing.assert_close(noisy[task], expected)
    drawn = policy.act(observation.float(), belief.float(), generator(4))
    own = torch.randn(3, 2, generator=generator(4))
    torch.testing.assert_close(
        drawn, policy.act_with_noise(observation.float(), belief.float(), own)
    )


def test_fine_tuning_takes_adams_steps_in_each_tasks_own_weights():
    policy, batch = doubled(make_macaw()).policy(), case()
    tuning = FineTuning(value_steps=3, policy_steps=2, value_rate=1e-2, policy_rate=2e-2)
    before = policy.adapt(batch.context)
    after = policy.fine_tune(before, batch.context, tuning)
    widths = [*policy.policy.widths()[:4], *policy.value.widths()]
    for task in range(3):
        leaves = [one.clone().requires_grad_() for one in torch.split(before[task], widths)]
        actor, value = ([(one,) for one in part] for part in (leaves[:4], leaves[4:]))
        rows = reference.Rows(batch.context, task)
        optimiser = torch.optim.Adam(leaves[4:], lr=1e-2)
        for _ in range(3):
            optimiser.zero_grad()
            values = reference.value_of(policy.value, value, rows.observation)
            (values - rows.return_to_go).square().mean().backward()
            optimiser.step()
        values = reference.value_of(policy.value, value, rows.observation).detach()
        advantage = reference.returns_of(policy, value, rows) - values
        optimiser = torch.optim.Adam(leaves[:4], lr=2e-2)
        for _ in range(2):
            optimiser.zero_grad()
            loss, _ = reference.regression(policy, [*actor, (), ()], rows, advantage)
            loss.backward()
            optimiser.step()
        expected = torch.cat(leaves).detach()
        torch.testing.assert_close(after[task], expected, rtol=1e-8, atol=1e-10)


def test_fine_tuning_on_nothing_changes_nothing():
    policy, context = make_macaw().policy(), make_batch(layout=LAYOUT).context
    nothing = dataclasses.replace(context, mask=torch.zeros_like(context.mask))
    tuning = FineTuning(value_steps=3, policy_steps=2, value_rate=1e-2, policy_rate=2e-2)
    before = policy.adapt(context)
    assert torch.equal(policy.fine_tune(before, nothing, tuning), before)


# Options.


def test_fidelity_picks_the_whole_set_and_an_option_overrules_it():
    fixed, authors = (MacawConfig(fidelity=f).departures for f in ("fixed", "authors"))
    for name in ("head_rectifies_action", "bootstrap_past_true_end", "weight_floor"):
        assert getattr(fixed, name) != getattr(authors, name)
        opposite = getattr(fixed, name)
        overruled = MacawConfig(fidelity="authors", **{name: opposite}).departures
        assert overruled == dataclasses.replace(authors, **{name: opposite})
    assert (authors.advantage_epsilon, fixed.advantage_epsilon > 0) == (0.0, True)


@pytest.mark.parametrize(
    "name", ["head_rectifies_action", "bootstrap_past_true_end", "weight_floor"]
)
def test_each_departure_changes_the_losses(name):
    batch = case()
    losses = [
        losses_of(doubled(make_macaw(max_weight=1.5, **{name: on})), batch).minimised
        for on in (True, False)
    ]
    assert any(not torch.equal(losses[0][key], losses[1][key]) for key in losses[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"action_std": 0.0},
        {"temperature": 0.0},
        {"inner_rate": 0.0},
        {"policy_learning_rate": 0.0},
        {"hidden": ()},
        {"latent_dim": 0},
        {"inner_steps": 0},
        {"discount": 1.0},
        {"trace_decay": 1.1},
        {"target_rate": -0.1},
        {"max_weight": 1.0},
    ],
)
def test_a_meaningless_value_is_refused_by_name(changes):
    with pytest.raises(ValueError, match=f"MacawConfig.{next(iter(changes))} must"):
        MacawConfig(**changes)


def test_the_authors_constants_are_the_defaults():
    rates = as_it_comes(3, 2).policy().inner_rates
    softplus = torch.nn.functional.softplus
    assert softplus(rates.advantage).item() == pytest.approx(0.00995, rel=1e-5)
    assert rates.advantage.item() == pytest.approx(math.log(0.01), abs=1e-3)
    for tensor in (rates.policy, rates.value):
        torch.testing.assert_close(softplus(tensor), torch.full_like(tensor, 1e-3))
