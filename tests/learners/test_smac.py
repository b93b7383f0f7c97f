"""How SMAC composes its losses: against a slow numpy version, and where gradients go."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from causeway.datasets.policy import ActsOnNoise
from causeway.learners.networks import Critics
from causeway.learners.smac import OFFLINE, ONLINE, SmacConfig
from tests.learners.factories import (
    derandomised,
    generator,
    gradient_map,
    make_batch,
    make_smac,
    modules_with_gradient,
    tensors_of,
)

ANY_FORM = [
    {},
    {"weighting": "task_softmax", "next_latent": "fresh"},
    {"weighting": "exponential", "max_weight": 1.0},  # some weights on either side
    {"reward_error": "context_sum", "kl_over_tasks": "sum"},
    {"next_observation_in_context": True, "discount": 0.5},
    {"next_observation_in_context": True, "reward_error": "context_sum", "next_latent": "fresh"},
]


def make_case(**changes):
    """SMAC whose targets differ from its critics and whose advantages matter; a padded context.

    Its weights are larger than fresh ones, whose outputs hardly depend on their inputs.
    """
    algorithm = make_smac(**{"temperature": 2.0, **changes})
    with torch.no_grad():
        for module in algorithm.modules().values():
            for parameter in module.parameters():
                parameter *= 2.0
        for parameter in algorithm.rl.target_critics.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator(1))
    batch = make_batch(tasks=3, transitions=6, context=5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    return algorithm, with_context(batch, mask=mask)


def with_context(batch, **changes):
    return dataclasses.replace(batch, context=dataclasses.replace(batch.context, **changes))


def with_transitions(batch, **changes):
    return dataclasses.replace(batch, transitions=dataclasses.replace(batch.transitions, **changes))


class Reference:
    """SMAC in numpy and float64, one transition at a time: slow, and obviously right."""

    def __init__(self, algorithm):
        self.config = algorithm.config
        self.encoder = plain_layers(algorithm.encoder)
        self.decoder = plain_layers(algorithm.decoder)
        self.actor = plain_layers(algorithm.rl.actor)
        self.critics = [ensemble_layers(algorithm.rl.critics, k) for k in range(2)]
        self.targets = [ensemble_layers(algorithm.rl.target_critics, k) for k in range(2)]

    def following(self, next_observation):
        return next_observation if self.config.next_observation_in_context else []

    def belief(self, context, n):
        z = self.config.latent_dim
        precision, weighted = np.zeros(z), np.zeros(z)
        for k in np.flatnonzero(context.mask[n]):
            x = np.concatenate([context.observation[n, k], context.action[n, k]])
            x = np.concatenate([x, [context.reward[n, k]]])
            x = np.concatenate([x, self.following(context.next_observation[n, k])])
            out = forward(self.encoder, x)
            variance = np.maximum(np.log1p(np.exp(out[z:])), 1e-7)
            precision += 1 / variance
            weighted += out[:z] / variance
        if not context.mask[n].any():
            return np.zeros(z), np.ones(z)
        return weighted / precision, 1 / precision

    def reward(self, s, a, following, z):
        return forward(self.decoder, np.concatenate([s, a, self.following(following), z]))[0]

    def act(self, s, z):
        mean, log_std = np.split(forward(self.actor, np.concatenate([s, z])), 2)
        return mean, np.clip(log_std, -20, 2)

    def q(self, critics, s, a, z):
        return [forward(layers, np.concatenate([s, a, z]))[0] for layers in critics]

    def losses(self, batch, stage, seed):
        c, t, context = self.config, as_numpy(batch.transitions), as_numpy(batch.context)
        tasks, size, actions = t.action.shape
        draw = generator(seed)

        def noise(*shape):
            return torch.randn(shape, generator=draw).double().numpy()

        z_noise = noise(tasks, c.latent_dim)
        fresh_noise = noise(tasks, c.latent_dim) if c.next_latent == "fresh" else z_noise
        next_noise, own_noise = noise(tasks, size, actions), noise(tasks, size, actions)
        critic = reward = kl = own_value = 0.0
        advantage, log_prob = np.empty((tasks, size)), np.empty((tasks, size))
        for n in range(tasks):
            mean, variance = self.belief(context, n)
            z, next_z = (mean + np.sqrt(variance) * e[n] for e in (z_noise, fresh_noise))
            kl += 0.5 * sum(variance + mean**2 - 1 - np.log(variance))
            for b in range(size):
                s, a, r, following = (
                    x[n, b] for x in (t.observation, t.action, t.reward, t.next_observation)
                )
                next_mean, next_log_std = self.act(following, next_z)
                next_action = np.tanh(next_mean + np.exp(next_log_std) * next_noise[n, b])
                y = c.reward_scale * r
                if not t.terminated[n, b]:
                    y += c.discount * min(self.q(self.targets, following, next_action, next_z))
                q = self.q(self.critics, s, a, z)
                critic += sum((value - y) ** 2 for value in q) / (tasks * size)
                own_mean, own_log_std = self.act(s, z)
                own_action = np.tanh(own_mean + np.exp(own_log_std) * own_noise[n, b])
                own_q = min(self.q(self.critics, s, own_action, z))
                own_value += own_q / (tasks * size)
                advantage[n, b] = min(q) - own_q
                log_prob[n, b] = log_density(a, own_mean, own_log_std)
                if c.reward_error == "rl_batch":
                    reward += (self.reward(s, a, following, z) - r) ** 2 / (tasks * size)
            if c.reward_error == "context_sum":
                for k in np.flatnonzero(context.mask[n]):
                    s, a = context.observation[n, k], context.action[n, k]
                    predicted = self.reward(s, a, context.next_observation[n, k], z)
                    reward += (predicted - context.reward[n, k]) ** 2 / tasks
        weight = np.exp(advantage / c.temperature)
        if c.weighting == "exponential":
            assert (weight > c.max_weight).any()
            assert (weight < c.max_weight).any()
            weight = np.minimum(weight, c.max_weight)
        elif c.weighting == "batch_softmax":
            weight *= tasks * size / weight.sum()
        else:
            weight *= size / weight.sum(1, keepdims=True)
        rl = {"critic": critic, "actor": -(weight * log_prob).mean()}
        if stage.collects:
            return rl | {"reparameterised": -c.reparameterised_weight * own_value}
        kl *= c.kl_weight / (tasks if c.kl_over_tasks == "mean" else 1)
        return rl | {"reward": reward, "kl": kl}


def as_numpy(batch):
    values = tensors_of(batch)
    return SimpleNamespace(
        **{n: (v if v.dtype == torch.bool else v.double()).numpy() for n, v in values.items()}
    )


def plain_layers(module):
    linear = [layer for layer in module.body if isinstance(layer, torch.nn.Linear)]
    return [(x.weight.detach().double().numpy(), x.bias.detach().double().numpy()) for x in linear]


def ensemble_layers(critics, member):
    body = critics.body
    return [
        (w[member].detach().double().numpy().T, b[member, 0].detach().double().numpy())
        for w, b in zip(body.weights, body.biases, strict=True)
    ]


def forward(layers, x):
    for index, (weight, bias) in enumerate(layers):
        x = weight @ x + bias
        if index < len(layers) - 1:
            x = np.maximum(x, 0)
    return x


def log_density(action, mean, log_std):
    total = 0.0
    for a, m, s in zip(action, mean, log_std, strict=True):
        raw = math.atanh(min(max(a, -0.999999), 0.999999))
        total += -0.5 * ((raw - m) / math.exp(s)) ** 2 - s - 0.5 * math.log(2 * math.pi)
        total -= math.log(1 - math.tanh(raw) ** 2)
    return total


# Golden: the whole of an update's losses.


@pytest.mark.parametrize("stage", [OFFLINE, ONLINE], ids=lambda stage: stage.name)
@pytest.mark.parametrize("changes", ANY_FORM)
def test_the_losses_equal_a_slow_loop_over_transitions(stage, changes):
    algorithm, batch = make_case(reparameterised_weight=0.7, **changes)
    losses = algorithm.losses(batch, stage, generator(3))
    expected = Reference(algorithm).losses(batch, stage, seed=3)
    actual = {name: value.item() for name, value in losses.minimised.items()}
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, rel=2e-5), name


def test_labels_equal_a_slow_loop_with_one_latent_per_trajectory():
    algorithm, batch = make_case(next_observation_in_context=True)
    t = batch.transitions
    labels = algorithm.policy().label(
        batch.context, t.observation, t.action, t.next_observation, generator(3)
    )
    reference, context, t = Reference(algorithm), as_numpy(batch.context), as_numpy(t)
    noise = torch.randn(3, 4, generator=generator(3)).numpy()
    for n in range(3):
        mean, variance = reference.belief(context, n)
        z = mean + np.sqrt(variance) * noise[n]
        for b in range(6):
            expected = reference.reward(
                t.observation[n, b], t.action[n, b], t.next_observation[n, b], z
            )
            assert labels[n, b].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_actions_equal_the_tanh_of_the_mean_or_of_a_draw():
    algorithm, batch = make_case()
    s, z = batch.transitions.observation[:, 0], torch.randn(3, 4, generator=generator())
    policy, reference = algorithm.policy(), Reference(algorithm)
    noise = torch.randn(3, 2, generator=generator(5)).numpy()
    certain, drawn = policy.act(s, z, None), policy.act(s, z, generator(5))
    for n in range(3):
        mean, log_std = reference.act(s[n].double().numpy(), z[n].double().numpy())
        np.testing.assert_allclose(certain[n], np.tanh(mean), rtol=1e-4)
        np.testing.assert_allclose(drawn[n], np.tanh(mean + np.exp(log_std) * noise[n]), rtol=1e-4)


def test_actions_on_noise_are_those_of_a_policy_that_draws_it():
    algorithm, batch = make_case()
    s, z = batch.transitions.observation[:, 0], torch.randn(3, 4, generator=generator())
    policy = algorithm.policy()
    assert isinstance(policy, ActsOnNoise)
    drawn = policy.act(s, z, generator(5))
    assert torch.equal(
        drawn, policy.act_with_noise(s, z, torch.randn(3, 2, generator=generator(5)))
    )


@pytest.mark.parametrize(("bias", "expected"), [(-99.0, -20.0), (99.0, 2.0), (0.5, 0.5)])
def test_the_log_std_is_clamped(bias, expected):
    actor = make_smac().rl.actor
    with torch.no_grad():
        actor.body[-1].weight.zero_()
        actor.body[-1].bias[2:] = bias
    _, log_std = actor(torch.zeros(1, 4, 3), torch.zeros(1, 4))
    assert torch.equal(log_std, torch.full((1, 4, 2), expected))


# Gradient maps: each loss alone reaches exactly these modules.

OFFLINE_MAP = {
    "critic": {"critics"},
    "actor": {"actor"},
    "reward": {"encoder", "decoder"},
    "kl": {"encoder"},
}
ONLINE_MAP = {"critic": {"critics"}, "actor": {"actor"}, "reparameterised": {"actor"}}


@pytest.mark.parametrize("changes", ANY_FORM)
def test_each_offline_loss_sends_gradient_to_exactly_its_modules(changes):
    assert gradient_map(*make_case(**changes), OFFLINE) == OFFLINE_MAP


@pytest.mark.parametrize("changes", ANY_FORM)
def test_each_online_loss_sends_gradient_to_exactly_its_modules(changes):
    assert gradient_map(*make_case(**changes), ONLINE) == ONLINE_MAP


def test_an_encoder_that_learns_online_does_so_through_the_frozen_decoder():
    algorithm, batch = make_case(online_encoder="trained")
    offline, online = algorithm.stages()
    assert (offline, online.frozen) == (OFFLINE, ("decoder",))
    for name, module in algorithm.modules().items():
        module.requires_grad_(name in online.trains)  # as a trainer does on entering the stage
    losses = algorithm.losses(batch, online, generator()).minimised
    assert losses.keys() == {*ONLINE_MAP, "reward", "kl"}
    (losses["reward"] + losses["kl"]).backward()
    assert modules_with_gradient(algorithm) == {"encoder"}


@pytest.mark.parametrize(("stage", "expected"), [(OFFLINE, OFFLINE_MAP), (ONLINE, ONLINE_MAP)])
def test_autocast_sends_gradient_to_the_same_modules(stage, expected):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gradient_map(*make_case(), stage) == expected


def graphs_built(algorithm, batch, stage):
    """The networks that some forward pass of an update recorded for a backward pass."""
    built = set()
    for name, module in algorithm.modules().items():
        module.requires_grad_(True)

        def note(_module, _inputs, output, name=name):
            first = output[0] if isinstance(output, tuple) else output
            if first.requires_grad:
                built.add(name)

        module.register_forward_hook(note)
    algorithm.losses(batch, stage, generator())
    return built


def test_no_graph_is_built_for_what_does_not_train():
    assert graphs_built(*make_case(), OFFLINE) == {"encoder", "decoder", "critics", "actor"}
    assert graphs_built(*make_case(), ONLINE) == {"critics", "actor"}


def test_nothing_is_recorded_where_gradients_are_off():
    with torch.no_grad():
        assert graphs_built(*make_case(), OFFLINE) == set()


@pytest.mark.parametrize("stage", [OFFLINE, ONLINE], ids=lambda stage: stage.name)
def test_what_is_only_watched_carries_no_gradient(stage):
    losses = make_smac().losses(make_batch(), stage, generator())
    assert not any(value.requires_grad for value in losses.watched.values())
    assert all(value.isfinite() for value in losses.watched.values())


def test_without_its_weight_there_is_no_reparameterised_loss():
    algorithm = make_smac(reparameterised_weight=0.0)
    assert algorithm.losses(make_batch(), ONLINE, generator()).minimised.keys() == {
        "critic",
        "actor",
    }


# What an input may change, and what not.


def changed_losses(first, second, stage=OFFLINE, **changes):
    """The names of the losses that differ between two batches."""
    algorithm = make_smac(**changes)
    before, after = (algorithm.losses(b, stage, generator()).minimised for b in (first, second))
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("stage", [OFFLINE, ONLINE], ids=lambda stage: stage.name)
def test_a_time_limit_keeps_the_bootstrap_and_a_true_end_drops_it(stage):
    batch = make_batch()
    t = batch.transitions
    limits = with_transitions(batch, truncated=~t.truncated)
    assert changed_losses(batch, limits, stage) == set()
    ends = with_transitions(batch, terminated=~t.terminated)
    assert changed_losses(batch, ends, stage) == {"critic"}


def test_the_decoder_sees_unscaled_rewards():
    small, large = (make_smac(reward_scale=c) for c in (1.0, 50.0))
    before, after = (a.losses(make_batch(), OFFLINE, generator()).minimised for a in (small, large))
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"critic"}


def test_online_labels_reach_the_critics_alone():
    batch = make_batch()
    relabelled = with_transitions(batch, reward=batch.transitions.reward + 1.0)
    assert changed_losses(batch, relabelled, ONLINE) == {"critic"}


@pytest.mark.parametrize("seen", [False, True])
def test_next_observations_reach_context_and_decoder_only_where_asked(seen):
    batch = make_batch()
    changed = with_context(batch, next_observation=batch.context.next_observation + 1.0)
    found = changed_losses(batch, changed, next_observation_in_context=seen)
    assert found == ({"critic", "actor", "reward", "kl"} if seen else set())


@pytest.mark.parametrize("reward_error", ["rl_batch", "context_sum"])
def test_junk_in_the_padding_changes_no_loss(reward_error):
    algorithm, batch = make_case(reward_error=reward_error)
    mask = batch.context.mask
    junk = {
        f: torch.where(mask if x.ndim == 2 else mask[..., None], x, 4242.0)
        for f in ("observation", "action", "reward", "next_observation")
        if (x := getattr(batch.context, f)) is not None
    }
    before = algorithm.losses(batch, OFFLINE, generator()).minimised
    after = algorithm.losses(with_context(batch, **junk), OFFLINE, generator()).minimised
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "changes", [{}, {"weighting": "task_softmax"}, {"reward_error": "context_sum"}]
)
def test_the_order_of_context_changes_no_loss(changes):
    algorithm, batch = make_smac(**changes), make_batch()
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = with_context(
        batch,
        **{name: value[:, order] for name, value in tensors_of(batch.context).items()},
    )
    before = algorithm.losses(batch, OFFLINE, generator()).minimised
    after = algorithm.losses(shuffled, OFFLINE, generator()).minimised
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-6)


# The policy.


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 8), padding=st.integers(0, 5))
@derandomised
def test_the_policys_belief_ignores_order_and_padding(seed, size, padding):
    policy = make_smac().policy()
    context = make_batch(seed, context=size).context
    order = torch.randperm(size, generator=generator(seed))
    padded = dataclasses.replace(
        context,
        **{
            name: torch.cat(
                [
                    x[:, order],
                    torch.full(
                        (3, padding, *x.shape[2:]), 4242.0 if x.is_floating_point() else False
                    ),
                ],
                1,
            )
            for name, x in tensors_of(context).items()
        },
    )
    torch.testing.assert_close(policy.adapt(padded), policy.adapt(context), rtol=1e-4, atol=1e-5)


def test_an_empty_context_gives_exactly_the_prior():
    policy, context = make_smac().policy(), make_batch().context
    empty = dataclasses.replace(context, mask=torch.zeros_like(context.mask))
    assert torch.equal(policy.adapt(empty), policy.prior(3))
    assert torch.equal(policy.prior(3)[:, 0], torch.zeros(3, 4))
    assert torch.equal(policy.prior(3)[:, 1], torch.ones(3, 4))


def test_a_draw_is_reparameterised_noise():
    policy = make_smac().policy()
    belief = policy.adapt(make_batch().context)
    noise = torch.randn(3, 4, generator=generator(2))
    expected = belief[:, 0] + belief[:, 1].sqrt() * noise
    assert torch.equal(policy.draw(belief, generator(2)), expected)


def test_labels_of_a_step_do_not_depend_on_the_rest_of_its_trajectory():
    policy, batch = make_smac().policy(), make_batch()
    steps = [batch.transitions.observation, batch.transitions.action]
    steps.append(batch.transitions.next_observation)
    whole = policy.label(batch.context, *steps, generator(2))
    start = policy.label(batch.context, *(x[:, :2] for x in steps), generator(2))
    torch.testing.assert_close(whole[:, :2], start)


# Targets.


def test_target_critics_start_as_copies_and_follow_at_the_polyak_rate():
    algorithm = make_smac(polyak_rate=0.25)
    for ours, theirs in zip(*both_critics(algorithm), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
    with torch.no_grad():
        for parameter in algorithm.rl.critics.parameters():
            parameter += 1.0
    before = [p.clone() for p in algorithm.rl.target_critics.parameters()]
    algorithm.after_update(OFFLINE)
    for old, (target, source) in zip(
        before, zip(*both_critics(algorithm), strict=True), strict=True
    ):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * source.detach())


def both_critics(algorithm):
    return algorithm.rl.target_critics.parameters(), algorithm.rl.critics.parameters()


def test_the_critics_of_an_ensemble_differ_from_the_start():
    with torch.random.fork_rng(devices=[]):
        critics = Critics(3, 2, 4, (8,), members=3)
    q = critics(torch.ones(2, 5, 3), torch.ones(2, 5, 2), torch.ones(2, 4))
    assert q.shape == (3, 2, 5)
    assert len({value.item() for value in q[:, 0, 0]}) == 3


# The config.


@pytest.mark.parametrize(
    "changes",
    [
        {"latent_dim": 0},
        {"learning_rate": 0.0},
        {"context_learning_rate": -1e-3},
        {"context_half_life": 0},
        {"reward_scale": 0.0},
        {"temperature": float("nan")},
        {"max_weight": 0.0},
        {"kl_weight": -0.1},
        {"reparameterised_weight": -1.0},
        {"discount": 1.0},
        {"discount": -0.1},
        {"polyak_rate": 0.0},
        {"polyak_rate": 1.5},
    ],
)
def test_a_meaningless_value_is_refused_by_name(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=rf"SmacConfig\.{name} must .*got {value}"):
        SmacConfig(**changes)
