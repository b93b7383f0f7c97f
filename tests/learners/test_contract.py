"""What every registered algorithm must keep, whatever its method: a new one is covered unasked."""

import dataclasses
import functools
import json

import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from causeway.datasets.policy import AdaptivePolicy, LabellingPolicy
from causeway.learners.algorithm import Algorithm
from causeway.learners.registry import algorithms, load_algorithm
from causeway.learners.trainer import TrainerConfig
from tests.learners import factories
from tests.learners.factories import WITH_OUTCOMES as LAYOUT
from tests.learners.factories import generator, make_algorithm, parameters_of

make_batch = functools.partial(factories.make_batch, layout=LAYOUT)
make_block = functools.partial(factories.make_block, layout=LAYOUT)
make_trainer = functools.partial(factories.make_trainer, layout=LAYOUT)
NAMES = sorted(algorithms())
WITH_STAGE = [(name, stage) for name in NAMES for stage in make_algorithm(name).stages()]
each_algorithm = pytest.mark.parametrize("name", NAMES)
each_stage = pytest.mark.parametrize(
    ("name", "stage"), WITH_STAGE, ids=[f"{name}-{stage.name}" for name, stage in WITH_STAGE]
)


def trained(name, *, seed=0, blocks=1):
    """A trainer after one block of each stage, in order."""
    trainer = make_trainer(make_algorithm(name, seed), seed=seed)
    for index, stage in enumerate(trainer.algorithm.stages()[:blocks]):
        trainer.enter(stage)
        trainer.run_block(make_block(index))
    return trainer


def all_state(trainer):
    return trainer.state()[0]


def assert_equal_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    unequal = [name for name, value in expected.items() if not torch.equal(actual[name], value)]
    assert unequal == []


@each_algorithm
def test_it_is_an_algorithm_with_stages_that_have_names_of_their_own(name):
    algorithm = make_algorithm(name)
    assert isinstance(algorithm, Algorithm)
    names = [stage.name for stage in algorithm.stages()]
    assert names == [stage.name for stage in algorithm.STAGES]
    assert names
    assert len(set(names)) == len(names)


