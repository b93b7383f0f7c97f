"""Collection with a policy of 300 x 3: our collector against RLlib's environment runner.

Both act in half-cheetahs of horizon 200, RLlib's in gymnasium's with as many environments as
ours. Ours also infers posteriors and labels what it gathered, as it does in a run. With one
thread, figures count seconds of the processor, so that other work on the machine does not decide
them; with two, of which each steps a batch of its own, they count seconds of the clock. RLlib's
runner has one thread in either case.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import torch

from causeway.actors.collector import Assignment, Collector, CollectorConfig
from causeway.actors.mujoco_process import disable_profiling, prepare_process, restore_profiling
from causeway.actors.tasks.cheetah_vel import CheetahVel
from causeway.datasets.batches import RowLayout
from causeway.learners.smac import Smac, SmacConfig
from tests.benchmarks.harness import Options, Row, interleaved, timed

HIDDEN = (300, 300, 300)
ASSIGNMENTS = 21  # for each thread, of three environments: what a batch of 64 has room for
ROUNDS = 15
FAMILY = CheetahVel()
LAYOUT = RowLayout(FAMILY.observation_size, FAMILY.action_size)


def run(options: Options) -> Iterator[Row]:
    """One row for each number of threads."""
    torch.set_num_threads(options.threads)
    prepare_process()
    for threads, unit, clock, target in (
        (1, "environment steps per CPU-second", time.process_time, 3.5),
        (2, "environment steps/s", time.perf_counter, 5.8),
    ):
        ours, theirs = OurCollector(threads), RllibRunner(3 * threads * ASSIGNMENTS)
        measures = [rate_of(side, clock, options) for side in (ours, theirs)]
        rates = interleaved(*measures, rounds=options.scaled(ROUNDS))
        yield Row.rates(
            f"{threads} thread{'s' * (threads > 1)}; RLlib's runner, which has one",
            ours=rates[0],
            theirs=rates[1],
            target=target,
            unit=unit,
        )


def rate_of(
    side: "OurCollector | RllibRunner", clock: Callable[[], float], options: Options
) -> Callable[[], float]:
    """Environment steps per second of the clock."""

    def measure() -> float:
        steps = 0

        def collect() -> None:
            nonlocal steps
            steps = side.collect(options)

        seconds = timed(collect, clock)()
        return steps / seconds

    return measure


class OurCollector:
    """A collector as a run has it, with as many assignments as it steps side by side."""

    def __init__(self, threads: int) -> None:
        torch.manual_seed(0)
        policy = Smac(*sizes(), SmacConfig(actor_hidden=HIDDEN)).policy()
        self._collector = Collector(
            policy,
            CheetahVel.dynamics,
            LAYOUT,
            horizon=FAMILY.horizon,
            config=CollectorConfig(threads=threads),
            seed=0,
            index=0,
        )
        self._collector.set_weights(policy.state_dict(), (1, 0))
        self._rows = np.random.default_rng(0).normal(size=(400, LAYOUT.width)).astype(np.float32)
        self._sequence, self._count = 0, threads * ASSIGNMENTS

    def collect(self, options: Options) -> int:
        """One collection for each assignment; gives its environment steps."""
        disable_profiling()
        self._sequence += self._count
        assignments = [
            Assignment(task_id=0, dynamics={}, labelling_context=self._rows, sequence=sequence)
            for sequence in range(self._sequence - self._count, self._sequence)
        ]
        return sum(rollout.env_steps for rollout in self._collector.collect(assignments))


class RllibRunner:
    """RLlib's environment runner in this process, as an algorithm of its would use it."""

    def __init__(self, num_envs: int) -> None:
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
        from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

        model = DefaultModelConfig(fcnet_hiddens=list(HIDDEN), fcnet_activation="relu")
        config = (
            PPOConfig()
            .environment(lambda _: gymnasium.make("HalfCheetah-v5", max_episode_steps=200))
            .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs)
            .rl_module(model_config=model)
        )
        self._runner: Any = SingleAgentEnvRunner(config=config)

    def collect(self, options: Options) -> int:
        """Whole vector steps for about a fifth of what a collector of ours gathers."""
        restore_profiling()
        count = options.scaled(5_000)
        episodes = self._runner.sample(num_timesteps=count, explore=True)
        return sum(len(episode) for episode in episodes)


def sizes() -> tuple[int, int]:
    """Of observations and actions."""
    return LAYOUT.observation_size, LAYOUT.action_size
