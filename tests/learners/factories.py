"""Small batches and algorithms for the tests of this folder."""

import dataclasses

import numpy as np
import torch
from hypothesis import settings

from causeway.datasets.batches import MetaBlock, RowLayout
from causeway.datasets.episodes import FINAL_TERMINATED, flags_of
from causeway.learners.registry import load_algorithm
from causeway.learners.smac import Smac, SmacConfig
from causeway.learners.trainer import Trainer, TrainerConfig

LAYOUT = RowLayout(observation_size=3, action_size=2)
WITH_OUTCOMES = RowLayout(observation_size=3, action_size=2, outcome_discount=0.9)
CPU = TrainerConfig(device="cpu")
derandomised = settings(derandomize=True, deadline=None, max_examples=50)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def doubles(*shape, seed=0, low=-1.0, high=1.0):
    """Uniform float64 numbers."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, shape))


def make_rows(rng, *shape, layout=LAYOUT):
    """Random transitions; about a third are true ends, a third time limits, some are both."""
    o, a = layout.observation_size, layout.action_size
    others = np.random.default_rng(shape)  # bare rows are the same with outcomes and without
    returns_to_go = others.normal(size=(*shape, 1))  # of episodes that are nowhere
    steps_to_go = others.integers(1, 9, (*shape, 1))
    final_terminated = others.random(shape) < 1 / 3
    outcome = [returns_to_go, steps_to_go, others.normal(size=(*shape, o))]
    fields = {
        "observation": rng.normal(size=(*shape, o)),
        "action": rng.uniform(-1, 1, (*shape, a)),
        "reward": rng.normal(size=shape),
        "next_observation": rng.normal(size=(*shape, o)),
    }
    ends = rng.random((*shape, 2)) < 1 / 3
    fields |= {"terminated": ends[..., 0], "truncated": ends[..., 1]}
    if layout.outcome_discount is None:
        return layout.rows(**fields)
    rows = layout.rows(**fields, outcome=np.concatenate(outcome, axis=-1))
    flags_of(rows)[..., FINAL_TERMINATED] = final_terminated
    return rows


def make_block(seed=0, updates=2, tasks=3, transitions=6, context=5, layout=LAYOUT):
    rng = np.random.default_rng(seed)
    return MetaBlock(
        task=rng.integers(0, 9, (updates, tasks)),
        context=make_rows(rng, updates, tasks, context, layout=layout),
        transitions=make_rows(rng, updates, tasks, transitions, layout=layout),
    )


def make_batch(seed=0, layout=LAYOUT, **sizes):
    block = make_block(seed, updates=1, layout=layout, **sizes)
    return next(block.meta_batches(layout, torch.device("cpu")))


def make_smac(seed=0, **changes):
    """SMAC with small networks; leaves torch's global generator as it was."""
    small = {
        "latent_dim": 4,
        "encoder_hidden": (8,),
        "decoder_hidden": (8,),
        "critic_hidden": (8, 8),
        "actor_hidden": (8, 8),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Smac(LAYOUT.observation_size, LAYOUT.action_size, SmacConfig(**{**small, **changes}))


def make_algorithm(name, seed=0):
    """Any registered algorithm as it comes: default hyperparameters."""
    cls = load_algorithm(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(LAYOUT.observation_size, LAYOUT.action_size, cls.Config())


def make_trainer(algorithm, seed=0, config=CPU, layout=LAYOUT):
    return Trainer(algorithm, layout, config, seed=seed)


def make_small(name, seed=0, **changes):
    """A registered context-based algorithm with small networks whose outputs matter."""
    cls = load_algorithm(name)
    sizes = ("encoder_hidden", "critic_hidden", "actor_hidden", "decoder_hidden")
    known = {field.name for field in dataclasses.fields(cls.Config)}
    small = {"latent_dim": 4, **{size: (8,) for size in sizes if size in known}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        algorithm = cls(
            LAYOUT.observation_size, LAYOUT.action_size, cls.Config(**{**small, **changes})
        )
        with torch.no_grad():
            for module in algorithm.modules().values():
                for parameter in module.parameters():
                    parameter *= 2.0  # fresh networks hardly depend on their inputs
    return algorithm


def parameters_of(algorithm):
    """A copy of every parameter and buffer, by module and name."""
    return {
        (module, name): value.detach().clone()
        for module, network in algorithm.modules().items()
        for name, value in network.state_dict().items()
    }


def modules_with_gradient(algorithm):
    """The modules with a gradient that is not zero; in each, every parameter must have one."""
    found = set()
    for name, module in algorithm.modules().items():
        reached = [p.grad is not None and bool(p.grad.any()) for p in module.parameters()]
        if any(reached):
            assert all(reached), f"some of {name}'s parameters have no gradient"
            found.add(name)
    return found


def tensors_of(batch):
    """A batch's tensors by name; bare rows bring no outcomes."""
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return {name: value for name, value in values.items() if value is not None}


def gradient_map(algorithm, batch, stage):
    """Which modules each loss reaches, when nothing but the losses themselves holds it back."""
    found = {}
    for module in algorithm.modules().values():
        module.requires_grad_(True)  # targets and frozen modules too: the losses must stop it
    for name in algorithm.losses(batch, stage, generator()).minimised:
        for module in algorithm.modules().values():
            module.zero_grad(set_to_none=True)
        algorithm.losses(batch, stage, generator()).minimised[name].backward()
        found[name] = modules_with_gradient(algorithm)
    return found
