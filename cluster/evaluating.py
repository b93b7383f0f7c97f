"""Evaluation beside training: asked for, waited for by nobody, and done again if its actor dies."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from causeway.actors.summary import Summary
from causeway.cluster.recorder import Recorder

MAX_WAITING = 2  # beyond it, an evaluation in the middle of a stage is left out
MAX_FAILURES = 3  # in a row
HANG_S = 1_800.0  # an evaluation that takes longer has hung: its actor is killed


class EvaluationError(RuntimeError):
    """Evaluators that fail again and again, so that retrying is pointless."""


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
        self._made = 0
        self._failures = 0  # in a row
        self._evaluator = self._make()
        self._pending: dict[Any, _Pending] = {}
        self._deadline = 0.0  # of the oldest one, on the monotonic clock
        self.skipped = 0

    @property
    def num_pending(self) -> int:
        """How many evaluations are asked for and not done."""
        return len(self._pending)

    @property
    def replaced(self) -> int:
        """How many evaluators were lost."""
        return self._made - 1

    def start(self, published: Any, stage: str, *, is_last: bool) -> None:
        """Asks for an evaluation of published weights; the last of a stage is never left out."""
        if len(self._pending) >= MAX_WAITING and not is_last:
            self.skipped += 1
            return
        self._send(_Pending(published, stage, is_last))

    def settle(self) -> None:
        """Keeps what has been done since the last call.

        Raises:
            EvaluationError: evaluators die again and again.
        """
        if not self._pending:
            return
        ready, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        for reference in ready:
            try:
                report = ray.get(reference)
            except RayActorError as error:
                self._replace(str(error))
                return
            pending = self._pending.pop(reference)
            self._deadline, self._failures = time.monotonic() + HANG_S, 0
            self._recorder.evaluated(report, pending.stage, is_last=pending.is_last)
        if self._pending and time.monotonic() > self._deadline:
            self._replace(f"no answer in {HANG_S:g} s")

    def wait(self, timeout_s: float) -> None:
        """Waits for what is asked for, at most so long."""
        deadline = time.monotonic() + timeout_s
        while self._pending and time.monotonic() < deadline:
            self.settle()
            time.sleep(0.01)

    def references(self) -> dict[str, Summary | None]:
        """What random actions and what knowing the task would earn."""
        while True:
            try:
                found: dict[str, Summary | None] = ray.get(
                    self._evaluator.references.remote(), timeout=HANG_S
                )
                return found
            except (RayActorError, GetTimeoutError) as error:
                self._replace(str(error))

    def close(self) -> None:
        """Ends the evaluator."""
        ray.kill(self._evaluator)

    def _make(self) -> Any:
        self._made += 1
        return self._make_evaluator(self._made)

    def _send(self, pending: _Pending) -> None:
        if not self._pending:
            self._deadline = time.monotonic() + HANG_S
        self._pending[self._evaluator.evaluate_published.remote(pending.published)] = pending

    def _replace(self, cause: str) -> None:
        """Makes another evaluator and asks it all that is open."""
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise EvaluationError(f"{self._failures} evaluators were lost in a row: {cause}")
        self._recorder.note("the evaluator was lost; another takes its place")
        ray.kill(self._evaluator)  # one that hangs still lives
        self._evaluator = self._make()
        waiting = list(self._pending.values())
        self._pending.clear()
        for pending in waiting:
            self._send(pending)
