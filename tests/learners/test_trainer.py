import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

from causeway.learners.smac import OFFLINE, ONLINE
from causeway.learners.trainer import DivergedError, TrainerConfig
from tests.learners.factories import (
    LAYOUT,
    generator,
    make_batch,
    make_block,
    make_smac,
    make_trainer,
    parameters_of,
)

STAGES = pytest.mark.parametrize("stage", [OFFLINE, ONLINE], ids=lambda stage: stage.name)


@STAGES
def test_an_update_logs_exactly_what_it_minimised_and_steps_adam_on_its_sum(stage):
    algorithm = make_smac(learning_rate=1e-2, context_learning_rate=1e-3)
    twin, batch = copy.deepcopy(algorithm), make_batch()
    trainer = make_trainer(algorithm, seed=4)
    trainer.enter(stage)
    logged = trainer.update(batch)

    adam = torch.optim.Adam(twin.parameter_groups(), foreach=False)
    losses = twin.losses(batch, stage, generator(4))
    sum(losses.minimised.values()).backward()
    for name in stage.frozen:
        twin.modules()[name].zero_grad(set_to_none=True)
    adam.step()
    twin.after_update(stage)

    for mine, theirs in ((logged.minimised, losses.minimised), (logged.watched, losses.watched)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        assert not any(value.requires_grad for value in mine.values())
    ours, expected = parameters_of(algorithm), parameters_of(twin)
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)


def test_a_blocks_log_is_the_mean_over_its_updates():
    block = make_block(updates=3)
    trainer, twin = (make_trainer(make_smac()) for _ in range(2))
    means = trainer.run_block(block)
    logs = [twin.update(batch) for batch in block.meta_batches(LAYOUT, torch.device("cpu"))]
    for found, kind in ((means.losses, "minimised"), (means.watched, "watched")):
        assert found.keys() == getattr(logs[0], kind).keys()
        for name, value in found.items():
            expected = sum(getattr(log, kind)[name].item() for log in logs) / 3
            assert value == pytest.approx(expected, rel=1e-5)
    assert trainer.updates == 3


def test_a_block_trains_as_its_updates_one_by_one():
    block = make_block(updates=3)
    whole, single = (make_trainer(make_smac()) for _ in range(2))
    whole.run_block(block)
    for u in range(3):
        piece = dataclasses.replace(
            block, **{f.name: getattr(block, f.name)[u : u + 1] for f in dataclasses.fields(block)}
        )
        single.run_block(piece)
    ours, expected = parameters_of(whole.algorithm), parameters_of(single.algorithm)
    assert all(torch.equal(ours[key], value) for key, value in expected.items())


@STAGES
def test_nan_in_the_data_stops_the_block_with_its_stage_its_update_and_its_losses(stage):
    trainer = make_trainer(make_smac())
    trainer.run_block(make_block(updates=2))
    trainer.enter(stage)
    block = make_block(updates=3)
    block.transitions[1, 0, 0, LAYOUT.observation_size + LAYOUT.action_size] = np.nan
    with pytest.raises(DivergedError) as caught:
        trainer.run_block(block)
    message = str(caught.value)
    assert f"stage {stage.name!r} by update 5" in message
    assert "critic" in message
    assert "checkpoint" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_a_weight_that_is_not_finite_stops_the_block_even_where_no_loss_sees_it():
    trainer = make_trainer(make_smac())
    trainer.enter(ONLINE)
    with torch.no_grad():
        next(trainer.algorithm.modules()["decoder"].parameters())[0, 0] = torch.inf
    with pytest.raises(DivergedError, match="a weight is not finite"):
        trainer.run_block(make_block())


def test_a_diverged_trainer_gives_nothing_out_until_it_is_loaded_from_a_sound_state():
    trainer = make_trainer(make_smac())
    sound = trainer.state()
    with torch.no_grad():
        next(trainer.algorithm.modules()["actor"].parameters()).fill_(torch.nan)
    for call in (lambda: trainer.run_block(make_block()), trainer.state, trainer.weights):
        with pytest.raises(DivergedError, match="diverged in stage 'offline' by update 2"):
            call()
    trainer.load_state(*sound)
    assert trainer.run_block(make_block()).losses
    assert trainer.state()[1]["updates"] == 2


def assert_only_training_requires_gradients(trainer, stage):
    for name, module in trainer.algorithm.modules().items():
        for parameter in module.parameters():
            assert parameter.requires_grad == (name in stage.trains), name


@STAGES
def test_entering_a_stage_freezes_thaws_and_forgets_old_gradients(stage):
    trainer = make_trainer(make_smac())
    for before in (OFFLINE, ONLINE):
        trainer.enter(before)
        trainer.run_block(make_block())
        trainer.enter(stage)
        assert_only_training_requires_gradients(trainer, stage)
        grads = [p.grad for m in trainer.algorithm.modules().values() for p in m.parameters()]
        assert grads == [None] * len(grads)


