"""Meta-batches: from mapped files against PEARL's numpy buffers, and streamed against Ray Data.

Figures count seconds of the processor, so that other work on the machine does not decide them. A
meta-batch ends as float32 tensors on either side.
"""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from causeway.datasets.buffers import open_buffers
from causeway.datasets.cache import RowCache
from causeway.datasets.sampler import MetaSampler, SamplerConfig
from causeway.datasets.store import DatasetStore
from tests.benchmarks.harness import Options, Row, interleaved, timed
from tests.benchmarks.support.large_set import LAYOUT, LargeSet, large_set
from tests.benchmarks.support.pearl_buffers import MultiTaskReplayBuffer
from tests.benchmarks.support.processes import anonymous_bytes, tree_cpu_s
from tests.benchmarks.support.ray_data import ray_data

TASKS, ROWS = 16, 256  # N; and both B and, where there is a context, K
BATCH_ROWS = TASKS * ROWS
UPDATES = 20  # meta-batches drawn in one piece
# A turn of either side takes about half a second; in shorter ones, what is timed is filling the
# caches anew.
PIECES, THEIR_PIECES = 80, 10
STREAM_PIECES = 100  # a turn of about 2 s, as Ray Data's are of 5
LATENCY_LIMIT_MS = 0.5
STREAM_BUDGET_BYTES = 256 << 20  # for 100 tasks
STREAM_LIMIT_BYTES = 500_000_000  # of the whole process
SHUFFLE_ROWS = 65_536  # of Ray Data's buffer
RAY_SHARE = 0.25  # of the files, in one pass of Ray Data
RATE = "meta-batches/CPU-s"
NO_TARGET = "no target is set: at least as fast"
CPU = torch.device("cpu")


def run(options: Options) -> Iterator[Row]:
    """All rows."""
    with large_set(options) as data:
        yield from mapped_rows(data)
        yield from streamed_rows(data, options)


def mapped_rows(data: LargeSet) -> Iterable[Row]:
    """All transitions in memory on either side: 16 x 256 of them, and with as many in contexts."""
    mapped = {"mode": "mapped", "memory_budget_bytes": 2 * data.bytes}
    contexts: dict[str, dict[str, int]] = {
        "no context": {"context_per_task": 0},
        "contexts of any 256 rows": {"context_per_task": ROWS},
        "256 rows of 2 episodes as context": {"context_per_task": ROWS, "context_episodes": 2},
    }
    buffers = [MultiTaskReplayBuffer(data, kind) for kind in (np.float64, np.float32)]
    with ExitStack() as stack:
        ours = [
            stack.enter_context(sampling(data, sampler_config(**mapped, **options)))
            for options in contexts.values()
        ]
        theirs = [partial(by_a_user, b, context) for b in buffers for context in (0, ROWS)]
        measures = [timed(side, time.process_time, calls=PIECES) for side in ours]
        measures += [timed(side, time.process_time, calls=THEIR_PIECES) for side in theirs]
        rates = [UPDATES / each for each in interleaved(*measures, rounds=21)]
    (double_alone, double, single_alone, single), rates = rates[len(ours) :], rates[: len(ours)]
    for name, rate in zip(contexts, rates, strict=True):
        alone = name == "no context"
        yield Row.rates(
            f"mapped, {name}; numpy buffers, float64 as rlkit's",
            ours=rate,
            theirs=double_alone if alone else double,
            target=8.0 if alone else 1.0,
            unit=RATE,
            note="" if alone else NO_TARGET,
        )
        yield Row.rates(
            f"mapped, {name}; numpy buffers, float32",
            ours=rate,
            theirs=single_alone if alone else single,
            target=1.0,
            unit=RATE,
            note=NO_TARGET,
        )
    yield Row.at_most(
        "time of a meta-batch, mapped, no context; the limit",
        measured=1000.0 / rates[0],
        allowed=LATENCY_LIMIT_MS,
        unit="CPU-ms",
    )


def by_a_user(buffer: MultiTaskReplayBuffer, context: int) -> None:
    """Some meta-batches from numpy buffers."""
    for _ in range(UPDATES):
        buffer.sample_meta_batch(tasks=TASKS, context=context, transitions=ROWS)


def streamed_rows(data: LargeSet, options: Options) -> Iterable[Row]:
    """A small part of the transitions in memory, 16 x 256 of them in a meta-batch, used once."""
    budget = options.scaled(STREAM_BUDGET_BYTES)
    files = data.files[: max(1, round(RAY_SHARE * len(data.files)))]
    with (
        sampling(data, stream_config(budget)) as ours,
        ray_data(files, num_cpus=2) as read_once,
    ):

        def theirs(shuffle_rows: int | None) -> float:
            begun = tree_cpu_s()
            count = read_once(BATCH_ROWS, shuffle_rows)
            return count / (tree_cpu_s() - begun)

        def our_rate() -> float:
            return UPDATES / timed(ours, time.process_time, calls=STREAM_PIECES)()

        rate, plain, shuffled = interleaved(
            our_rate, lambda: theirs(None), lambda: theirs(SHUFFLE_ROWS), rounds=3
        )
    for name, other in (("in order of the files", plain), ("shuffled", shuffled)):
        yield Row.rates(
            f"streamed; Ray Data {name}",
            ours=rate,
            theirs=other,
            target=10.0,
            unit=RATE,
            note="ours is task-balanced, theirs is not",
        )
    yield Row.at_most(
        "anonymous memory of a process that streams; the limit",
        measured=peak_while_streaming(data, budget) / 1e6,
        allowed=STREAM_LIMIT_BYTES / 1e6,
        unit="MB",
    )


def sampler_config(**changes: object) -> SamplerConfig:
    """Of meta-batches of 16 tasks with 256 transitions each."""
    given = {"tasks_per_batch": TASKS, "transitions_per_task": ROWS, **changes}
    return SamplerConfig(**given)  # type: ignore[arg-type]


def stream_config(budget_bytes: int) -> SamplerConfig:
    """Streamed, each transition drawn once on average, and no context."""
    return sampler_config(
        mode="streamed", context_per_task=0, reuse=1.0, memory_budget_bytes=budget_bytes
    )


@contextmanager
def sampling(data: LargeSet, config: SamplerConfig) -> Iterator[Callable[[], None]]:
    """Opens a data set's buffers; gives a function that draws some meta-batches."""
    with open_buffers(data.store, data.cache, data.store.task_ids(), config, 0) as opened:
        sampler = MetaSampler(opened.buffers, config, 0)

        def draw() -> None:
            deque(sampler.sample_block(UPDATES).meta_batches(LAYOUT, CPU), maxlen=0)

        yield draw


def peak_while_streaming(data: LargeSet, budget_bytes: int) -> float:
    """Most anonymous memory of a process that does nothing but stream, over some passes."""
    folders = data.store.folder.path, str(data.cache.folder)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_stream, (*folders, budget_bytes))


def _stream(folder: str, cache: str, budget_bytes: int) -> float:
    store = DatasetStore.open(folder)
    data = LargeSet(store=store, cache=RowCache(Path(cache), 1 << 62))
    peak = 0
    with sampling(data, stream_config(budget_bytes)) as draw:
        for _ in range(100):
            draw()
            peak = max(peak, anonymous_bytes())
    return float(peak)
