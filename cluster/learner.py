"""The learner service: the trainer behind the calls that the rest of a run makes.

It runs blocks of updates, labels rollouts, publishes weights and writes checkpoints. Under Ray it
is an actor with the GPU where there is one; in a serial run an object.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causeway.actors.collector import Collector, Rollout
from causeway.actors.oracle import OracleCollector
from causeway.actors.tasks.family import Family, find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.allocation import keep_freed_memory
from causeway.cluster.checkpoint import (
    Checkpoint,
    has_checkpoints,
    load_latest,
    save_checkpoint,
)
from causeway.cluster.checkpoint_copies import copy_out
from causeway.cluster.config import RunConfig
from causeway.cluster.divergence import save_block
from causeway.cluster.labelling import LabelledRollout, label_rollout, rewarded_rollout
from causeway.datasets.batches import MetaBlock, RowLayout
from causeway.datasets.policy import AdaptivePolicy
from causeway.learners.algorithm import Algorithm, outcome_discount
from causeway.learners.registry import load_algorithm
from causeway.learners.trainer import BlockMeans, DivergedError, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReport:
    """What a block of updates did."""

    stage: str
    updates: int  # of the run, after the block
    means: BlockMeans
    seconds: float  # the learner worked


class LearnerService:
    """One trainer and what surrounds it."""

    def __init__(self, config: RunConfig, layout: RowLayout) -> None:
        torch.set_num_threads(config.trainer.threads)
        keep_freed_memory()
        self._config = config
        self._layout = layout
        self._diverged_in: Path | None = None  # the file of the block in which training diverged
        self._trainer = Trainer(
            make_algorithm(config, layout), layout, config.trainer, seed=config.run.seed
        )
        if config.run.start_from is not None and not has_checkpoints(config.folder):
            checkpoint, _ = load_latest(Path(config.run.start_from))
            self._trainer.load_networks(checkpoint.tensors)

    def __repr__(self) -> str:
        return f"Learner {self._config.run.algorithm} on {self._trainer.device}"

    def enter(self, stage: str) -> None:
        """Goes over to a stage."""
        stages = {s.name: s for s in self._trainer.algorithm.stages()}
        self._trainer.enter(stages[stage])

    def run_block(self, block: MetaBlock) -> BlockReport:
        """A block's updates; see `Trainer.run_block`.

        Raises:
            DivergedError: a loss or a weight is not finite; the block is kept in the run's folder.
        """
        started = time.perf_counter()
        before = self._trainer.updates
        try:
            means = self._trainer.run_block(block)
        except DivergedError as error:
            if self._diverged_in is None:  # else a later block, refused because of that one
                self._diverged_in = save_block(self._config.folder, before, block)
            raise DivergedError(f"{error}. What it was fed is in {self._diverged_in}") from error
        return BlockReport(
            stage=self._trainer.stage.name,
            updates=self._trainer.updates,
            means=means,
            seconds=time.perf_counter() - started,
        )

    def label(self, rollout: Rollout, contexts: Sequence[np.ndarray]) -> LabelledRollout:
        """The rollout with the decoder's rewards, or with its own where an oracle gathered it."""
        if self._config.collection.true_rewards:
            return rewarded_rollout(rollout)
        return label_rollout(
            self._trainer.algorithm.policy(),
            rollout,
            contexts,
            self._layout,
            label_version=self._trainer.updates,
            seed=self._config.run.seed,
            device=self._trainer.device,
        )

    def weights(self) -> tuple[int, dict[str, Tensor]]:
        """The updates so far, and the inference parts on the CPU."""
        return self._trainer.updates, self._trainer.weights()

    def policy(self) -> AdaptivePolicy:
        """The inference parts, sharing the trained tensors."""
        return self._trainer.algorithm.policy()

    def save(self, folder: Path, run_state: dict[str, Any]) -> Path:
        """Writes a checkpoint of the trainer and of what the driver knows."""
        return write_checkpoint(self._config, folder, *self._trainer.state(), run_state)

    def load(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint."""
        self._trainer.load_state(checkpoint.tensors, checkpoint.state["trainer"])


def write_checkpoint(
    config: RunConfig,
    folder: Path,
    tensors: dict[str, Tensor],
    values: dict[str, Any],
    run_state: dict[str, Any],
) -> Path:
    """Writes a checkpoint of a trainer's state and of what the driver knows; gives its folder.

    Raises:
        OSError: it could not be written, or not be copied to where copies go.
    """
    keep = config.schedule.keep_checkpoints
    state = {"trainer": values, "run": run_state}
    path = save_checkpoint(folder, values["updates"], tensors, state, keep=keep)
    if config.checkpoint_copies is not None:
        copy_out(path, config.checkpoint_copies, keep=keep)
    return path


def make_algorithm(config: RunConfig, layout: RowLayout) -> Algorithm:
    """The run's algorithm with fresh networks, the same ones for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        algorithm: Algorithm = load_algorithm(config.run.algorithm)(
            layout.observation_size, layout.action_size, config.hyperparameters
        )
    return algorithm


def make_policy(config: RunConfig, layout: RowLayout) -> AdaptivePolicy:
    """The inference parts alone, for an actor that will be given weights."""
    return make_algorithm(config, layout).policy()


def checkpoint_weights(
    config: RunConfig, checkpoint: Checkpoint, layout: RowLayout
) -> tuple[int, dict[str, Tensor]]:
    """The updates and the inference parts of a checkpoint, on the CPU wherever it was trained."""
    trainer = dataclasses.replace(config.trainer, device="cpu")
    learner = LearnerService(config.replace(trainer=trainer), layout)
    learner.load(checkpoint)
    return learner.weights()


def checkpoint_policy(
    config: RunConfig, checkpoint: Checkpoint, layout: RowLayout
) -> AdaptivePolicy:
    """The policy of a checkpoint, to be played in this process."""
    _, weights = checkpoint_weights(config, checkpoint, layout)
    policy = make_policy(config, layout)
    policy.load_state_dict(weights)
    return policy


def row_layout(config: RunConfig, family: Family) -> RowLayout:
    """How the run's rows lie, told without its data set."""
    discount = outcome_discount(config.hyperparameters)
    return RowLayout(family.observation_size, family.action_size, discount)


def make_collector(config: RunConfig, layout: RowLayout, index: int) -> Collector:
    """A collector of the run: it is given the family's dynamics and nothing else of the family.

    That of an oracle is given the family and the training tasks, rewards included.
    """
    family = load_family(config.data.family)
    if config.collection.true_rewards:
        return OracleCollector(
            make_policy(config, layout),
            family,
            find_split(family, config.data.split).train,
            layout,
            config=config.collector,
            seed=config.run.seed,
            index=index,
        )
    return Collector(
        make_policy(config, layout),
        family.dynamics,
        layout,
        horizon=family.horizon,
        config=config.collector,
        seed=config.run.seed,
        index=index,
    )
