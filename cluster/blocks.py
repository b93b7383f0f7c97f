"""Blocks of updates on their way: drawn by the stream, queued at the learner, noted in order."""

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError

from causeway.cluster.learner import BlockReport
from causeway.cluster.run_error import HungError
from causeway.cluster.schedule import Position
from causeway.cluster.streams import StreamShare
from causeway.cluster.wiring import Parts


@dataclass(frozen=True, slots=True)
class _Queued:
    """A block in the learner's queue: references, but for its size."""

    report: Any  # to its BlockReport
    share: Any  # to the stream's share
    published: Any  # to its weights where an evaluation is due, else None
    saved: Any  # to the checkpoint behind it where one is due, else None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBlock:
    """A block that is done, and what was queued behind it."""

    size: int
    report: BlockReport
    share: StreamShare
    published: Any  # reference to its weights where an evaluation is due, else None
    not_saved: str | None  # why there is no checkpoint behind it although one was due


class BlockQueue:
    """The blocks that the learner has been given and that are not noted yet.

    Args:
        parts: the actors.
        folder: the run's own.
        timeout_s: what one block and the checkpoint behind it may take; beyond it, it hangs.
    """

    def __init__(self, parts: Parts, folder: Path, timeout_s: float) -> None:
        self._parts, self._folder, self._timeout_s = parts, folder, timeout_s
        self._blocks: deque[_Queued] = deque()
        self._since = 0.0  # on the monotonic clock: from when on the oldest block is waited for

    def __len__(self) -> int:
        return len(self._blocks)

    def send(self, size: int, *, is_evaluated: bool, position: Position | None) -> None:
        """Queues a block of that many updates.

        Args:
            size: updates.
            is_evaluated: whether its weights are to be evaluated.
            position: of the run behind it, for a checkpoint there; None where none is due.
        """
        stream, learner = self._parts.stream, self._parts.learner
        draw = stream.sample_block.options(num_returns=2)
        block, stream_state = draw.remote(size, with_state=position is not None)
        report, saved = learner.run_block.remote(block), None
        for peer in self._parts.peers:
            peer.run_block.remote(block)  # what it does is told by the first learner
        if position is not None:
            snapshot = learner.snapshot.remote()
            saved = self._parts.writer.write.remote(snapshot, position.to_json(), stream_state)
        if not self._blocks:
            self._since = time.monotonic()
        self._blocks.append(
            _Queued(
                report=report,
                share=stream.share.remote(),
                published=learner.publish.remote() if is_evaluated else None,
                saved=saved,
                size=size,
            )
        )

    def take(self, timeout_s: float) -> FinishedBlock | None:
        """The oldest block if it is done, or is within the time; None otherwise.

        Raises:
            HungError: it should have been done long ago.
        """
        if not self._blocks:
            return None
        block = self._blocks[0]
        references = [r for r in (block.report, block.share, block.saved) if r is not None]
        ready, _ = ray.wait(references, num_returns=len(references), timeout=timeout_s)
        if len(ready) < len(references):
            self._check_time()
            return None
        report, share = ray.get([block.report, block.share])
        not_saved = _fault_of(block.saved)
        self._blocks.popleft()
        self._since = time.monotonic()
        return FinishedBlock(
            size=block.size,
            report=report,
            share=share,
            published=block.published,
            not_saved=not_saved,
        )

    def _check_time(self) -> None:
        waited_s = time.monotonic() - self._since
        if waited_s > self._timeout_s:
            raise HungError(
                f"no block of updates was done in {waited_s:.0f} s, which is more than "
                "schedule.block_timeout_s: the learner or the task stream hangs"
            )


def _fault_of(saved: Any) -> str | None:
    """Why a checkpoint was not written: a place that takes none is no reason to stop training."""
    if saved is None:
        return None
    try:
        ray.get(saved)
    except RayTaskError as error:
        if not isinstance(error.cause, OSError):
            raise
        return str(error.cause)
    return None
