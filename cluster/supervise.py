"""A distributed run that outlives its learner and its task stream.

Where one of them is lost, or hangs, the run is closed and begun again from its last checkpoint,
under a new epoch: weights and shards of before cannot be taken for its own. Collectors and the
evaluator heal by themselves and are no business of this module.
"""

import time
from collections.abc import Callable
from pathlib import Path

from causeway.cluster.checkpoint import Checkpoint, has_checkpoints, load_latest
from causeway.cluster.config import RunConfig
from causeway.cluster.dispatch import DistributedRun
from causeway.cluster.recorder import Recorder
from causeway.cluster.redis_link import RedisAwayError
from causeway.cluster.run_error import LostError
from causeway.cluster.services import RunServices

REDIS_S = 120.0  # that a run which has lost its learner waits for its Redis too
POLL_S = 0.5


class SupervisedRun:
    """A `DistributedRun` that is begun again from its last checkpoint where it lost an actor.

    Args:
        config: of the run; `schedule.recoveries` says how often in a row without a new checkpoint.
        folder: the run's own.
        recorder: keeps what is found out.
        services: the run's control plane and ledger.
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
        self._config, self._folder = config, folder
        self._recorder, self._services = recorder, services
        self._begun_at = _updates(checkpoint)
        self._in_a_row = 0
        self.recovered_after_s: list[float] = []  # from each loss to the run at work again
        self.current = DistributedRun(config, folder, recorder, services, checkpoint)

    def step(self) -> None:
        """One round; a loss in it is made good.

        Raises:
            RunError: of another cause than a lost actor, or losses again and again.
        """
        try:
            self.current.step()
        except LostError as error:
            self._recover(error)

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Steps until the end, or until asked to stop, as `DistributedRun.run` does."""
        while True:
            try:
                return self.current.run(should_stop)
            except LostError as error:
                self._recover(error)

    def close(self) -> None:
        """Ends the run's actors."""
        self.current.close()

    def _recover(self, loss: LostError) -> None:
        """Begins again from the last checkpoint, as often as is allowed without a newer one."""
        begun = time.monotonic()
        self.current.close()
        while True:
            checkpoint = load_latest(self._folder)[0] if has_checkpoints(self._folder) else None
            self._in_a_row = self._in_a_row + 1 if _updates(checkpoint) == self._begun_at else 1
            if self._in_a_row > self._config.schedule.recoveries:
                raise loss
            self._begun_at = _updates(checkpoint)
            self._await_ledger(loss)
            self._recorder.note(f"{loss.cause}; begun again from update {self._begun_at}")
            self._services.control.event("recovered", updates=self._begun_at, cause=loss.cause)
            try:
                self.current = DistributedRun(
                    self._config, self._folder, self._recorder, self._services, checkpoint
                )
            except LostError as error:
                loss = error
            else:
                self.recovered_after_s.append(time.monotonic() - begun)
                return

    def _await_ledger(self, loss: LostError) -> None:
        """Waits for Redis, without which no epoch can be opened."""
        deadline = time.monotonic() + REDIS_S
        while True:
            self._services.keep_up()
            try:
                self._services.ledger.epoch()
                return
            except RedisAwayError:
                if time.monotonic() > deadline:
                    raise loss from None
                time.sleep(POLL_S)


def _updates(checkpoint: Checkpoint | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.state["run"]["position"]["updates"])
