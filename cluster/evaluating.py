"""Evaluation beside training: asked for, waited for by nobody, and done again if its actor dies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from causeway.actors.summary import Summary
from causeway.cluster.recorder import Recorder

MAX_WAITING = 2  # beyond it, an evaluation in the middle of a stage is left out
MAX_ATTEMPTS = 3
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class _Pending:
    """An evaluation that was asked for."""

    published: Any  # reference to the updates and where the weights are
    stage: str
    is_last: bool


class Evaluating:
    """One evaluator actor and what it has been asked."""

    def __init__(self, make_evaluator: Callable[[int], Any], recorder: Recorder) -> None:
        self._make_evaluator = make_evaluator
        self._recorder = recorder
        self._attempts = 1
        self._evaluator = make_evaluator(self._attempts)
        self._pending: dict[Any, _Pending] = {}
        self.skipped = 0

    @property
    def num_pending(self) -> int:
        """How many evaluations are asked for and not done."""
        return len(self._pending)

    def start(self, published: Any, stage: str, *, is_last: bool) -> None:
        """Asks for an evaluation of published weights; the last of a stage is never left out."""
        if len(self._pending) >= MAX_WAITING and not is_last:
            self.skipped += 1
            return
        self._send(_Pending(published, stage, is_last))

    def settle(self) -> None:
        """Keeps what has been done since the last call.

        Raises:
            RayActorError: evaluators die again and again.
        """
        if not self._pending:
            return
        ready, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        for reference in ready:
            if reference not in self._pending:  # sent again, with a new evaluator
                continue
            pending = self._pending[reference]
            try:
                report = ray.get(reference)
            except RayActorError:
                self._replace()
                return
            del self._pending[reference]
            self._recorder.evaluated(report, pending.stage, is_last=pending.is_last)

    def references(self) -> dict[str, Summary | None]:
        """What random actions and what knowing the task would earn."""
        found: dict[str, Summary | None] = ray.get(
            self._evaluator.references.remote(), timeout=TIMEOUT_S
        )
        return found

    def close(self) -> None:
        """Ends the evaluator."""
        ray.kill(self._evaluator)

    def _send(self, pending: _Pending) -> None:
        self._pending[self._evaluator.evaluate_published.remote(pending.published)] = pending

    def _replace(self) -> None:
        """Makes another evaluator and asks it all that is open."""
        if self._attempts >= MAX_ATTEMPTS:
            raise RayActorError(
                error_msg=f"the evaluator died {self._attempts} times; see its log for the cause"
            )
        self._attempts += 1
        self._recorder.note("the evaluator was lost; another takes its place")
        self._evaluator = self._make_evaluator(self._attempts)
        waiting = list(self._pending.values())
        self._pending.clear()
        for pending in waiting:
            self._send(pending)
