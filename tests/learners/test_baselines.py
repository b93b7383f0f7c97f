"""PEARL and FOCAL: what their losses reach, and what stands before any context."""

import dataclasses

import pytest
import torch

from causeway.datasets.policy import LabellingPolicy
from causeway.learners.context_losses import distance_loss, kl_loss
from causeway.learners.latent_policy import REMEMBERED
from tests.learners.factories import (
    generator,
    gradient_map,
    make_batch,
    make_block,
    make_small,
    make_trainer,
    parameters_of,
    tensors_of,
)

PEARL_MAP = {"critic": {"encoder", "critics"}, "actor": {"actor"}, "kl": {"encoder"}}
FOCAL_MAP = {"critic": {"critics"}, "actor": {"actor"}, "distance": {"encoder"}}


@pytest.mark.parametrize("index", [0, 1])
def test_pearls_critics_train_its_encoder_and_its_actor_does_not(index):
    algorithm = make_small("pearl")
    assert gradient_map(algorithm, make_batch(), algorithm.stages()[index]) == PEARL_MAP


def test_focals_encoder_is_trained_by_the_distance_alone():
    algorithm = make_small("focal", inner_rl="awac")
    assert gradient_map(algorithm, make_batch(), algorithm.stages()[0]) == FOCAL_MAP


@pytest.mark.parametrize("kind", ["awac", "iql", "sac", "brac"])
@pytest.mark.parametrize("name", ["pearl", "focal"])
def test_any_inner_rl_trains_all_that_belongs_to_it(name, kind):
    trainer = make_trainer(make_small(name, inner_rl=kind))
    before = parameters_of(trainer.algorithm)
    trainer.enter(trainer.algorithm.stages()[0])
    trainer.run_block(make_block(updates=2))
    after = parameters_of(trainer.algorithm)
    changed = {key[0] for key, value in before.items() if not torch.equal(after[key], value)}
    extra = {"iql": {"value"}, "brac": {"log_ratio"}}.get(kind, set())
    memory = {"memory"} if name == "focal" else set()
    assert changed == {"encoder", "critics", "target_critics", "actor"} | extra | memory


def test_pearls_kl_is_that_of_its_belief():
    algorithm, batch = make_small("pearl", kl_weight=0.3), make_batch()
    belief = algorithm.policy().belief(batch.context)
    found = algorithm.losses(batch, algorithm.stages()[0], generator()).minimised["kl"]
    torch.testing.assert_close(found, kl_loss(belief, kl_weight=0.3, over_tasks="sum"))


def test_focals_distance_is_between_halves_of_contexts_by_task_id():
    algorithm, batch = make_small("focal", distance_weight=2.0), make_batch()
    batch = dataclasses.replace(batch, task=torch.tensor([5, 8, 5]))
    policy, c = algorithm.policy(), batch.context
    halves = []
    for start in (0, 1):
        for n in range(3):
            points = policy.points(c)[n, start::2]
            halves.append(points.mean(0))
    expected = 2.0 * distance_loss(torch.stack(halves), torch.tensor([5, 8, 5] * 2))
    found = algorithm.losses(batch, algorithm.stages()[0], generator()).minimised["distance"]
    torch.testing.assert_close(found, expected)


def test_the_order_of_context_changes_no_belief():
    batch, order = make_batch(), torch.tensor([3, 0, 4, 1, 2])
    shuffled = dataclasses.replace(
        batch.context,
        **{name: value[:, order] for name, value in tensors_of(batch.context).items()},
    )
    for name in ("pearl", "focal"):
        policy = make_small(name).policy()
        beliefs = [policy.adapt(context) for context in (batch.context, shuffled)]
        torch.testing.assert_close(*beliefs, rtol=1e-4, atol=1e-5)


def test_before_any_context_a_latent_is_that_of_a_task_that_training_met():
    trainer = make_trainer(make_small("focal"))
    policy = trainer.algorithm.policy()
    seen = policy.embed(make_batch(1).context)
    trainer.update(make_batch(1))
    assert torch.equal(policy.memory.latents[:3], seen)
    for seed in range(30):
        trainer.update(make_batch(seed))
    drawn = policy.draw(policy.prior(200), generator())
    assert policy.memory.latents.shape == (REMEMBERED, 4)
    apart = (drawn[:, None] - policy.memory.latents[None]).abs().amax(-1)
    assert (apart.amin(1) == 0).all()
    assert len(drawn.unique(dim=0)) > REMEMBERED // 2


def test_a_known_latent_is_drawn_as_it_is():
    policy = make_small("focal").policy()
    belief = policy.adapt(make_batch().context)
    assert torch.equal(policy.draw(belief, generator()), belief[:, 1:])


@pytest.mark.parametrize("name", ["pearl", "focal"])
def test_without_a_reward_decoder_it_does_not_label(name):
    assert not isinstance(make_small(name).policy(), LabellingPolicy)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("pearl", {"kl_weight": -0.1}, "PearlConfig.kl_weight must be >= 0, got -0.1"),
        ("focal", {"distance_weight": 0.0}, "FocalConfig.distance_weight must be > 0, got 0.0"),
        ("focal", {"latent_dim": 0}, "FocalConfig.latent_dim must be > 0, got 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        make_small(name, **wrong)
