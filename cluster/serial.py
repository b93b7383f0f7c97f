"""A whole run in one process, without Ray: the same components, called one after the other.

It is what tests and debuggers want: bit-for-bit reproducible from the seed, and a resumed run is
the run that was interrupted. `dispatch.py` is its counterpart for a cluster.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.evaluation import EvaluationService
from causeway.cluster.learner import LearnerService, make_collector
from causeway.cluster.recorder import Recorder
from causeway.cluster.schedule import Position, Schedule
from causeway.cluster.streams import TaskStream, open_data
from causeway.learners.registry import load_algorithm


class SerialRun:
    """One run, advanced block by block.

    Args:
        config: of the run.
        folder: the run's own.
        recorder: keeps what is found out.
        checkpoint: where to go on from; None begins.
    """

    def __init__(
        self, config: RunConfig, folder: Path, recorder: Recorder, checkpoint: Checkpoint | None
    ) -> None:
        family = load_family(config.data.family)
        layout = open_data(config).layout
        self._config, self._folder, self._recorder = config, folder, recorder
        self._stream = TaskStream(config, find_split(family, config.data.split).train, folder)
        self._learner = LearnerService(config, layout)
        self._evaluator = EvaluationService(config)
        self._collector = make_collector(config, layout, 0)
        position = Position()
        if checkpoint is not None:
            position = Position(**checkpoint.state["run"]["position"])
            self._stream.load_state(checkpoint.state["run"]["stream"])
            for error in self._stream.lost.values():  # nothing here could label its shard anew
                self._stream.close()
                raise error
            self._learner.load(checkpoint)
        recorder.rewind(position)
        stages = load_algorithm(config.run.algorithm).STAGES
        self.schedule = Schedule(stages, config.schedule, config.collection, position)
        torch.set_num_threads(config.trainer.threads)  # the evaluator has set its own
        self._enter_stage()
        if not self.finished and recorder.lacks_start(position):
            start = self._evaluator.evaluate(*self._learner.weights())
            recorder.evaluated(start, self.schedule.stage.name, is_last=False)

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self.schedule.finished

    def step(self) -> None:
        """One block of updates, what must be collected before it, and what is due after it."""
        schedule = self.schedule
        position, stage = schedule.position, schedule.stage
        size = schedule.block_after(position.stage_updates)
        if stage.collects:
            self._collect(schedule.env_steps_allowed(position.stage_updates))
        block, _ = self._stream.sample_block(size, with_state=False)
        report = self._learner.run_block(block)
        before = position.stage_updates
        schedule.advance(size)
        share = self._stream.share()
        figures = {"online_share": share.online_share, "data_coverage": share.data_coverage}
        self._recorder.block(report, schedule, figures)
        is_end = position.stage_updates >= schedule.stage_total
        if schedule.is_evaluation_due(before, position.stage_updates):
            evaluation = self._evaluator.evaluate(*self._learner.weights())
            self._recorder.evaluated(evaluation, stage.name, is_last=is_end)
        is_due = schedule.is_checkpoint_due(before, position.stage_updates)
        if is_end:
            schedule.next_stage()
            self._enter_stage()
        if is_due:
            self.save()

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Steps until the end or until asked to stop, which writes a checkpoint.

        Returns:
            Whether the run is finished.
        """
        while not self.finished:
            if should_stop():
                self.save()
                return False
            self.step()
        self.results()
        return True

    def results(self) -> dict[str, Any]:
        """Writes and gives the results."""
        rows = self._stream.share().online_rows
        return self._recorder.finish(self.schedule, self._evaluator.references(), rows)

    def save(self) -> Path:
        """Writes a checkpoint."""
        state = {"position": self.schedule.position.to_json(), "stream": self._stream.state()}
        return self._learner.save(self._folder, state)

    def close(self) -> None:
        """Lets go of the files."""
        self._stream.close()

    def _enter_stage(self) -> None:
        """Enters the schedule's stage, past those that have no updates."""
        while not self.finished and self.schedule.stage_total == 0:
            self.schedule.next_stage()
        if not self.finished:
            self._learner.enter(self.schedule.stage.name)
            self._recorder.stage_begun(self.schedule)

    def _collect(self, allowed_env_steps: float) -> None:
        """Collects, labels and takes in until the stage has its share of environment steps."""
        position = self.schedule.position
        if position.stage_env_steps >= allowed_env_steps:
            return
        at_once = self._config.collection.tasks_at_once
        updates, weights = self._learner.weights()
        self._collector.set_weights(weights, (0, updates))
        while position.stage_env_steps < allowed_env_steps:
            assignments = self._stream.assign(position.next_sequence, at_once)
            for rollout in self._collector.collect(assignments):
                contexts = self._stream.labelling_contexts(
                    rollout.task_id, rollout.sequence, len(rollout.trajectories)
                )
                self._stream.append(self._learner.label(rollout, contexts))
                self.schedule.take_in(rollout.env_steps)
            position.next_sequence += at_once
