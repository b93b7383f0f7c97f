"""LDM: its bound against a slow sum, what its mixtures are, and what imaginary tasks may reach."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from causeway.learners import ldm
from causeway.learners.ldm import OFFLINE, ONLINE, VAE, LdmConfig
from causeway.learners.sequences import compact, dropped
from tests.learners.factories import (
    derandomised,
    doubles,
    generator,
    gradient_map,
    make_batch,
    make_small,
    tensors_of,
)

SMALL = {"gru_size": 8, "dynamics_latent_dim": 3, "imaginary_share": 0.7, "decoder_hidden": (8,)}


def make(**changes):
    return make_small("ldm", **{**SMALL, **changes})


def exponential(*shape, seed=0):
    return -doubles(*shape, seed=seed, low=0.0, high=1.0).log()


def test_the_chain_of_kls_equals_the_papers_sum():
    mean, variance = doubles(2, 4, 3), doubles(2, 4, 3, seed=1, low=0.1, high=2.0)
    actual = ldm.chain_kl(torch.stack([mean, variance], dim=2))
    for n in range(2):
        for t in range(3):
            total = 0.0
            for z in range(3):
                m0, v0 = mean[n, t, z].item(), variance[n, t, z].item()
                m1, v1 = mean[n, t + 1, z].item(), variance[n, t + 1, z].item()
                total += 0.5 * (v1 / v0 + (m1 - m0) ** 2 / v0 - 1.0 - math.log(v1 / v0))
            assert actual[n, t].item() == pytest.approx(total, rel=1e-12)


def test_the_bound_equals_the_papers_sum_over_past_and_future_rewards():
    predicted, reward, kl = doubles(2, 3, 5), doubles(2, 5, seed=1), doubles(2, 3, seed=2)
    total = 0.0
    for n in range(2):
        for t in range(3):
            for k in range(5):
                total += (predicted[n, t, k].item() - reward[n, k].item()) ** 2
            total += 0.7 * kl[n, t].item()
    actual = ldm.elbo_loss(predicted, reward, kl, kl_weight=0.7).item()
    assert actual == pytest.approx(total / 6, rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), tasks=st.integers(2, 9), scale=st.floats(1.0, 4.0))
@derandomised
def test_weights_sum_to_one_and_with_a_scale_of_one_none_is_negative(seed, tasks, scale):
    draws = exponential(5, tasks, 3, seed=seed)
    weights = ldm.mixture_weights(draws, scale=scale)
    torch.testing.assert_close(weights.sum(1), torch.ones(5, 3, dtype=torch.float64))
    assert (ldm.mixture_weights(draws, scale=1.0) >= 0).all()
    assert (weights >= -(scale - 1.0) / tasks - 1e-12).all()


def test_a_scale_above_one_leaves_what_lies_between_the_tasks():
    latents = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    draws = exponential(200, 2, 1)
    between, beyond = (
        ldm.mixed(latents, ldm.mixture_weights(draws, scale=scale)) for scale in (1.0, 2.0)
    )
    assert between.min() >= 0
    assert between.max() <= 1
    assert beyond.min() < 0
    assert beyond.max() > 1


def test_a_mixture_is_made_in_each_dimension_on_its_own():
    latents, weights = doubles(3, 2), doubles(4, 3, 2, seed=1)
    actual = ldm.mixed(latents, weights)
    for i in range(4):
        for j in range(2):
            expected = sum(weights[i, k, j].item() * latents[k, j].item() for k in range(3))
            assert actual[i, j].item() == pytest.approx(expected, rel=1e-12)


MAPS = {
    VAE: {"elbo": {"vae"}},
    OFFLINE: {"critic": {"policy_encoder", "critics"}, "actor": {"actor"}},
    ONLINE: {
        "critic": {"policy_encoder", "critics"},
        "actor": {"actor"},
        "reparameterised": {"actor"},
    },
}


@pytest.mark.parametrize("stage", MAPS, ids=lambda stage: stage.name)
def test_each_loss_sends_gradient_to_exactly_its_modules(stage):
    assert gradient_map(make(), make_batch(), stage) == MAPS[stage]


def test_where_dynamics_differ_states_are_decoded_too():
    algorithm = make(next_observation_in_context=True)
    minimised = algorithm.losses(make_batch(), VAE, generator()).minimised
    assert minimised.keys() == {"elbo", "state"}
    assert "state" not in make().losses(make_batch(), VAE, generator()).minimised


def grown(algorithm, batch):
    m = torch.randn(len(batch.task), 3, generator=generator(9))
    with torch.no_grad():
        return algorithm.with_imaginary_tasks(batch, m, generator(4))


def test_imaginary_tasks_stand_behind_the_real_ones_which_stay_as_they_are():
    batch = make_batch()
    more = grown(make(), batch)
    assert more.task.tolist() == [*batch.task.tolist(), -1, -1]  # 0.7 of three tasks
    for part in ("context", "transitions"):
        real, whole = tensors_of(getattr(batch, part)), tensors_of(getattr(more, part))
        for name, value in real.items():
            assert torch.equal(whole[name][:3], value), name


def test_an_imaginary_transition_is_a_real_one_with_the_decoders_reward():
    batch = make_batch()
    more = grown(make(), batch)
    seen = {tuple(row) for row in batch.transitions.observation.flatten(0, 1).tolist()}
    for row in more.transitions.observation[3:].flatten(0, 1).tolist():
        assert tuple(row) in seen
    contexts = [batch.context.observation[n] for n in range(3)]
    for context in more.context.observation[3:]:
        assert any(torch.equal(context, one) for one in contexts)
    rewards = set(batch.transitions.reward.flatten().tolist())
    assert not rewards & set(more.transitions.reward[3:].flatten().tolist())


def test_no_imaginary_row_reaches_the_vaes_loss(monkeypatch):
    algorithm, batch = make(), make_batch()
    before = algorithm.losses(batch, VAE, generator()).minimised["elbo"]

    def forbidden(*args):
        raise AssertionError("the VAE was trained on an imaginary task")

    monkeypatch.setattr(algorithm, "with_imaginary_tasks", forbidden)
    assert torch.equal(algorithm.losses(batch, VAE, generator()).minimised["elbo"], before)
    with pytest.raises(AssertionError, match="imaginary"):
        algorithm.losses(batch, OFFLINE, generator())
    algorithm.losses(batch, ONLINE, generator())  # there, labels are what is imaginary


@pytest.mark.parametrize("decoded", ["trajectory", "task"])
def test_what_is_decoded_is_the_context_and_where_asked_for_other_rows_of_the_task(
    decoded, monkeypatch
):
    given = []

    def spy(predicted, reward, kl, *, kl_weight):
        given.append((predicted, reward))
        return predicted.mean()

    monkeypatch.setattr(ldm, "elbo_loss", spy)
    algorithm, batch = make(decoded=decoded), make_batch()
    algorithm.losses(batch, VAE, generator())
    ((predicted, reward),) = given
    parts = [batch.context.reward, batch.transitions.reward]
    expected = torch.cat(parts if decoded == "task" else parts[:1], dim=1)
    assert torch.equal(reward, expected)
    assert predicted.shape[2] == expected.shape[1]


def label(policy, seed):
    batch = make_batch()
    t = batch.transitions
    return policy.label(batch.context, t.observation, t.action, t.next_observation, generator(seed))


def test_dropout_is_on_where_the_decoder_labels():
    policy = make(imaginary_label_share=0.0).policy()
    with torch.no_grad():  # so that latents are alike whatever is drawn
        policy.vae.head.weight.zero_()
        policy.vae.head.bias.copy_(torch.tensor([0.0] * 3 + [-40.0] * 3))
    assert (label(policy, 1) - label(policy, 2)).abs().max() > 1e-2
    policy.vae.decoder.dropout = 0.0
    assert (label(policy, 1) - label(policy, 2)).abs().max() < 1e-3


def test_dropout_keeps_the_mean_and_never_touches_the_latent():
    x = torch.ones(20_000)
    kept = dropped(x, 0.5, generator())
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert kept.mean().item() == pytest.approx(1.0, abs=0.03)
    decoder = make().vae.decoder
    with torch.no_grad():
        for layer in (decoder.state, decoder.action):
            layer.weight.zero_()
            layer.bias.zero_()
    zeros = [torch.zeros(2, 4, size) for size in (3, 2, 3)]
    z = torch.randn(2, 3, generator=generator())
    rewards = [decoder(*zeros, z, generator(seed)) for seed in (1, 2)]
    assert torch.equal(*rewards)
    assert not torch.equal(rewards[0], decoder(*zeros, -z, generator(1)))


def test_a_label_is_of_a_mixture_with_the_configured_probability():
    none, every = (make(imaginary_label_share=share).policy() for share in (0.0, 1.0))
    for policy in (none, every):
        policy.vae.decoder.dropout = 0.0
        with torch.no_grad():
            policy.vae.head.weight.zero_()
            policy.vae.head.bias.copy_(torch.tensor([0.0] * 3 + [-40.0] * 3))  # one real latent
    assert (label(none, 1) - label(none, 2)).abs().max() < 1e-3
    assert (label(every, 1) - label(every, 2)).abs().max() > 1e-2


def test_the_belief_after_padding_is_that_before_it_and_holes_are_closed():
    algorithm, batch = make(), make_batch()
    mask = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    context = dataclasses.replace(batch.context, mask=mask)
    chain = algorithm.vae.belief(context)
    short = {name: value[:1, [0, 2, 3]] for name, value in tensors_of(context).items()}
    expected = algorithm.vae.belief(dataclasses.replace(context, **short))
    torch.testing.assert_close(chain[0, -1], expected[0, -1])
    torch.testing.assert_close(chain[0, 3], chain[0, 5])
    assert torch.equal(chain[2, -1], torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert compact(context).mask[0].tolist() == [True, True, True, False, False]


def test_the_order_of_the_context_matters_to_a_sequence():
    policy, batch = make().policy(), make_batch()
    turned = {name: value.flip(1) for name, value in tensors_of(batch.context).items()}
    backwards = policy.embed(dataclasses.replace(batch.context, **turned))
    assert not torch.allclose(policy.embed(batch.context), backwards)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mixture_scale": 0.9}, "mixture_scale must be at least 1, got 0.9"),
        ({"dropout": 1.0}, r"LdmConfig.dropout must lie in \[0, 1\), got 1.0"),
        ({"imaginary_label_share": 1.5}, r"must lie in \[0, 1\], got 1.5"),
        ({"prefixes": 0}, "LdmConfig.prefixes must be > 0, got 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LdmConfig(**wrong)
