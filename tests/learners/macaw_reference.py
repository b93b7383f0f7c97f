"""MACAW as one would write it first: a loop over tasks, each with parameters of its own.

Every inner step differentiates the task's loss in z, W and b and forms all three anew, with a graph
of it all; the adapted W, a million numbers for each layer, included. The fast path must agree.
"""

import math

import torch
import torch.nn.functional as F


def parameters_by_transform(network):
    """[(z, W, b) or (b,)] in the order of the network's transforms."""
    return [transform.tensors() for transform in network.transforms]


def theta_of(parameters):
    if len(parameters) == 1:
        return parameters[0]
    z, matrix, offset = parameters
    return matrix @ z + offset


def linear(network, layer, parameters, x):
    inputs, outputs = network.sizes[layer]
    per_layer = len(parameters) // len(network.sizes)
    theta = torch.cat(
        [theta_of(p) for p in parameters[layer * per_layer : (layer + 1) * per_layer]]
    )
    return x @ theta[: inputs * outputs].view(inputs, outputs) + theta[inputs * outputs :]


def value_of(network, parameters, s):
    x = linear(network, 0, parameters, s)
    for layer in range(1, len(network.sizes)):
        x = linear(network, layer, parameters, F.relu(x))
    return x[:, 0]


def policy_of(network, parameters, s):
    last = network.num_body_layers - 1
    hidden = linear(network, 0, parameters, s)
    for layer in range(1, last):
        hidden = linear(network, layer, parameters, F.relu(hidden))
    return torch.tanh(linear(network, last, parameters, F.relu(hidden))), hidden


def predicted_advantage(network, parameters, hidden, action, rectifies_action):
    action = F.relu(action) if rectifies_action else action
    x = torch.cat([F.relu(hidden), action], dim=1)
    x = linear(network, network.num_body_layers, parameters, x)
    return linear(network, network.num_body_layers + 1, parameters, F.relu(x))[:, 0]


class Rows:
    """One task's rows out of a context or of transitions."""

    def __init__(self, batch, task, part=slice(None)):
        for name in ("observation", "action", "reward", "next_observation"):
            setattr(self, name, getattr(batch, name)[task][part])
        for name in ("return_to_go", "steps_to_go", "final_observation", "final_terminated"):
            setattr(self, name, getattr(batch.outcomes, name)[task][part])


def returns_of(policy, parameters, rows):
    config, departures = policy.config, policy.config.departures
    with torch.no_grad():
        final = value_of(policy.value, parameters, rows.final_observation)
        ahead = config.discount**rows.steps_to_go
        if not departures.bootstrap_past_true_end:
            ahead = ahead * ~rows.final_terminated
        every_whole = rows.return_to_go + ahead * final
        if config.value_targets == "monte_carlo":
            return every_whole
        following = value_of(policy.value, parameters, rows.next_observation)
    expected = []
    for i in reversed(range(len(final))):
        ends = bool(rows.final_terminated[i]) and not departures.bootstrap_past_true_end
        steps, whole = int(rows.steps_to_go[i]), every_whole[i]
        ahead = (whole - rows.reward[i]) / config.discount
        if (
            i + 1 < len(final)
            and torch.equal(rows.next_observation[i], rows.observation[i + 1])
            and steps == int(rows.steps_to_go[i + 1]) + 1
        ):
            ahead = expected[0]
        next_value = 0.0 if ends and steps == 1 else following[i]
        decay = config.trace_decay
        mixed = (1 - decay) * next_value + decay * ahead
        expected.insert(0, rows.reward[i] + config.discount * mixed)
    return torch.stack(expected)


def regression(policy, parameters, rows, advantage):
    config, departures = policy.config, policy.config.departures
    mean, hidden = policy_of(policy.policy, parameters, rows.observation)
    distribution = torch.distributions.Normal(mean, config.action_std)
    log_prob = distribution.log_prob(rows.action).sum(1)
    deviation = advantage.std() + departures.advantage_epsilon
    exponent = (advantage - advantage.mean()) / deviation / config.temperature
    exponent = exponent.clamp(max=math.log(config.max_weight))
    if departures.weight_floor:
        exponent = exponent.clamp(min=-math.log(config.max_weight))
    return -(exponent.exp() * log_prob).mean(), hidden


def step(loss, parameters, rates):
    flat = [tensor for group in parameters for tensor in group]
    gradients = torch.autograd.grad(loss, flat, create_graph=True)
    moved = iter(
        [
            tensor - F.softplus(rate) * gradient
            for tensor, rate, gradient in zip(flat, rates, gradients, strict=True)
        ]
    )
    return [[next(moved) for _ in group] for group in parameters]


def task_losses(policy, context, transitions, task):
    """The outer losses of one task: of the value network and of the policy."""
    config, rates = policy.config, policy.inner_rates
    value, actor = (parameters_by_transform(n) for n in (policy.value, policy.policy))
    target = value
    parts = torch.arange(context.reward.shape[1]).tensor_split(config.inner_steps)
    for part in parts:
        rows = Rows(context, task, part)
        aim = rows.return_to_go
        if config.value_targets == "td_lambda":
            aim = returns_of(policy, value, rows)
        loss = (value_of(policy.value, value, rows.observation) - aim).square().mean()
        value = step(loss, value, rates.value)
        share = config.target_rate
        target = [
            [(1 - share) * t.detach() + share * v.detach() for t, v in zip(*pair, strict=True)]
            for pair in zip(target, value, strict=True)
        ]
    for part in parts:
        rows = Rows(context, task, part)
        advantage = returns_of(policy, value, rows)
        advantage = advantage - value_of(policy.value, value, rows.observation).detach()
        loss, hidden = regression(policy, actor, rows, advantage)
        rectifies = config.departures.head_rectifies_action
        told = predicted_advantage(policy.policy, actor, hidden, rows.action, rectifies)
        loss = loss + F.softplus(rates.advantage) * (told - advantage).square().mean()
        actor = step(loss, actor, rates.policy)
    rows = Rows(transitions, task)
    values = value_of(policy.value, value, rows.observation)
    value_loss = (values - returns_of(policy, target, rows)).square().mean()
    advantage = returns_of(policy, value, rows) - values.detach()
    return value_loss, regression(policy, actor, rows, advantage)[0]


def backward(policy, batch):
    """Accumulates the gradients of all tasks, one after the other; gives the mean losses."""
    num_tasks = len(batch.task)
    totals = torch.zeros(2, dtype=batch.context.reward.dtype)
    for task in range(num_tasks):
        losses = torch.stack(task_losses(policy, batch.context, batch.transitions, task))
        (losses.sum() / num_tasks).backward()
        totals += losses.detach() / num_tasks
    return totals
