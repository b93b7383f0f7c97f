"""Where a run stands: its stages, how far each is, and what is due next."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import CollectionSection, ScheduleSection
from causeway.learners.algorithm import Stage


@dataclass(kw_only=True)
class Position:
    """What has been done so far; all of it goes into a checkpoint."""

    stage_index: int = 0
    stage_updates: int = 0  # in this stage
    updates: int = 0  # in all stages
    env_steps: int = 0  # of rollouts that were taken in
    stage_env_steps: int = 0  # of these, in this stage
    next_sequence: int = 0  # of the next collection

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def position_of(checkpoint: Checkpoint | None) -> tuple[Position, set[int]]:
    """Where a run goes on, and the collections whose rollouts its stream holds by then."""
    if checkpoint is None:
        return Position(), set()
    state = checkpoint.state["run"]
    position = Position(**state["position"])
    online = state["stream"]["online"]
    # The driver may have counted rollouts that the stream took in just behind the checkpoint.
    uncounted = position.env_steps - sum(entry["rows"] for entry in online)
    position.env_steps -= uncounted
    position.stage_env_steps -= min(uncounted, position.stage_env_steps)
    return position, {entry["sequence"] for entry in online}


class Schedule:
    """The stages in their order, cut into blocks of updates."""

    def __init__(
        self,
        stages: Sequence[Stage],
        config: ScheduleSection,
        collection: CollectionSection,
        position: Position,
    ) -> None:
        self._stages = list(stages)
        self._config = config
        self._collection = collection
        self.position = position

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self.position.stage_index >= len(self._stages)

    @property
    def stage(self) -> Stage:
        """The stage that the run is in."""
        return self._stages[self.position.stage_index]

    @property
    def will_collect(self) -> bool:
        """Whether this stage or a later one collects."""
        return any(stage.collects for stage in self._stages[self.position.stage_index :])

    @property
    def stage_total(self) -> int:
        """The updates of this stage."""
        return self._config.updates[self.stage.name]

    @property
    def ended_stage(self) -> Stage | None:
        """The stage that ends exactly here, with its last update; None between two ends."""
        position = self.position
        if not self.finished and position.stage_updates > 0:
            return self.stage if position.stage_updates >= self.stage_total else None
        done = self._stages[: position.stage_index]
        return next((s for s in reversed(done) if self._config.updates[s.name] > 0), None)

    def block_after(self, dispatched: int) -> int:
        """The size of the block that follows so many updates of this stage; 0 at its end."""
        return min(self._config.updates_per_block, self.stage_total - dispatched)

    def is_evaluation_due(self, before: int, after: int) -> bool:
        """Whether a mark of `evaluate_every` lies in (before, after], or the stage ends there."""
        return _crosses(before, after, self._config.evaluate_every) or after >= self.stage_total

    def is_checkpoint_due(self, before: int, after: int) -> bool:
        """Whether a mark of `checkpoint_every` lies in (before, after], or the stage ends there."""
        return _crosses(before, after, self._config.checkpoint_every) or after >= self.stage_total

    def env_steps_allowed(self, stage_updates: int) -> float:
        """How many environment steps collectors may have gathered by that update of the stage."""
        if not self.stage.collects:
            return 0.0
        steps = stage_updates * self._collection.env_steps_per_update
        return self._collection.warmup_env_steps + steps

    def advance(self, updates: int) -> None:
        """Notes a finished block."""
        self.position.stage_updates += updates
        self.position.updates += updates

    def take_in(self, env_steps: int) -> None:
        """Notes a rollout that was taken into the buffers."""
        self.position.env_steps += env_steps
        self.position.stage_env_steps += env_steps

    def take_out(self, env_steps: int) -> None:
        """Notes a rollout that is no longer in the buffers and will be taken in once more."""
        self.position.env_steps -= env_steps
        self.position.stage_env_steps -= min(env_steps, self.position.stage_env_steps)

    def next_stage(self) -> None:
        """Goes over to the next stage."""
        self.position.stage_index += 1
        self.position.stage_updates = 0
        self.position.stage_env_steps = 0


def _crosses(before: int, after: int, every: int) -> bool:
    return after // every > before // every