@each_algorithm
def test_its_config_survives_the_way_through_plain_values(name):
    config_class = load_algorithm(name).Config
    config = config_class()
    assert config_class(**dataclasses.asdict(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)


@each_stage
def test_every_module_of_a_stage_exists_and_either_trains_or_is_frozen(name, stage):
    known = make_algorithm(name).modules().keys()
    assert stage.trains
    assert {*stage.trains, *stage.frozen} <= known
    assert not {*stage.trains} & {*stage.frozen}


@each_algorithm
def test_the_optimiser_holds_each_parameter_that_some_stage_trains_once(name):
    algorithm = make_algorithm(name)
    trains = {module for stage in algorithm.stages() for module in stage.trains}
    expected = [id(p) for module in trains for p in algorithm.modules()[module].parameters()]
    groups = algorithm.parameter_groups()
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(expected)
    assert all(group["lr"] > 0 for group in groups)


@each_stage
def test_losses_are_finite_scalars_under_names_of_their_own(name, stage):
    losses = make_algorithm(name).losses(make_batch(), stage, generator())
    assert losses.minimised
    assert not losses.minimised.keys() & losses.watched.keys()
    for value in (*losses.minimised.values(), *losses.watched.values()):
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert value.isfinite()
    assert all(value.requires_grad for value in losses.minimised.values())
    assert not any(value.requires_grad for value in losses.watched.values())


@each_stage
def test_losses_depend_on_their_generator_alone(name, stage):
    algorithm, batch = make_algorithm(name), make_batch()
    generators = [generator(seed) for seed in (1, 1, 2)]
    first, again, other = (
        algorithm.losses(batch, stage, one).detached().minimised for one in generators
    )
    assert_equal_tensors(again, first)
    draws = not torch.equal(generators[0].get_state(), generator(1).get_state())
    assert draws == any(not torch.equal(other[key], value) for key, value in first.items())


@each_stage
def test_losses_change_no_parameter(name, stage):
    algorithm = make_algorithm(name)
    before = parameters_of(algorithm)
    algorithm.losses(make_batch(), stage, generator())
    assert_equal_tensors(parameters_of(algorithm), before)


@each_stage
def test_a_stage_changes_what_it_trains_and_leaves_what_it_freezes_bit_equal(name, stage):
    trainer = trained(name, blocks=len(load_algorithm(name).STAGES))  # so that Adam has momentum
    trainer.enter(stage)
    before = parameters_of(trainer.algorithm)
    trainer.run_block(make_block(9, updates=3))
    after = parameters_of(trainer.algorithm)
    changed = {module for module, _ in before}
    changed -= {
        m for m in changed if all(torch.equal(after[k], before[k]) for k in before if k[0] == m)
    }
    assert {*stage.trains} <= changed
    assert not {*stage.frozen} & changed
    for module, network in trainer.algorithm.modules().items():
        if module not in stage.trains:
            assert all(p.grad is None for p in network.parameters())


@each_stage
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(name, stage):
    def whole_or_resumed(cut):
        trainer = make_trainer(make_algorithm(name))
        trainer.run_block(make_block(0))
        trainer.enter(stage)
        trainer.run_block(make_block(1))
        if cut:
            tensors, values = trainer.state()
            trainer = make_trainer(make_algorithm(name, seed=7), seed=7)
            trainer.load_state(from_bytes(to_bytes(tensors)), json.loads(json.dumps(values)))
        means = trainer.run_block(make_block(2))
        return trainer, means

    (whole, whole_means), (resumed, resumed_means) = whole_or_resumed(False), whole_or_resumed(True)
    assert_equal_tensors(all_state(resumed), all_state(whole))
    assert resumed_means == whole_means
    assert (resumed.updates, resumed.stage) == (whole.updates, whole.stage) == (6, stage)


@each_algorithm
def test_a_state_from_before_any_update_resumes_too(name):
    fresh, late = make_trainer(make_algorithm(name)), trained(name, seed=3)
    late.load_state(*fresh.state())
    for trainer in (fresh, late):
        trainer.run_block(make_block())
    assert_equal_tensors(all_state(late), all_state(fresh))


@each_algorithm
def test_the_same_seed_gives_bit_equal_parameters_and_another_does_not(name):
    blocks = len(load_algorithm(name).STAGES)
    first, again, other = (trained(name, seed=seed, blocks=blocks) for seed in (1, 1, 2))
    assert_equal_tensors(all_state(again), all_state(first))
    assert any(not torch.equal(all_state(other)[k], v) for k, v in all_state(first).items())


@each_stage
def test_bfloat16_gives_losses_near_float32_and_keeps_the_parameters_in_float32(name, stage):
    logs = {}
    for precision in ("float32", "bfloat16"):
        config = TrainerConfig(device="cpu", precision=precision)
        trainer = make_trainer(make_algorithm(name), config=config)
        trainer.enter(stage)
        logs[precision] = trainer.update(make_batch()).minimised
        assert all(v.dtype == torch.float32 for v in parameters_of(trainer.algorithm).values())
        for module in stage.trains:
            for parameter in trainer.algorithm.modules()[module].parameters():
                assert parameter.grad is not None
                assert parameter.grad.any()
    assert logs["bfloat16"].keys() == logs["float32"].keys()
    assert any(not torch.equal(logs["bfloat16"][k], v) for k, v in logs["float32"].items())
    for key, value in logs["float32"].items():
        torch.testing.assert_close(logs["bfloat16"][key], value, rtol=3e-2, atol=3e-3)


# The policy that it gives to actors.


@each_algorithm
def test_its_policy_adapts_draws_and_acts_in_the_promised_shapes(name):
    policy, batch = make_algorithm(name).policy(), make_batch(tasks=3, transitions=6)
    t = batch.transitions
    assert isinstance(policy, AdaptivePolicy)
    for belief in (policy.prior(3), policy.adapt(batch.context)):
        latent = policy.draw(belief, generator())
        assert len(belief) == len(latent) == 3
        for source in (None, generator()):
            action = policy.act(t.observation[:, 0], latent, source)
            assert action.shape == (3, LAYOUT.action_size)
            assert action.abs().max() <= 1
            assert not action.requires_grad
        assert not any(x.requires_grad for x in (belief, latent))


@each_algorithm
def test_a_policy_of_a_stage_that_collects_labels_and_every_label_is_a_number(name):
    algorithm, batch = make_algorithm(name), make_batch(tasks=3, transitions=6)
    policy, t = algorithm.policy(), batch.transitions
    if not isinstance(policy, LabellingPolicy):
        assert all(s.labels == "environment" for s in algorithm.stages() if s.collects)
        return
    label = policy.label(batch.context, t.observation, t.action, t.next_observation, generator())
    assert label.shape == (3, 6)
    assert label.isfinite().all()
    assert not label.requires_grad


@each_algorithm
def test_without_a_generator_actions_are_deterministic_and_with_one_they_are_its_own(name):
    policy, observation = make_algorithm(name).policy(), make_batch().transitions.observation[:, 0]
    latent = policy.draw(policy.prior(3), generator())
    certain = [policy.act(observation, latent, None) for _ in range(2)]
    drawn = [policy.act(observation, latent, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(*certain)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], certain[0])


@each_algorithm
def test_a_context_without_transitions_gives_the_prior(name):
    policy, context = make_algorithm(name).policy(), make_batch().context
    empty = dataclasses.replace(context, mask=torch.zeros_like(context.mask))
    torch.testing.assert_close(policy.adapt(empty), policy.prior(3))


@each_algorithm
def test_junk_in_the_padding_does_not_reach_the_belief(name):
    policy, context = make_algorithm(name).policy(), make_batch().context
    mask = context.mask.clone()
    mask[:, 3:] = False
    beliefs = []
    for junk in (0.0, 4242.0):
        filled = {}
        for field in ("observation", "action", "reward", "next_observation"):
            filled[field] = getattr(context, field).clone()
            filled[field][:, 3:] = junk
        beliefs.append(policy.adapt(dataclasses.replace(context, **filled, mask=mask)))
    assert torch.equal(*beliefs)


@each_algorithm
def test_its_policy_shares_the_trained_tensors_and_its_weights_move_to_another(name):
    trainer = make_trainer(make_algorithm(name))
    policy = trainer.algorithm.policy()  # taken before training
    trainer.run_block(make_block())
    assert_equal_tensors(policy.state_dict(), trainer.weights())
    elsewhere = make_algorithm(name, seed=5).policy()
    elsewhere.load_state_dict(trainer.weights())
    batch = make_batch()
    belief = policy.adapt(batch.context)
    assert torch.equal(elsewhere.adapt(batch.context), belief)
    latent = policy.draw(belief, generator())
    observation = batch.transitions.observation[:, 0]
    ours, theirs = (p.act(observation, latent, None) for p in (policy, elsewhere))
    assert torch.equal(ours, theirs)
