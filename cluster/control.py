"""The control plane: what people ask of a run, and what its parts say of themselves.

A run reads its commands here at its own pace, so `scale`, `pause` or `stop` work from any machine
that reaches the run's Redis. Inside the run nothing here ever fails for Redis: while it is away the
last commands hold, heartbeats are skipped, and events wait in memory. People at the command line
get the error instead, for they must know that they were not heard.
"""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from causeway.cluster.naming import redis_key
from causeway.cluster.redis_link import LinkConfig, RedisAwayError, RedisLink

# Times are the server's own, so that ages are right whatever the clocks of the hosts say.
HEARTBEAT_SCRIPT = """
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], now[1] .. '.' .. string.format('%06d', now[2]))
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
"""


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """How much the control plane keeps."""

    max_events: int = 100_000  # in Redis, about; older ones go
    max_waiting_events: int = 1_000  # in memory while Redis is away; older ones go
    link: LinkConfig = field(default_factory=LinkConfig)

    def __post_init__(self) -> None:
        for name in ("max_events", "max_waiting_events"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"ControlConfig.{name} must be at least 1, got {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class Commands:
    """What is asked of a run at the moment."""

    collectors: int | None = None  # None: as many as the run's configuration says
    paused: bool = False
    stop: str | None = None  # the reason given for stopping, None: go on
    checkpoint_requested: int = 0  # how many checkpoints have been asked for so far
    checkpoint_finished: int = 0  # the last request that has been answered by a checkpoint

    @property
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint was asked for and not written yet."""
        return self.checkpoint_requested > self.checkpoint_finished


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The last sign of life of one part of a run."""

    age_s: float
    state: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of the event stream."""

    place: str  # to read on from
    time_s: float  # Unix time, by the server's clock
    kind: str
    fields: dict[str, Any]


class Control:
    """The control plane of one run, seen by one process.

    Args:
        client: of the run's Redis, made by `connect`.
        run: the run's name.
        config: limits and patience.
    """

    def __init__(self, client: redis.Redis, run: str, config: ControlConfig) -> None:
        self._link = RedisLink(client, config.link)
        self._config = config
        self._commands_key = redis_key(run, "commands")
        self._times_key = redis_key(run, "heartbeats")
        self._states_key = redis_key(run, "states")
        self._events_key = redis_key(run, "events")
        self._heartbeat_script = client.register_script(HEARTBEAT_SCRIPT)
        self._last: dict[Any, Any] = {}
        self._waiting: deque[dict[Any, Any]] = deque(maxlen=config.max_waiting_events)
        self.num_lost_events = 0  # those that no longer fitted in memory

    # What a run asks and says. None of these fails for Redis.

    def commands(self) -> Commands:
        """What is asked of the run; while Redis is away, what was asked last."""
        try:
            found: Any = self._link.call(lambda client: client.hgetall(self._commands_key))
            if not found and self._last:  # the server has lost its data: the commands still hold
                self._link.call(lambda client: client.hset(self._commands_key, mapping=self._last))
            else:
                self._last = found
        except RedisAwayError:
            pass
        return _read_commands(self._last)

    def heartbeat(self, component: str, state: Mapping[str, Any]) -> bool:
        """Says that a part lives and how it is, and what events wait; False if not heard.

        Args:
            component: such as "driver" or "collector-3".
            state: anything that JSON can hold.
        """
        arguments = [component, json.dumps(dict(state))]
        keys = [self._times_key, self._states_key]
        try:
            self._link.call(lambda c: self._heartbeat_script(keys, arguments, client=c))
            self._link.call(self._send_events)
        except RedisAwayError:
            return False
        return True

    def remove(self, component: str) -> None:
        """Forgets a part that has ended in order, so that it is not taken for a dead one."""

        def forget(client: redis.Redis) -> None:
            client.hdel(self._times_key, component)
            client.hdel(self._states_key, component)

        self._quietly(forget)

    def event(self, kind: str, **fields: Any) -> None:
        """Adds an event to the stream; while Redis is away, later."""
        if len(self._waiting) == self._config.max_waiting_events:
            self.num_lost_events += 1
        self._waiting.append({"kind": kind, "fields": json.dumps(fields)})
        self._quietly(self._send_events)

    def finish_checkpoint(self, commands: Commands) -> None:
        """Says that the checkpoint which these commands asked for has been written."""
        finished: dict[Any, Any] = {"checkpoint_finished": str(commands.checkpoint_requested)}
        self._last = {**self._last, **finished}
        self._quietly(lambda client: client.hset(self._commands_key, mapping=finished))

    # What people ask. These raise RedisAwayError when nobody hears it.

    def begin(self, configured_collectors: int) -> None:
        """Withdraws what was asked of a run that has ended, for it to begin again.

        That is the order to stop, and a number of collectors if another one than at the last start
        is configured now: whoever changes it means it. A pause goes on.
        """
        withdrawn, configured = ["stop"], str(configured_collectors)
        key, name = self._commands_key, "configured_collectors"
        if self._link.call(lambda client: client.hget(key, name)) not in (None, configured):
            withdrawn.append("collectors")
        self._link.call(lambda client: client.hdel(key, *withdrawn))
        self._link.call(lambda client: client.hset(key, name, configured))

    def set_collectors(self, count: int) -> None:
        """Asks for so many collectors."""
        if count < 0:
            raise ValueError(f"the number of collectors must be at least 0, got {count}")
        self._ask(collectors=str(count))

    def pause(self) -> None:
        """Asks the run to hold its updates and its collectors."""
        self._ask(paused="1")

    def unpause(self) -> None:
        """Asks a paused run to go on."""
        self._ask(paused="0")

    def request_stop(self, reason: str) -> None:
        """Asks the run to write a checkpoint and end."""
        self._ask(stop=reason or "asked to stop")

    def request_checkpoint(self) -> int:
        """Asks for a checkpoint now; gives the number that `checkpoint_finished` will reach."""
        key, name = self._commands_key, "checkpoint_requested"
        return int(self._link.call(lambda client: client.hincrby(key, name, 1)))

    def heartbeats(self) -> dict[str, Heartbeat]:
        """The last sign of life of every part of the run."""

        def read(client: redis.Redis) -> Any:
            pipeline = client.pipeline(transaction=True)
            pipeline.time()
            pipeline.hgetall(self._times_key)
            pipeline.hgetall(self._states_key)
            return pipeline.execute()

        (seconds, microseconds), times, states = self._link.call(read)
        now = int(seconds) + int(microseconds) * 1e-6
        return {
            component: Heartbeat(
                age_s=max(0.0, now - float(at)), state=json.loads(states.get(component, "{}"))
            )
            for component, at in sorted(times.items())
        }

    def events(self, after: str | None, max_count: int) -> list[Event]:
        """Events in the order in which they came, at most so many.

        Args:
            after: the place of the last one seen, or None for the oldest that are kept.
            max_count: how many at most.
        """
        start = "-" if after is None else f"({after}"
        entries: Any = self._link.call(
            lambda client: client.xrange(self._events_key, min=start, count=max_count)
        )
        return [_read_event(place, fields) for place, fields in entries]

    def latest_events(self, max_count: int) -> list[Event]:
        """The newest events in the order in which they came, at most so many."""
        entries: Any = self._link.call(
            lambda client: client.xrevrange(self._events_key, count=max_count)
        )
        return [_read_event(place, fields) for place, fields in reversed(entries)]

    def _ask(self, **fields: str) -> None:
        mapping: dict[Any, Any] = dict(fields)
        self._link.call(lambda client: client.hset(self._commands_key, mapping=mapping))

    def _quietly(self, command: Callable[[redis.Redis], Any]) -> None:
        with contextlib.suppress(RedisAwayError):
            self._link.call(command)

    def _send_events(self, client: redis.Redis) -> None:
        while self._waiting:
            client.xadd(
                self._events_key, self._waiting[0], maxlen=self._config.max_events, approximate=True
            )
            self._waiting.popleft()


def _read_commands(found: Mapping[str, str]) -> Commands:
    collectors = found.get("collectors")
    return Commands(
        collectors=None if collectors is None else int(collectors),
        paused=found.get("paused") == "1",
        stop=found.get("stop"),
        checkpoint_requested=int(found.get("checkpoint_requested", 0)),
        checkpoint_finished=int(found.get("checkpoint_finished", 0)),
    )


def _read_event(place: str, fields: Mapping[str, str]) -> Event:
    return Event(
        place=place,
        time_s=int(place.partition("-")[0]) / 1000.0,
        kind=fields["kind"],
        fields=json.loads(fields["fields"]),
    )
