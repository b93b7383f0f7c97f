"""The components as Ray actors: each a thin class around one that knows no Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from causeway.actors.collector import Assignment, Rollout
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import load_checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.evaluation import EvaluationReport, EvaluationService
from causeway.cluster.labelling import rewarded_rollout
from causeway.cluster.learner import (
    BlockReport,
    LearnerService,
    make_collector,
    write_checkpoint,
)
from causeway.cluster.learner_group import LOOPBACK, LearnerGroup, Membership, meeting_point
from causeway.cluster.ledger import ShardRecord
from causeway.cluster.naming import SHARDS_NAME
from causeway.cluster.streams import TaskStream
from causeway.cluster.weights import (
    FlatWeights,
    StoreHandle,
    WeightPublisher,
    WeightReader,
    decode,
    encode,
)
from causeway.datasets.batches import MetaBlock, RowLayout
from causeway.datasets.shards import ShardFile, write_part, write_shard

PULL_TIMEOUT_S = 30.0

Published = tuple[int, list[Any]]  # updates, and a list of one reference to the weights
Snapshot = tuple[FlatWeights, dict[str, Any]]  # a trainer's state


class StreamActor(TaskStream):
    """A task stream that begins where a checkpoint's stream stood."""

    def __init__(self, config: RunConfig, folder: Path, state: dict[str, Any] | None) -> None:
        torch.set_num_threads(1)
        family = load_family(config.data.family)
        super().__init__(config, find_split(family, config.data.split).train, folder)
        if state is not None:
            self.load_state(state)


class LearnerActor(LearnerService):
    """The learner service that publishes its weights under this start's generation."""

    def __init__(
        self,
        config: RunConfig,
        layout: RowLayout,
        store: StoreHandle,
        generation: int,
        checkpoint: Path | None,
    ) -> None:
        super().__init__(config, layout)
        self._publisher = WeightPublisher(store)
        self._generation = generation
        self._published = -1
        self._membership: Membership | None = None
        if checkpoint is not None:
            self.load(load_checkpoint(checkpoint))

    def meeting_point(self, *, is_local: bool) -> str:
        """Where learners of the run are to meet this one, the first of them."""
        host = LOOPBACK if is_local else ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return meeting_point(host)

    def join(self, membership: Membership) -> None:
        """Makes this one of several learners, which draw apart from one another.

        Raises:
            PeerLostError: the others have not come in time.
        """
        self._membership = membership
        self._group = LearnerGroup(membership, self._trainer.device)
        self._trainer.mean_gradients = self._group.mean_gradients
        if membership.rank > 0:
            state = [self._config.run.seed, self._trainer.updates, membership.rank]
            seed = int(np.random.SeedSequence(state).generate_state(1, np.uint64)[0] >> 1)
            self._trainer.generator.manual_seed(seed)

    def run_block(self, block: MetaBlock) -> BlockReport:
        """A block's updates on this learner's tasks; the first publishes when it is time."""
        if self._membership is not None:
            report = super().run_block(self._membership.part_of(block))
            report = replace(report, means=self._group.mean_of(report.means))
            return report if self._membership.rank > 0 else self._published_with(report)
        return self._published_with(super().run_block(block))

    def _published_with(self, report: BlockReport) -> BlockReport:
        if report.updates - self._published >= self._config.collection.publish_every:
            self.publish()
        return report

    def snapshot(self) -> Snapshot:
        """All that a checkpoint needs of the learner, copied; it is written elsewhere."""
        tensors, values = self._trainer.state()
        return encode(tensors), values

    def publish(self) -> Published:
        """Publishes the weights; gives the updates and where the weights are."""
        updates, weights = self.weights()
        self._publisher.publish(self._generation, updates, weights)
        self._published = updates
        return updates, self._publisher.reference

    def refresh(self) -> None:
        """Tells the weight store again what was published last, in case it has been restarted."""
        self._publisher.refresh()


class CheckpointWriter:
    """Writes checkpoints one after the other, so that the learner trains on meanwhile."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config, self._folder = config, folder

    def __repr__(self) -> str:
        return f"CheckpointWriter {self._config.name}"

    def write(self, snapshot: Snapshot, position: dict[str, Any], stream: dict[str, Any]) -> Path:
        """Writes a checkpoint; gives its folder."""
        weights, values = snapshot
        run_state = {"position": position, "stream": stream}
        return write_checkpoint(self._config, self._folder, decode(weights), values, run_state)


class CollectorActor:
    """A collector that pulls weights before each collection and writes what it gathered.

    It is given no task parameter that tells a reward: neither goals nor the family, whose dynamics
    are a function that does not hold it. Only an oracle's, which a run has to ask for, is.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: RowLayout,
        store: StoreHandle,
        folder: Path,
        epoch: int,
        index: int,
    ) -> None:
        torch.set_num_threads(1)
        self._index, self._epoch, self._folder = index, epoch, folder
        self._true_rewards = config.collection.true_rewards
        self._reader = WeightReader(store, PULL_TIMEOUT_S)
        self._label = f"Collector[{index}] {config.data.family}"
        self._collector = make_collector(config, layout, index)

    def __repr__(self) -> str:
        return self._label

    def collect(
        self, assignments: list[Assignment]
    ) -> tuple[*tuple[Rollout, ...], list[ShardRecord]]:
        """The assignments' rollouts and, last, what the ledger is to know of their files."""
        weights = self._reader.pull()
        if weights is not None:
            self._collector.set_weights(weights, self._reader.key)
        rollouts = self._collector.collect(assignments)
        return (*rollouts, [self._written(rollout) for rollout in rollouts])

    def _written(self, rollout: Rollout) -> ShardRecord:
        """Writes a rollout's file."""
        path = f"{SHARDS_NAME}/{rollout.sequence:08d}-{self._epoch}.parquet"
        shard = self._write(self._folder / path, rollout)
        generation, version = rollout.version
        return ShardRecord(
            shard_id=f"{rollout.sequence:08d}",
            path=path,
            sha256=shard.sha256,
            task_id=rollout.task_id,
            rows=shard.rows,
            episodes=len(rollout.trajectories),
            num_bytes=shard.bytes,
            collector=self._index,
            generation=generation,
            version=version,
            epoch=self._epoch,
        )

    def _write(self, path: Path, rollout: Rollout) -> ShardFile:
        """The rollout's file, which holds rewards only where an oracle gathered them."""
        if self._true_rewards:
            return write_part(path, rewarded_rollout(rollout).episodes, rollout.task_id, None)
        return write_shard(path, rollout.trajectories, rollout.task_id)


class EvaluatorActor(EvaluationService):
    """The evaluation service, given weights by reference."""

    def evaluate_published(self, published: Published) -> EvaluationReport:
        """The returns of weights that the learner has published."""
        updates, (reference,) = published
        weights: Any = ray.get(reference)
        return self.evaluate(updates, decode(weights))
