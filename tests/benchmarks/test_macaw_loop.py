"""The loop that MACAW is timed against does the same updates."""

import torch

from causeway.learners.macaw import Macaw, MacawConfig
from causeway.learners.trainer import Trainer, TrainerConfig
from tests.benchmarks.support.macaw_loop import Loop
from tests.learners.test_macaw import LAYOUT, case, doubled

SIZES = {"hidden": (7, 6, 5), "latent_dim": 3, "head_hidden": 4, "inner_rate": 0.05}


def test_a_loop_with_torch_func_takes_the_same_steps():
    config = MacawConfig(**SIZES, discount=0.9)
    ours = doubled(Macaw(LAYOUT.observation_size, LAYOUT.action_size, config))
    loop = Loop(ours.policy(), config)
    trainer = Trainer(ours, LAYOUT, TrainerConfig(device="cpu"), seed=0)
    for seed in range(3):
        batch = case(seed)
        trainer.update(batch)
        loop.update(batch)
    policy = ours.policy()
    pairs = [
        *zip(policy.value.tensors(), loop.value.parameters(), strict=True),
        *zip(policy.policy.tensors(), loop.actor.parameters(), strict=True),
        (policy.inner_rates.value, loop.value_rates),
        (policy.inner_rates.policy, loop.actor_rates),
        (policy.inner_rates.advantage, loop.advantage_weight),
    ]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
