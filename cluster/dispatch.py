"""The driver of a distributed run: it moves references between the actors and waits for none.

One thread goes around `step`: obey the control plane, keep the learner's queue filled, give the
collectors work, take in what has arrived, and note what is finished. All mathematics and all data
are in the actors that `wiring.py` has made.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from causeway.cluster.blocks import BlockQueue, FinishedBlock
from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.control import Commands
from causeway.cluster.evaluating import Evaluating
from causeway.cluster.intake import Intake
from causeway.cluster.pool import ActorPool, Call, Done
from causeway.cluster.recorder import Recorder
from causeway.cluster.run_error import explained
from causeway.cluster.schedule import Position, Schedule, position_of
from causeway.cluster.services import RunServices
from causeway.cluster.streams import StreamInfo, StreamShare
from causeway.cluster.wiring import Parts, meet, wire
from causeway.learners.registry import load_algorithm

QUEUED_BLOCKS = 2  # one at work, one ready behind it
POLL_S = 0.05
HEARTBEAT_S = 1.0
CLOSE_S = 5.0
ANSWER_S = 120.0  # what the learner or the stream may take for one call
# Of the last row of metrics, what `causeway status` shows beside the figures of this moment.
TOLD = ("updates_per_s", "env_steps_per_s", "losses", "returns", "label_error", "online_share")
LAST_EVALUATIONS_S = 30.0  # that a run which is asked to stop waits for them


class DistributedRun:
    """One run on Ray, advanced by `step`.

    Args:
        config: of the run.
        folder: the run's own.
        recorder: keeps what is found out.
        services: what people ask of the run, and which rollouts belong to it.
        checkpoint: where to go on from; None begins.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        recorder: Recorder,
        services: RunServices,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._config, self._folder, self._recorder = config, folder.resolve(), recorder
        self.services, self._control = services, services.control
        position, taken = position_of(checkpoint)
        recorder.rewind(position)
        stages = load_algorithm(config.run.algorithm).STAGES
        self.schedule = Schedule(stages, config.schedule, config.collection, position)
        epoch = services.ledger.open_epoch()
        self._control.begin(config.collection.collectors)
        self._commands = self._control.commands()
        self._parts: Parts = wire(config, self._folder, epoch, checkpoint)
        try:
            with explained(self._config.name, self._folder):
                info = self._await_actors()
        except BaseException:
            self._kill_parts()
            raise
        self._quarantined = len(info.faults)
        self._label_anew(info, checkpoint, taken)
        self._intake = Intake(
            config,
            self._parts,
            services.ledger,
            self._folder,
            epoch=epoch,
            next_sequence=position.next_sequence,
            taken=taken,
            tasks=info.tasks,
        )
        self._evaluating = Evaluating(self._parts.make_evaluator, recorder)
        self.pool = ActorPool(self._parts.make_collector, self._start_call, 0, config.pool)
        self._blocks = BlockQueue(self._parts, self._folder, config.schedule.block_timeout_s)
        self._dispatched = position.stage_updates
        self._next_heartbeat = 0.0
        self._refreshed: Any = None  # reference to the learner's answer
        self._evaluate_missed()
        self._enter_stage()
        if not self.finished and recorder.lacks_start(position):
            published = self._parts.learner.publish.remote()
            self._evaluating.start(published, self.schedule.stage.name, is_last=False)

    @property
    def finished(self) -> bool:
        """Whether every stage is done and evaluated."""
        return self.schedule.finished and not self._evaluating.num_pending

    def step(self) -> None:
        """One round; it takes at most about `POLL_S` where nothing happens.

        Raises:
            RunError: the learner or the stream has died, or training has diverged.
            ActorPoolError: collectors fail again and again with one cause.
        """
        with explained(self._config.name, self._folder):
            self._obey()
            self._fill_queue()
            self._poll()
            self._finish_blocks()
            self._take_in()
            self._evaluating.settle()
            self._advance_stage()

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Steps until the end, or until asked to stop, which writes a checkpoint.

        Returns:
            Whether the run is finished.
        """
        with explained(self._config.name, self._folder):
            while not self.finished:
                if should_stop() or self._commands.stop is not None:
                    self._take_in_all()
                    self.save()
                    self._evaluating.wait(LAST_EVALUATIONS_S)
                    self._control.event("stopped", reason=self._commands.stop or "interrupted")
                    return False
                self.step()
            self.finish()
            return True

    def finish(self) -> dict[str, Any]:
        """Ends a run whose stages are done: with a checkpoint, and the results, which it gives."""
        self._take_in_all()
        self.save()
        results = self.results()
        self._control.event("finished", updates=self.schedule.position.updates)
        return results

    def results(self) -> dict[str, Any]:
        """Writes and gives the results."""
        share: StreamShare = self._check(self._parts.stream.share.remote())
        return self._recorder.finish(
            self.schedule, self._evaluating.references(), share.online_rows
        )

    def save(self) -> Path:
        """Lets the learner's queue run empty and writes a checkpoint."""
        while self._blocks:
            if (block := self._blocks.take(timeout_s=1.0)) is not None:
                self._note(block)
        self._take_in()
        position = self.schedule.position
        position.next_sequence = self._intake.next_sequence
        stream_state = self._check(self._parts.stream.state.remote())
        snapshot = self._parts.learner.snapshot.remote()
        writer = self._parts.writer
        path: Path = self._check(writer.write.remote(snapshot, position.to_json(), stream_state))
        if self._commands.checkpoint_due:
            self._control.finish_checkpoint(self._commands)
        self._control.event("checkpoint", updates=position.updates)
        return path

    def close(self) -> None:
        """Ends the collectors after their last call; the other actors end with the session."""
        for event in self.pool.close(CLOSE_S):
            if isinstance(event, Done):
                self._intake.abandon(event)
        self._kill_parts()
        self._evaluating.close()
        self._control.remove("driver")

    def _kill_parts(self) -> None:
        parts = self._parts
        for handle in (parts.stream, parts.learner, *parts.peers, parts.writer, parts.store):
            ray.kill(handle)

    def _check(self, reference: Any) -> Any:
        return ray.get(reference, timeout=ANSWER_S)

    def _label_anew(self, info: StreamInfo, checkpoint: Checkpoint | None, taken: set[int]) -> None:
        """Has the rollouts that the stream could not read again taken in once more."""
        if checkpoint is None:
            return
        for entry in checkpoint.state["run"]["stream"]["online"]:
            sequence = entry["sequence"]
            if sequence in info.lost:
                taken.discard(sequence)
                self.schedule.take_out(entry["rows"])
                self._recorder.note(f"labelled anew: {info.lost[sequence]}")
                self._control.event("labelled anew", sequence=sequence)

    def _await_actors(self) -> StreamInfo:
        """Waits until the data are open, as it is told, and collectors will find weights."""
        info: StreamInfo = self._check(self._parts.stream.info.remote())
        self._check(self._parts.learner.publish.remote())
        if self._parts.peers:
            self._check(meet(self._config, self._parts))
        while self._check(self._parts.store.latest.remote()) is None:
            time.sleep(0.01)
        return info

    def _evaluate_missed(self) -> None:
        """Evaluates a stage that had ended when the run did, but was not evaluated yet."""
        stage = self.schedule.ended_stage
        if stage is not None and not self._recorder.has_evaluation(self.schedule.position.updates):
            published = self._parts.learner.publish.remote()
            self._evaluating.start(published, stage.name, is_last=True)

    def _take_in(self) -> None:
        for record in self._intake.settle():
            self.schedule.take_in(record.rows)

    def _take_in_all(self) -> None:
        """Waits for the rollouts on their way in, so that the buffers hold what the ledger does."""
        deadline = time.monotonic() + ANSWER_S
        while self._intake.num_pending and time.monotonic() < deadline:
            self._take_in()
            time.sleep(0.01)

    def _obey(self) -> None:
        """Reads the commands and says how things are, now and then."""
        if time.monotonic() < self._next_heartbeat:
            return
        self._next_heartbeat = time.monotonic() + HEARTBEAT_S
        self._commands = self._control.commands()
        wanted = self._wanted_collectors(self._commands)
        if wanted != self.pool.size:
            self.pool.resize(wanted)
        if self._commands.checkpoint_due:
            self.save()
        if self.services.keep_up():
            self._control.event("redis restarted")
            self._recorder.note("the run's Redis was lost; it is there again")
        if self._refreshed is None or ray.wait([self._refreshed], timeout=0)[0]:
            if self._refreshed is not None:
                self._check(self._refreshed)
            self._refreshed = self._parts.learner.refresh.remote()
        self._control.heartbeat("driver", self._state())

    def _wanted_collectors(self, commands: Commands) -> int:
        """So many that a stage that collects, now or later, finds them at work."""
        if self.schedule.finished or not self.schedule.will_collect:
            return 0
        asked = commands.collectors
        return self._config.collection.collectors if asked is None else asked

    def _state(self) -> dict[str, Any]:
        schedule, position, row = self.schedule, self.schedule.position, self._recorder.row
        return {
            "run": self._config.name,
            "stage": "finished" if schedule.finished else schedule.stage.name,
            "stage_updates": position.stage_updates,
            "stage_total": 0 if schedule.finished else schedule.stage_total,
            "paused": self._commands.paused,
            **{name: row[name] for name in TOLD if name in row},
            **self.figures(),
        }

    def figures(self) -> dict[str, Any]:
        """What the machinery does: fields of a metrics row."""
        states = self.pool.states()
        figures = {
            "updates": self.schedule.position.updates,
            "env_steps": self.schedule.position.env_steps,
            "collectors": states["idle"] + states["busy"],
            "collectors_wanted": self.pool.size,
            "deaths": self.pool.deaths,
            "restarts": self.pool.restarts,
            "shards_committed": self._intake.committed,
            "shards_dropped": dict(self._intake.dropped),
            "spooled": self.services.ledger.num_spooled,
            "redis_away_s": self.services.ledger.away_s,
            "quarantined": self._quarantined,
            "free_disk_bytes": shutil.disk_usage(self._folder).free,
            "queue_depth": {
                "blocks": len(self._blocks),
                "rollouts": self._intake.num_pending,
                "evaluations": self._evaluating.num_pending,
            },
        }
        if self._intake.staleness is not None:
            figures["staleness"] = self._intake.staleness
        return figures

    def _fill_queue(self) -> None:
        """Keeps the learner's queue at its depth, as far as stage and control plane allow."""
        schedule = self.schedule
        while (
            not schedule.finished
            and not self._commands.paused
            and len(self._blocks) < QUEUED_BLOCKS
            and not self._is_warming_up()
            and (size := schedule.block_after(self._dispatched)) > 0
        ):
            self._dispatch(size)

    def _dispatch(self, size: int) -> None:
        before, after = self._dispatched, self._dispatched + size
        position = None
        if self.schedule.is_checkpoint_due(before, after):
            position = Position(**self.schedule.position.to_json())
            position.updates += after - position.stage_updates
            position.stage_updates = after
            position.next_sequence = self._intake.next_sequence
        is_evaluated = self.schedule.is_evaluation_due(before, after)
        self._blocks.send(size, is_evaluated=is_evaluated, position=position)
        self._dispatched = after

    def _is_warming_up(self) -> bool:
        """Whether the stage waits for its first rollouts, from collectors that it does have."""
        schedule = self.schedule
        return (
            schedule.stage.collects
            and self.pool.size > 0
            and self._dispatched == 0
            and schedule.position.stage_env_steps < self._config.collection.warmup_env_steps
        )

    def _start_call(self, index: int, handle: Any) -> Call | None:
        """Work for an idle collector, unless the stage has its share of environment steps."""
        schedule = self.schedule
        if schedule.finished or not schedule.stage.collects or self._commands.paused:
            return None
        position = schedule.position
        steps = position.stage_env_steps + self._intake.env_steps_in_flight
        if steps >= schedule.env_steps_allowed(position.stage_updates):
            return None
        return self._intake.start(handle)

    def _poll(self) -> None:
        for event in self.pool.poll(POLL_S):
            if isinstance(event, Done):
                self._intake.take(event, self.schedule.position.updates)
                continue
            self._intake.give_up(event.tag, event.kind)
            self._control.event("collector lost", index=event.index, cause=event.kind)
            self._recorder.note(
                f"collector {event.index} was lost ({event.kind}); another takes its place"
            )

    def _finish_blocks(self) -> None:
        """Notes the blocks that are done, in their order."""
        while (block := self._blocks.take(timeout_s=0.0)) is not None:
            self._note(block)

    def _note(self, block: FinishedBlock) -> None:
        schedule = self.schedule
        schedule.advance(block.size)
        figures = {
            **self.figures(),
            "online_share": block.share.online_share,
            "data_coverage": block.share.data_coverage,
        }
        self._recorder.block(block.report, schedule, figures)
        self._recorder.show(
            collectors=figures["collectors"],
            collectors_desired=figures["collectors_wanted"],
            shards_committed=figures["shards_committed"],
            deaths=figures["deaths"],
            online_share=block.share.online_share,
            **({"staleness": figures["staleness"]} if "staleness" in figures else {}),
        )
        if block.not_saved is not None:
            self._control.event("checkpoint failed", cause=block.not_saved)
            self._recorder.note(f"no checkpoint could be written: {block.not_saved}")
        if block.published is not None:
            is_last = schedule.position.stage_updates >= schedule.stage_total
            self._evaluating.start(block.published, schedule.stage.name, is_last=is_last)

    def _advance_stage(self) -> None:
        schedule = self.schedule
        if schedule.finished or self._blocks:
            return
        if schedule.position.stage_updates >= schedule.stage_total:
            self._control.event("stage finished", stage=schedule.stage.name)
            schedule.next_stage()
            self._enter_stage()

    def _enter_stage(self) -> None:
        """Enters the schedule's stage, past those that have no updates."""
        schedule = self.schedule
        while not schedule.finished and schedule.stage_total == 0:
            schedule.next_stage()
        self._dispatched = schedule.position.stage_updates
        if not schedule.finished:
            for learner in (self._parts.learner, *self._parts.peers):
                learner.enter.remote(schedule.stage.name)
            self._recorder.stage_begun(schedule)
            if schedule.stage.collects:
                self._intake.recover()
            self._control.event("stage begun", stage=schedule.stage.name)
