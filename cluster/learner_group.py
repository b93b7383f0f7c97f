"""Several learners as one: each takes its part of the tasks, and all step on the mean gradient.

Every learner is sent every block and cuts its own tasks out of each meta-batch. After the backward
pass one flat gradient is summed over all and divided by their number, so losses may be of second
order and need not use every parameter, which a wrapper around a module's forward does not allow.
For losses that are means over tasks this is one learner on the whole meta-batch, up to rounding and
to the draws, of which each learner makes its own. A loss that compares tasks with one another sees
those of its own part.
"""

import dataclasses
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from causeway.cluster.run_error import PeerLostError
from causeway.datasets.batches import MetaBlock
from causeway.learners.trainer import BlockMeans

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A learner's place among those of a run."""

    rank: int
    size: int
    meeting_point: str  # host:port, where the first of them listens
    timeout_s: float  # for the others

    def part_of(self, block: MetaBlock) -> MetaBlock:
        """The block with this learner's tasks alone."""
        num_tasks = block.task.shape[1]
        step = num_tasks // self.size
        mine = slice(self.rank * step, (self.rank + 1) * step)
        return MetaBlock(
            **{f.name: getattr(block, f.name)[:, mine] for f in dataclasses.fields(MetaBlock)}
        )


class LearnerGroup:
    """One learner's line to the others of its run.

    Args:
        membership: its place; the call returns once all have made it.
        device: on which this one trains; all of a run train on one kind.

    Raises:
        PeerLostError: not all of them have come in time.
    """

    def __init__(self, membership: Membership, device: torch.device) -> None:
        self._membership, self._device = membership, device
        if membership.meeting_point.startswith(LOOPBACK):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # listen nowhere else
        try:
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                init_method=f"tcp://{membership.meeting_point}",
                rank=membership.rank,
                world_size=membership.size,
                timeout=timedelta(seconds=membership.timeout_s),
            )
        except RuntimeError as error:
            raise PeerLostError(f"the learners have not found one another: {error}") from error

    def mean_gradients(self, gradients: list[Tensor]) -> None:
        """Replaces each gradient by its mean over the learners.

        Raises:
            PeerLostError: one of them does not answer.
        """
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self._mean(flat)
        start = 0
        for gradient in gradients:
            part = flat[start : start + gradient.numel()]
            gradient.copy_(part.view_as(gradient))
            start += gradient.numel()

    def mean_of(self, means: BlockMeans) -> BlockMeans:
        """What all learners minimised and watched together.

        Raises:
            PeerLostError: one of them does not answer.
        """
        names = [*means.losses, *means.watched]
        values = torch.tensor(
            [*means.losses.values(), *means.watched.values()], device=self._device
        )
        self._mean(values)
        found = dict(zip(names, values.tolist(), strict=True))
        return BlockMeans(
            losses={name: found[name] for name in means.losses},
            watched={name: found[name] for name in means.watched},
        )

    def _mean(self, values: Tensor) -> None:
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise PeerLostError(f"a learner of the group was lost: {error}") from error
        values /= self._membership.size


def meeting_point(host: str) -> str:
    """A free port of that host, which must be this one, for the learners to meet at."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: Any = probe.getsockname()[1]
    return f"{host}:{port}"
