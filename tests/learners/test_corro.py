"""CORRO: its losses against slow sums, where gradients go, and what its negatives share."""

import math

import pytest
import torch

from causeway.learners import corro
from causeway.learners.context_losses import info_nce
from causeway.learners.corro import CVAE, ENCODER, OFFLINE, ONLINE, CorroConfig
from tests.learners.factories import (
    doubles,
    generator,
    gradient_map,
    make_batch,
    make_small,
    make_trainer,
    parameters_of,
)

GENERATIVE = {"negatives": "generative"}


def make(**changes):
    return make_small("corro", **{"num_negatives": 5, "anchors_per_task": 2, **changes})


def test_the_cvae_loss_equals_the_papers_sum():
    predicted, target = doubles(4, 3), doubles(4, 3, seed=1)
    mean, log_variance = doubles(4, 2, seed=2), doubles(4, 2, seed=3)
    following = reward = kl = 0.0
    for m in range(4):
        for p in range(3):
            error = (predicted[m, p].item() - target[m, p].item()) ** 2
            if p < 2:
                following += error / 8
            else:
                reward += error / 4
        for c in range(2):
            v = log_variance[m, c].item()
            kl += 0.5 * (math.exp(v) + mean[m, c].item() ** 2 - 1.0 - v) / 4
    actual = corro.cvae_loss(predicted, target, mean, log_variance, kl_weight=0.2).item()
    assert actual == pytest.approx(following + reward + 0.2 * kl, rel=1e-12)


def test_randomised_rewards_are_the_anchors_own_and_scaled_noise():
    reward, noise = doubles(4), doubles(4, 3, seed=1)
    mean = sum(reward.tolist()) / 4
    std = math.sqrt(sum((r - mean) ** 2 for r in reward.tolist()) / 4)
    actual = corro.randomised_rewards(reward, noise, scale=0.5)
    for m in range(4):
        for n in range(3):
            expected = reward[m].item() + 0.5 * std * noise[m, n].item()
            assert actual[m, n].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("negatives", ["generative", "reward_randomize"])
def test_negatives_share_the_anchors_state_and_action_and_nothing_else_need_be(negatives):
    algorithm, batch = make(negatives=negatives), make_batch()
    c = batch.context
    anchor = torch.cat([c.observation, c.action, c.reward[..., None], c.next_observation], -1)
    anchor = anchor[:, :2].flatten(0, 1)
    with torch.no_grad():
        negative, _ = algorithm._negatives(anchor, batch, generator())
    assert negative.shape == (6, 5, 9)
    given, reward, following = negative[..., :5], negative[..., 5], negative[..., 6:]
    assert torch.equal(given, anchor[:, None, :5].expand(-1, 5, -1))
    assert (reward != anchor[:, None, 5]).all()
    assert (following == anchor[:, None, 6:]).all() == (negatives == "reward_randomize")


def test_the_contrastive_loss_is_infonce_of_two_transitions_of_a_context():
    algorithm, batch = make(), make_batch()
    c, encode = batch.context, algorithm.policy().encoder
    seen = torch.cat([c.observation, c.action, c.reward[..., None], c.next_observation], -1)
    anchor, positive = seen[:, :2].flatten(0, 1), seen[:, 2:4].flatten(0, 1)
    negative, _ = algorithm._negatives(anchor, batch, generator())
    expected = info_nce(encode(anchor), encode(positive), encode(negative), temperature=0.1)
    found = algorithm.losses(batch, ENCODER, generator()).minimised["contrast"]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("changes", "generates"),
    [
        ({}, False),
        ({"next_observation_in_context": True}, True),
        ({"negatives": "generative"}, True),
        ({"negatives": "reward_randomize", "next_observation_in_context": True}, False),
    ],
)
def test_the_kind_of_negatives_follows_from_what_differs_between_tasks(changes, generates):
    assert CorroConfig(**changes).generates == generates


def test_a_direction_has_unit_length_and_attention_sums_to_one():
    algorithm, batch = make(), make_batch()
    policy = algorithm.policy()
    points = policy.points(batch.context).detach()
    torch.testing.assert_close(points.norm(dim=-1), torch.ones(3, 5))
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    z = policy.aggregator(points, mask)
    weight = policy.aggregator.score.weight.detach()[0]
    for n in range(3):
        score = {k: math.exp(weight @ points[n, k]) for k in range(5) if mask[n, k]}
        total = sum(score.values())
        expected = sum((score[k] / total * points[n, k] for k in score), torch.zeros(4))
        torch.testing.assert_close(z[n], expected)


STAGE_MAPS = {
    CVAE: {"cvae": {"cvae"}},
    ENCODER: {"contrast": {"encoder"}},
    OFFLINE: {
        "critic": {"aggregator", "critics"},
        "actor": {"actor"},
        "reward": {"decoder"},
    },
    ONLINE: {"critic": {"critics"}, "actor": {"actor"}, "reparameterised": {"actor"}},
}


@pytest.mark.parametrize("stage", STAGE_MAPS, ids=lambda stage: stage.name)
@pytest.mark.parametrize("changes", [{}, GENERATIVE])
def test_each_loss_sends_gradient_to_exactly_its_modules(stage, changes):
    assert gradient_map(make(**changes), make_batch(), stage) == STAGE_MAPS[stage]


def test_a_generator_that_uses_its_latent_spreads_and_one_that_does_not_is_seen():
    algorithm, batch = make(negatives="generative"), make_batch()
    used = algorithm.losses(batch, CVAE, generator()).watched["negative_spread"]
    with torch.no_grad():
        algorithm.cvae.decoder[0].weight[:, -algorithm.config.cvae_latent_dim :] = 0.0
    ignored = algorithm.losses(batch, CVAE, generator()).watched["negative_spread"]
    assert used > 0.05
    assert ignored < 1e-6


def test_latents_are_remembered_where_attention_trains_and_kept_online():
    trainer = make_trainer(make())
    trainer.enter(ONLINE)
    before = parameters_of(trainer.algorithm)["memory", "latents"]
    trainer.update(make_batch())
    assert torch.equal(parameters_of(trainer.algorithm)["memory", "latents"], before)
    trainer.enter(OFFLINE)
    trainer.update(make_batch())
    assert not torch.equal(parameters_of(trainer.algorithm)["memory", "latents"], before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_negatives": 0}, "CorroConfig.num_negatives must be > 0, got 0"),
        ({"contrast_temperature": 0.0}, "contrast_temperature must be > 0, got 0.0"),
        ({"cvae_kl_weight": -1.0}, "cvae_kl_weight must be >= 0, got -1.0"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        CorroConfig(**wrong)
