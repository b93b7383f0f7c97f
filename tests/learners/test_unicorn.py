"""UNICORN: its reconstruction against a slow sum, and where gradients go."""

import pytest
import torch

from causeway.learners import unicorn
from causeway.learners.unicorn import OFFLINE, ONLINE, UnicornConfig
from tests.learners.factories import doubles, generator, gradient_map, make_batch, make_small


def test_the_reconstruction_loss_equals_the_papers_sum():
    change, true_change = doubles(2, 3, 4), doubles(2, 3, 4, seed=1)
    reward, true_reward = doubles(2, 3, seed=2), doubles(2, 3, seed=3)
    total = 0.0
    for n in range(2):
        for b in range(3):
            total += (reward[n, b].item() - true_reward[n, b].item()) ** 2
            for o in range(4):
                total += (change[n, b, o].item() - true_change[n, b, o].item()) ** 2
    actual = unicorn.reconstruction_loss(change, reward, true_change, true_reward).item()
    assert actual == pytest.approx(total / 6, rel=1e-12)


MAPS = {
    OFFLINE: {
        "critic": {"critics"},
        "actor": {"actor"},
        "reconstruction": {"encoder", "reconstructor"},
        "distance": {"encoder"},
        "reward": {"decoder"},
    },
    ONLINE: {"critic": {"critics"}, "actor": {"actor"}, "reparameterised": {"actor"}},
}


@pytest.mark.parametrize("stage", MAPS, ids=lambda stage: stage.name)
def test_each_loss_sends_gradient_to_exactly_its_modules(stage):
    assert gradient_map(make_small("unicorn"), make_batch(), stage) == MAPS[stage]


def test_the_change_of_the_observation_is_reconstructed():
    algorithm, batch = make_small("unicorn"), make_batch()
    policy, t = algorithm.policy(), batch.transitions
    change, reward = algorithm.reconstructor(t.observation, t.action, policy.embed(batch.context))
    expected = unicorn.reconstruction_loss(
        change, reward, t.next_observation - t.observation, t.reward
    )
    found = algorithm.losses(batch, OFFLINE, generator()).minimised["reconstruction"]
    torch.testing.assert_close(found, expected)


def test_a_label_is_the_decoders_reward_on_the_contexts_latent():
    policy, batch = make_small("unicorn").policy(), make_batch()
    t = batch.transitions
    label = policy.label(batch.context, t.observation, t.action, t.next_observation, generator())
    seen = torch.cat([t.observation, t.action], dim=-1)
    expected = policy.decoder(seen, policy.embed(batch.context))
    torch.testing.assert_close(label, expected)


def test_the_label_loss_is_the_mean_squared_error_of_the_labels():
    algorithm, batch = make_small("unicorn"), make_batch()
    t = batch.transitions
    label = algorithm.policy().label(
        batch.context, t.observation, t.action, t.next_observation, generator()
    )
    errors = [(a - b) ** 2 for a, b in zip(label.flatten(), t.reward.flatten(), strict=True)]
    found = algorithm.losses(batch, OFFLINE, generator()).minimised["reward"].item()
    assert found == pytest.approx(sum(errors).item() / len(errors), rel=1e-5)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"UnicornConfig\.distance_weight must be >= 0, got -1"):
        UnicornConfig(distance_weight=-1.0)