@STAGES
def test_resuming_freezes_what_the_stage_froze(stage):
    trainer, resumed = make_trainer(make_smac()), make_trainer(make_smac())
    trainer.enter(stage)
    trainer.run_block(make_block())
    resumed.load_state(*trainer.state())
    assert_only_training_requires_gradients(resumed, stage)


@pytest.mark.parametrize(
    ("changes", "module"),
    [
        ({"critic_hidden": (9,)}, "critics"),
        ({"latent_dim": 7}, "encoder"),
        ({"decoder_hidden": (8, 8)}, "decoder"),
        ({"next_observation_in_context": True}, "encoder"),
    ],
)
def test_resuming_into_other_networks_is_refused_by_name(changes, module):
    trainer = make_trainer(make_smac())
    trainer.run_block(make_block())
    with pytest.raises(ValueError, match=rf"configured networks, got .* for 'model\.{module}\."):
        make_trainer(make_smac(**changes)).load_state(*trainer.state())


def test_resuming_into_a_refused_state_leaves_the_trainer_as_it_was():
    trainer = make_trainer(make_smac())
    before = parameters_of(trainer.algorithm)
    other = make_trainer(make_smac(seed=1, actor_hidden=(9,)))
    with pytest.raises(ValueError, match=r"model\.actor"):
        trainer.load_state(*other.state())
    after = parameters_of(trainer.algorithm)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_resuming_a_stage_that_the_algorithm_lacks_is_refused():
    trainer = make_trainer(make_smac())
    tensors, values = trainer.state()
    with pytest.raises(ValueError, match="one of offline, online, got 'later'"):
        trainer.load_state(tensors, {**values, "stage": "later"})


def test_a_state_is_a_copy_that_later_updates_leave_alone():
    trainer = make_trainer(make_smac())
    trainer.run_block(make_block())
    tensors, _ = trainer.state()
    kept = {name: value.clone() for name, value in tensors.items()}
    trainer.run_block(make_block())
    assert tensors.keys() == kept.keys()
    assert all(torch.equal(tensors[name], value) for name, value in kept.items())


def test_a_loaded_state_is_left_alone_by_later_updates():
    source, trainer = make_trainer(make_smac()), make_trainer(make_smac(seed=1))
    source.run_block(make_block())
    tensors, values = source.state()
    kept = {name: value.clone() for name, value in tensors.items()}
    trainer.load_state(tensors, values)
    trainer.run_block(make_block())
    assert all(torch.equal(tensors[name], value) for name, value in kept.items())


def test_published_weights_are_a_copy_that_later_updates_leave_alone():
    trainer = make_trainer(make_smac())
    weights = trainer.weights()
    kept = {name: value.clone() for name, value in weights.items()}
    trainer.run_block(make_block())
    assert all(torch.equal(weights[name], value) for name, value in kept.items())
    assert any(not torch.equal(weights[name], value) for name, value in trainer.weights().items())


def test_a_new_learning_rate_holds_after_resuming():
    trainer = make_trainer(make_smac())
    trainer.run_block(make_block())
    resumed = make_trainer(make_smac(learning_rate=0.5))
    resumed.load_state(*trainer.state())
    assert [group["lr"] for group in resumed.optimiser.param_groups] == [3e-4, 0.5]


def test_a_rate_with_a_half_life_halves_in_it_and_the_others_stay():
    trainer = make_trainer(make_smac(context_half_life=4, context_learning_rate=1e-3))
    for expected in (1.0, 0.5**0.25, 0.5**0.5, 0.5**0.75, 0.5):
        trainer.update(make_batch())
        context, control = (group["lr"] for group in trainer.optimiser.param_groups)
        assert context == pytest.approx(1e-3 * expected, rel=1e-12)
        assert control == 3e-4


def test_a_resumed_rate_has_decayed_as_far_as_the_uninterrupted_one():
    trainer, resumed = (make_trainer(make_smac(context_half_life=2)) for _ in range(2))
    trainer.run_block(make_block(updates=3))
    resumed.load_state(*trainer.state())
    for each in (trainer, resumed):
        each.run_block(make_block(updates=2))
    rates = [[group["lr"] for group in each.optimiser.param_groups] for each in (trainer, resumed)]
    assert rates[0] == rates[1]
    ours, expected = (parameters_of(each.algorithm) for each in (resumed, trainer))
    assert all(torch.equal(ours[name], value) for name, value in expected.items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without CUDA")
def test_cuda_where_there_is_none_is_refused_with_what_to_do():
    with pytest.raises(
        ValueError, match=r"device is 'cuda' but torch sees no CUDA.*'auto' or 'cpu'"
    ):
        make_trainer(make_smac(), config=TrainerConfig(device="cuda"))


def test_auto_takes_the_device_that_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert TrainerConfig().torch_device().type == expected
    assert TrainerConfig(device="cpu").torch_device().type == "cpu"


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match=r"TrainerConfig\.threads must be >= 1, got 0"):
        TrainerConfig(threads=0)
