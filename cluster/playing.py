"""Collectors of an online adaptation: they play the turns of held-out tasks, whichever is free.

They are the actors of an elastic pool, as the collectors of a training run are. A turn whose actor
dies is played by another; it gives the same, because a turn carries all that it depends on.
"""

import os
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from torch import Tensor

from causeway.actors.task_players import TaskPlayer, Turn
from causeway.actors.tasks.registry import load_family
from causeway.cluster.config import RunConfig
from causeway.cluster.learner import make_policy
from causeway.cluster.naming import actor_name
from causeway.cluster.pool import ActorPool, Call, Done, actor_options
from causeway.cluster.weights import decode, encode
from causeway.datasets.batches import RowLayout, Trajectory

POLL_S = 1.0


class PlayerActor:
    """A collector that acts on the beliefs it is given. It holds no reward and no goal."""

    def __init__(
        self, config: RunConfig, layout: RowLayout, weights: list[Any], index: int
    ) -> None:
        torch.set_num_threads(1)
        policy = make_policy(config, layout)
        policy.load_state_dict(decode(ray.get(weights[0])))
        family = load_family(config.data.family)
        self._label = f"Collector[{index}] {config.data.family}"
        self._player = TaskPlayer(
            policy, family.dynamics, action_size=family.action_size, horizon=family.horizon
        )

    def __repr__(self) -> str:
        return self._label

    def play(self, turn: Turn) -> tuple[list[Trajectory], int]:
        """The turn's trajectories, and the process that played it."""
        (trajectories,) = self._player.play([turn])
        return trajectories, os.getpid()


class PlayerPool:
    """Plays turns on Ray, which must run.

    Args:
        config: of the run.
        layout: of its rows.
        weights: of its policy.
        size: how many collectors.
    """

    def __init__(
        self, config: RunConfig, layout: RowLayout, weights: Mapping[str, Tensor], size: int
    ) -> None:
        self._config, self._layout = config, layout
        self._weights = [ray.put(encode(weights))]  # in a list, so that Ray does not resolve it
        self._turns: Sequence[Turn] = ()
        self._waiting: deque[int] = deque()  # places of turns that nobody plays
        self.pool = ActorPool(self._make_actor, self._start_call, size, config.pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.pool.close(0.0)

    def play(self, turns: Sequence[Turn]) -> list[list[Trajectory]]:
        """Each turn's trajectories, one per run.

        Raises:
            ActorPoolError: collectors fail again and again with one cause.
        """
        self._turns, self._waiting = turns, deque(range(len(turns)))
        played: dict[int, list[Trajectory]] = {}
        while len(played) < len(turns):
            for event in self.pool.poll(POLL_S):
                if event.tag is None:
                    continue
                try:
                    if isinstance(event, Done):
                        played[event.tag] = ray.get(event.payload)
                        continue
                except RayError:  # the payload went with its node
                    pass
                self._waiting.appendleft(event.tag)
        return [played[place] for place in range(len(turns))]

    def _make_actor(self, index: int) -> ActorHandle[Any]:
        section = self._config.collection
        options = actor_options(
            actor_name(self._config.name, "player", index),
            num_cpus=0.0 if self._config.ray.is_local else section.cpus_per_collector,
            resources=None if self._config.ray.is_local else section.resources or None,
        )
        remote: Any = ray.remote(PlayerActor)
        handle: ActorHandle[Any] = remote.options(**options).remote(
            self._config, self._layout, self._weights, index
        )
        return handle

    def _start_call(self, index: int, handle: Any) -> Call | None:
        if not self._waiting:
            return None
        place = self._waiting.popleft()
        payload, pid = handle.play.options(num_returns=2).remote(self._turns[place])
        return Call(payload, pid, tag=place)
