"""MACAW's meta-update against loops over tasks that form every task's own parameters.

There are two such loops, to both of which tests hold ours equal. One is as a user writes it with
`torch.func` (`support/macaw_loop.py`). The other is `tests/learners/macaw_reference.py`: autograd
through each task's inner steps, gradients accumulated, one step of torch's Adam, no modules.

Ours runs as a learner of a run does, in a process that keeps the memory that an update frees; a
loop runs in a process as Python starts it. With one thread the time is that of the processor, which
what else a machine does disturbs less.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from causeway.cluster.allocation import keep_freed_memory
from causeway.datasets.batches import MetaBatch, RowLayout
from causeway.learners.macaw import Macaw, MacawConfig
from causeway.learners.trainer import Trainer, TrainerConfig
from tests.benchmarks.harness import Measure, Options, Row, interleaved, timed
from tests.benchmarks.support.macaw_loop import Loop
from tests.learners import macaw_reference

LAYOUT = RowLayout(observation_size=20, action_size=6, outcome_discount=0.99)  # half cheetah
TASKS, ROWS = 5, 256  # of a meta-batch; the paper's
UPDATES = 5  # in one turn: of one, much would be filling the caches anew
ROUNDS = 7
CASES: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("one inner step, the paper's setting", {}, 8.0),
    ("two inner steps", {"inner_steps": 2}, 8.0),
    ("without weight transforms", {"latent_dim": None}, 3.0),
)


def run(options: Options) -> Iterator[Row]:
    """Rows for each form of the method; the paper's setting against both loops."""
    torch.set_num_threads(options.threads)
    batch = make_batch()
    for case, changes, target in CASES:
        algorithm = make_algorithm(changes)
        loops: dict[str, Callable[[], None]] = {}
        if not changes:
            loops["torch.func"] = partial(Loop(algorithm.policy(), algorithm.config).update, batch)
        loops["autograd"] = autograd_loop(algorithm, batch)
        with learner(changes, options.threads) as ours:
            ours_s, *theirs_s = interleaved(
                ours,
                *(per_update(loop, options.threads) for loop in loops.values()),
                rounds=options.scaled(ROUNDS, at_least=3),
            )
        for kind, seconds in zip(loops, theirs_s, strict=True):
            yield Row.costs(
                f"meta-update, {case}; a loop with {kind}",
                ours=1e3 * ours_s,
                theirs=1e3 * seconds,
                target=target,
                unit="CPU-ms" if options.threads == 1 else "ms",
                note=f"{TASKS} tasks x ({ROWS} + {ROWS}) rows, float32",
            )


def make_algorithm(changes: dict[str, Any]) -> Macaw:
    """The method on half-cheetahs."""
    torch.manual_seed(0)
    return Macaw(LAYOUT.observation_size, LAYOUT.action_size, MacawConfig(**changes))


def per_update(update: Callable[[], object], threads: int) -> Measure:
    """Seconds of an update, of several in a turn; with one thread, of the processor."""
    clock = time.process_time if threads == 1 else time.perf_counter
    return timed(update, clock, calls=UPDATES)


def autograd_loop(algorithm: Macaw, batch: MetaBatch) -> Callable[[], None]:
    """An update of the loop that the tests hold ours equal to."""
    optimiser = torch.optim.Adam(algorithm.parameter_groups())

    def update() -> None:
        optimiser.zero_grad()
        macaw_reference.backward(algorithm.policy(), batch)
        optimiser.step()

    return update


@contextmanager
def learner(changes: dict[str, Any], threads: int) -> Iterator[Measure]:
    """Seconds of an update of ours, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, changes, threads), daemon=True)
    process.start()
    there.close()

    def measure() -> float:
        here.send(True)
        return float(here.recv())

    yield measure
    here.send(False)
    process.join()


def serve(connection: Connection, changes: dict[str, Any], threads: int) -> None:
    """Updates, as often as asked; tells how long each took."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    config = TrainerConfig(device="cpu", threads=threads)
    trainer, batch = Trainer(make_algorithm(changes), LAYOUT, config, seed=0), make_batch()
    measure = per_update(partial(trainer.update, batch), threads)
    while connection.recv():
        connection.send(measure())


def make_batch() -> MetaBatch:
    """Rows as they come from logs: the last of 200 steps is seldom among them."""
    rng = np.random.default_rng(0)
    shape = (TASKS, 2 * ROWS)
    o, a = LAYOUT.observation_size, LAYOUT.action_size
    fields = {
        "observation": rng.normal(size=(*shape, o)),
        "action": rng.uniform(-1, 1, (*shape, a)),
        "reward": rng.normal(size=shape),
        "next_observation": rng.normal(size=(*shape, o)),
        "terminated": np.zeros(shape),
        "truncated": np.zeros(shape),
    }
    returns_to_go, steps_to_go = 10 * rng.normal(size=shape), rng.integers(1, 201, shape)
    outcome = np.stack([returns_to_go, steps_to_go], axis=-1)
    outcome = np.concatenate([outcome, rng.normal(size=(*shape, o))], axis=-1)
    rows = torch.from_numpy(LAYOUT.rows(**fields, outcome=outcome))
    return MetaBatch(
        task=torch.arange(TASKS),
        context=LAYOUT.context(rows[:, :ROWS]),
        transitions=LAYOUT.transitions(rows[:, ROWS:]),
    )
