"""MACAW's meta-update against a loop over tasks that forms every task's own parameters.

The other side is `tests/learners/macaw_reference.py`, to which the tests hold ours equal: autograd
through each task's inner steps, gradients accumulated, one step of torch's Adam. With one thread
the time is that of the processor, which what else a machine does disturbs less.
"""

import copy
import time
from collections.abc import Iterator

import numpy as np
import torch

from causeway.datasets.batches import MetaBatch, RowLayout
from causeway.learners.macaw import Macaw, MacawConfig
from causeway.learners.trainer import Trainer, TrainerConfig
from tests.benchmarks.harness import Options, Row, interleaved, timed
from tests.learners import macaw_reference

LAYOUT = RowLayout(observation_size=20, action_size=6, outcome_discount=0.99)  # half cheetah
TASKS, ROWS = 5, 256  # of a meta-batch; the paper's
ROUNDS = 15
CASES = (
    ("one inner step, the paper's setting", {}, 8.0),
    ("two inner steps", {"inner_steps": 2}, 8.0),
    ("without weight transforms", {"latent_dim": None}, 3.0),
)


def run(options: Options) -> Iterator[Row]:
    """A row for each form of the method."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    batch = make_batch()
    clock = time.process_time if options.threads == 1 else time.perf_counter
    for case, changes, target in CASES:
        algorithm = Macaw(LAYOUT.observation_size, LAYOUT.action_size, MacawConfig(**changes))
        plain = copy.deepcopy(algorithm)
        config = TrainerConfig(device="cpu", threads=options.threads)
        trainer = Trainer(algorithm, LAYOUT, config, seed=0)
        optimiser = torch.optim.Adam(plain.parameter_groups())

        def loop(plain: Macaw = plain, optimiser: torch.optim.Adam = optimiser) -> None:
            optimiser.zero_grad()
            macaw_reference.backward(plain.policy(), batch)
            optimiser.step()

        def ours(trainer: Trainer = trainer) -> None:
            trainer.update(batch)

        rounds = options.scaled(ROUNDS, at_least=3)
        seconds = interleaved(timed(ours, clock), timed(loop, clock), rounds=rounds)
        yield Row.costs(
            f"meta-update, {case}",
            ours=1e3 * seconds[0],
            theirs=1e3 * seconds[1],
            target=target,
            unit="CPU-ms" if options.threads == 1 else "ms",
            note=f"{TASKS} tasks x ({ROWS} + {ROWS}) rows, float32",
        )


def make_batch() -> MetaBatch:
    """Rows as they come from logs: the last of 200 steps is seldom among them."""
    rng = np.random.default_rng(0)
    shape = (TASKS, 2 * ROWS)
    o, a = LAYOUT.observation_size, LAYOUT.action_size
    columns = [
        rng.normal(size=(*shape, o)),
        rng.uniform(-1, 1, (*shape, a)),
        rng.normal(size=(*shape, 1)),
        rng.normal(size=(*shape, o)),
        10 * rng.normal(size=(*shape, 1)),  # returns to go
        rng.integers(1, 201, (*shape, 1)),
        np.zeros((*shape, 1)),
        rng.normal(size=(*shape, o)),
        np.zeros((*shape, 2)),
    ]
    rows = torch.from_numpy(np.concatenate(columns, axis=-1).astype(np.float32))
    return MetaBatch(
        task=torch.arange(TASKS),
        context=LAYOUT.context(rows[:, :ROWS]),
        transitions=LAYOUT.transitions(rows[:, ROWS:]),
    )
