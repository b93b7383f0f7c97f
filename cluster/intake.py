"""The way of a rollout in a distributed run: assigned, gathered, committed, labelled, taken in.

    assign -> collect -> staleness -> ledger -> label -> append
              (pool)     (here)       (Redis)   (learner) (stream)

Every step hands references on. What is given up is counted, by reason; what the ledger holds is
taken in exactly once.
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from causeway.actors.collector import Rollout
from causeway.cluster.config import RunConfig
from causeway.cluster.full_disk import is_full_disk
from causeway.cluster.ledger import CommitResult, Ledger, ShardRecord
from causeway.cluster.pool import Call, Done
from causeway.cluster.wiring import Parts
from causeway.datasets.shards import read_part, read_shard

MAX_ATTEMPTS = 3  # at taking a committed rollout in
FULL_DISK_S = 5.0  # after which room for it is looked for again
REFUSED = (CommitResult.FENCED, CommitResult.CONFLICT, CommitResult.REFUSED)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A committed rollout on its way into the buffers."""

    record: ShardRecord
    attempt: int
    labelled: bool  # True: being appended


class Intake:
    """Assigns collections and takes their rollouts in.

    Args:
        config: of the run.
        parts: the actors.
        ledger: of the run.
        folder: the run's own.
        epoch: of this start in the ledger.
        next_sequence: the number of the next collection.
        taken: the numbers of those whose rollouts the stream holds already.
        tasks: that the stream has; what was gathered in others is of no use.

    Raises:
        RedisAwayError: what the ledger holds cannot be read.
    """

    def __init__(
        self,
        config: RunConfig,
        parts: Parts,
        ledger: Ledger,
        folder: Path,
        *,
        epoch: int,
        next_sequence: int,
        taken: set[int],
        tasks: Container[int],
    ) -> None:
        self._config, self._parts, self._ledger, self._folder = config, parts, ledger, folder
        self._epoch = epoch
        self._taken = taken
        self._assigned_steps: dict[int, int] = {}  # by collection in flight, an estimate
        self._pending: dict[Any, _Pending] = {}  # by the reference of what is under way
        self._put_off: list[tuple[float, _Pending]] = []  # until then; by a full disk
        self._staleness: deque[int] = deque(maxlen=50)
        self.dropped: Counter[str] = Counter()
        records, _ = ledger.records(None)
        # Committed since the checkpoint, by the start before this one.
        self._missing = [r for r in records if int(r.shard_id) not in taken and r.task_id in tasks]
        self.next_sequence = max([next_sequence, *(int(r.shard_id) + 1 for r in records)])
        self.committed = len(records)

    @property
    def env_steps_in_flight(self) -> int:
        """About how many steps are assigned, gathered or on their way in, but not counted yet."""
        pending = [*self._pending.values(), *(later for _, later in self._put_off)]
        on_the_way = sum(each.record.rows for each in pending)
        return sum(self._assigned_steps.values()) + on_the_way

    @property
    def num_pending(self) -> int:
        """How many rollouts are on their way in."""
        return len(self._pending) + len(self._put_off)

    @property
    def staleness(self) -> float | None:
        """Updates between the weights that acted and the newest, mean over the last rollouts."""
        return sum(self._staleness) / len(self._staleness) if self._staleness else None

    def start(self, handle: Any) -> Call:
        """Sends a collector its next collections."""
        sequence, count = self.next_sequence, self._config.collection.tasks_at_once
        self.next_sequence += count
        collector = self._config.collector
        steps = collector.prior_env_steps + collector.posterior_env_steps
        self._assigned_steps[sequence] = count * steps
        assignments = self._parts.stream.assign.remote(sequence, count)
        *payloads, metadata = handle.collect.options(num_returns=count + 1).remote(assignments)
        return Call(payloads, metadata, tag=sequence)

    def give_up(self, sequence: int | None, reason: str) -> None:
        """Notes collections that failed with their collector."""
        if sequence is not None:
            self._assigned_steps.pop(sequence, None)
            self.dropped[reason] += self._config.collection.tasks_at_once

    def take(self, done: Done, updates: int) -> None:
        """Commits gathered rollouts and sends them on their way, unless stale or refused."""
        self._assigned_steps.pop(done.tag, None)
        for payload, record in zip(done.payload, done.metadata, strict=True):
            self._take_one(payload, record, updates)

    def _take_one(self, payload: Any, record: ShardRecord, updates: int) -> None:
        staleness = updates - record.version
        if record.generation != self._epoch or staleness > self._config.collection.max_staleness:
            self._drop(record, "stale")
            return
        self._staleness.append(max(staleness, 0))
        answer = self._ledger.commit(record)
        if answer in REFUSED:
            self._drop(record, answer.value)
        elif int(record.shard_id) not in self._taken:
            self.committed += 1
            self._send(record, payload, attempt=1)

    def settle(self) -> list[ShardRecord]:
        """The rollouts that have arrived in the buffers since the last call.

        Raises:
            RayError: one could not be taken in after several attempts.
        """
        self._take_up()
        if not self._pending:
            return []
        references = list(self._pending)
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        moved = [self._advance(reference, self._pending.pop(reference)) for reference in ready]
        return [record for record in moved if record is not None]

    def _advance(self, reference: Any, pending: _Pending) -> ShardRecord | None:
        """Sends a labelled rollout on to the stream; gives the record of one that has arrived.

        It is sent only now, and not together with its label: an actor runs its calls in order, so
        the stream would stand still behind an append that waits for the learner.
        """
        try:
            if pending.labelled:
                ray.get(reference)
                return pending.record
            append = self._parts.stream.append.remote(reference)
            self._pending[append] = replace(pending, labelled=True)
        except RayError as error:
            if is_full_disk(getattr(error, "cause", None)):
                self._put_off.append((time.monotonic() + FULL_DISK_S, pending))
                return None
            if pending.attempt >= MAX_ATTEMPTS:
                raise
            self._send(pending.record, None, attempt=pending.attempt + 1)
        return None

    def _take_up(self) -> None:
        """Sends on what a full disk has put off, once its time has come."""
        due = [each for at, each in self._put_off if at <= time.monotonic()]
        self._put_off = [(at, each) for at, each in self._put_off if each not in due]
        for pending in due:
            self._send(pending.record, None, attempt=pending.attempt)

    def recover(self) -> int:
        """Sends on what the ledger held at the start and the stream did not; gives how many.

        Called once a stage collects: a run that fell back far is in a stage before that, which
        is not to see what was collected behind it.
        """
        missing, self._missing = self._missing, []
        for record in missing:
            self._send(record, None, attempt=1)
        return len(missing)

    def abandon(self, done: Done) -> None:
        """Gives up rollouts that arrive when the run has ended."""
        self._assigned_steps.pop(done.tag, None)
        for record in done.metadata:
            self._drop(record, "abandoned")

    def _send(self, record: ShardRecord, payload: Any, *, attempt: int) -> None:
        """Labels and appends a rollout; without a payload, from its file."""
        sequence = int(record.shard_id)
        self._taken.add(sequence)
        if payload is None:
            payload = ray.put(self._read(record))
        stream, learner = self._parts.stream, self._parts.learner
        contexts = stream.labelling_contexts.remote(record.task_id, sequence, record.episodes)
        labelled = learner.label.remote(payload, contexts)
        self._pending[labelled] = _Pending(record, attempt, labelled=False)

    def _read(self, record: ShardRecord) -> Rollout:
        path = self._folder / record.path
        # What an oracle gathered has its rewards in the file: nothing could label it anew.
        read = read_part if self._config.collection.true_rewards else read_shard
        return Rollout(
            task_id=record.task_id,
            trajectories=list(read(path, record.sha256, self._parts.layout)),
            version=(record.generation, record.version),
            collector=record.collector,
            sequence=int(record.shard_id),
        )

    def _drop(self, record: ShardRecord, reason: str) -> None:
        """Counts a rollout that is given up; its file is not in the ledger, so it is garbage."""
        self.dropped[reason] += 1
        with contextlib.suppress(OSError):
            (self._folder / record.path).unlink()
