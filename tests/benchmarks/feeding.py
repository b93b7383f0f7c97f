"""The learner's wait for data: SMAC's updates while a thread draws the next meta-batches.

The learner is on the GPU where there is one. A block is being drawn while another is at work, as
in a run.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from causeway.datasets.buffers import open_buffers
from causeway.datasets.sampler import MetaSampler, SamplerConfig
from causeway.learners.registry import load_algorithm
from causeway.learners.smac import SmacConfig
from causeway.learners.trainer import Trainer, TrainerConfig
from tests.benchmarks.harness import Options, Row
from tests.benchmarks.support.large_set import LAYOUT, LargeSet, large_set

TASKS, ROWS, EPISODES = 16, 256, 2
UPDATES = 5  # of a block
ALLOWED_PERCENT = 2.0
MEASURED_S = 20.0
STREAM_SHARE = 0.15  # of the rows, in memory


def run(options: Options) -> Iterator[Row]:
    """A row for mapped and one for streamed data."""
    with large_set(options) as data:
        for mode in ("mapped", "streamed"):
            budget = data.bytes if mode == "mapped" else round(STREAM_SHARE * data.bytes)
            config = SamplerConfig(
                tasks_per_batch=TASKS,
                transitions_per_task=ROWS,
                context_per_task=ROWS,
                context_episodes=EPISODES,
                mode=mode,
                memory_budget_bytes=budget,
            )
            percent, updates_per_s, device = idle_percent(data, config, options)
            yield Row.at_most(
                f"learner idle for data, {mode}; the limit",
                measured=percent,
                allowed=ALLOWED_PERCENT,
                unit="% of time",
                note=f"SMAC, 16 x (256 + 256), {updates_per_s:.3g} updates/s on {device}",
            )


def idle_percent(
    data: LargeSet, config: SamplerConfig, options: Options
) -> tuple[float, float, str]:
    """The share of its time that a learner waits for blocks, its updates per second, its device."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    smac = load_algorithm("smac")(LAYOUT.observation_size, LAYOUT.action_size, SmacConfig())
    trainer = Trainer(smac, LAYOUT, TrainerConfig(threads=options.threads), seed=0)
    trainer.enter(smac.stages()[0])
    idle_s = 0.0
    with (
        open_buffers(data.store, data.cache, data.store.task_ids(), config, 0) as opened,
        ThreadPoolExecutor(1) as drawer,
    ):
        sampler = MetaSampler(opened.buffers, config, 0)
        trainer.run_block(sampler.sample_block(UPDATES))  # warms up
        coming = drawer.submit(sampler.sample_block, UPDATES)
        begun, before = time.perf_counter(), trainer.updates
        while time.perf_counter() < begun + MEASURED_S * options.scale:
            waiting = time.perf_counter()
            block = coming.result()
            idle_s += time.perf_counter() - waiting
            coming = drawer.submit(sampler.sample_block, UPDATES)
            trainer.run_block(block)
        total_s = time.perf_counter() - begun
    return 100.0 * idle_s / total_s, (trainer.updates - before) / total_s, str(trainer.device)
