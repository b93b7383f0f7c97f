"""An elastic pool of Ray actors that heals itself and never waits for any one of them.

Each slot of the pool goes around this cycle:

    waiting --back-off over--> starting --constructed--> idle --call sent--> busy --answered--> idle

and from `starting` and `busy` back to `waiting` when the actor dies, raises or takes too long.
Whatever goes wrong in a slot is reported as a `Failed` with its cause, and the slot gets a new
actor after a back-off that doubles; a cause that repeats without success in between ends the pool.
"""

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import ray
from ray.actor import ActorHandle
from ray.exceptions import NodeDiedError, RayActorError, RayError, RayTaskError

from causeway.cluster.full_disk import is_full_disk

FETCH_TIMEOUT_S = 10.0  # for metadata, which is small and travels with the answer
MAX_CAUSE_CHARACTERS = 4_000

FailureKind = Literal["construction", "error", "crash", "hang", "unplaced", "node", "full disk"]
# Not the actor's own doing: a node that went away, none free yet, or no room for what it writes.
# They never use up the budget.
ENVIRONMENT: tuple[FailureKind, ...] = ("unplaced", "node", "full disk")


class ActorPoolError(RuntimeError):
    """A pool's actors fail again and again with the same cause, so that retrying is pointless."""


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How patient a pool is with its actors."""

    call_timeout_s: float = 120.0  # a call that takes longer has hung: the actor is killed
    start_timeout_s: float = 600.0  # includes waiting for a node that the autoscaler brings
    backoff_s: float = 0.5  # before the first new attempt; doubles with each further failure
    max_backoff_s: float = 30.0
    crash_budget: int = 5  # failures of one slot in a row, with one cause, that end the pool

    def __post_init__(self) -> None:
        for name in ("call_timeout_s", "start_timeout_s", "backoff_s"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"PoolConfig.{name} must be positive, got {getattr(self, name)}")
        if self.max_backoff_s < self.backoff_s:
            raise ValueError(
                f"PoolConfig.max_backoff_s must be at least backoff_s ({self.backoff_s}), "
                f"got {self.max_backoff_s}"
            )
        if self.crash_budget < 1:
            raise ValueError(f"PoolConfig.crash_budget must be at least 1, got {self.crash_budget}")

    def delay_s(self, failures: int) -> float:
        """The back-off after so many failures in a row."""
        return float(min(self.backoff_s * 2.0 ** min(failures - 1, 60), self.max_backoff_s))


@dataclass(frozen=True, slots=True)
class Call:
    """One call in flight, made with `num_returns` of 2 or more.

    The pool's process owns all results, so the payload survives the death of the actor.
    """

    payload: Any  # reference, or a list of them; the pool never looks into it
    metadata: Any  # reference to something small, which the pool fetches
    tag: Any = None  # the caller's own, handed back with the outcome


@dataclass(frozen=True, slots=True)
class Done:
    """A call that was answered. The payload may still be lost with the node that holds it."""

    index: int
    payload: Any  # reference, or a list of them
    metadata: Any
    tag: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """An actor that was lost or dismissed, and why; its slot gets another one."""

    index: int
    kind: FailureKind
    cause: str  # with the actor's traceback where there is one
    tag: Any  # of the call that was lost; None outside a call


class State(Enum):
    """Where a slot stands."""

    WAITING = "waiting"  # for its back-off
    STARTING = "starting"  # being placed and constructed
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"  # finishes its last call, then goes


class _Slot:
    """One place in the pool, and the actor in it if there is one."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.state = State.WAITING
        self.handle: Any = None
        self.call: Call | None = None
        self.ready: Any = None  # reference that resolves once the actor is constructed
        self.deadline = 0.0  # of what the slot waits for, on the monotonic clock
        self.failures = 0  # in a row
        self.signature = ""  # of the last failure
        self.same_cause = 0  # failures in a row with that signature

    @property
    def reference(self) -> Any:
        """What resolves when the actor has done what it is doing, or None."""
        return self.call.metadata if self.call is not None else self.ready

    @property
    def tag(self) -> Any:
        """The tag of the call in flight, or None."""
        return self.call.tag if self.call is not None else None


class ActorPool:
    """Keeps `size` actors at work; everything happens inside `poll`, in the caller's thread.

    Args:
        make_actor: creates the actor of a slot; see `actor_options`. The actor is new each time.
        start_call: sends an idle actor its next call, or gives None while there is nothing to do.
        size: how many actors at first.
        config: patience.
    """

    def __init__(
        self,
        make_actor: Callable[[int], ActorHandle[Any]],
        start_call: Callable[[int, ActorHandle[Any]], Call | None],
        size: int,
        config: PoolConfig,
    ) -> None:
        self._make_actor = make_actor
        self._start_call = start_call
        self._config = config
        self._slots: dict[int, _Slot] = {}
        self._events: list[Done | Failed] = []
        self._broken: str | None = None
        self._size = 0
        self.counts: Counter[str] = Counter()
        self.resize(size)

    @property
    def size(self) -> int:
        """How many actors are wanted."""
        return self._size

    @property
    def deaths(self) -> int:
        """How many actors were lost or dismissed for a failure."""
        return self.counts["deaths"]

    @property
    def restarts(self) -> int:
        """How many actors were created in the place of a lost one."""
        return self.counts["restarts"]

    def states(self) -> Counter[str]:
        """How many slots are in each state."""
        return Counter(slot.state.value for slot in self._slots.values())

    def resize(self, size: int) -> None:
        """Wants so many actors. Surplus ones finish their call first; the last slots go first."""
        if size < 0:
            raise ValueError(f"a pool's size must be at least 0, got {size}")
        self._size = size
        for index in range(size):
            slot = self._slots.setdefault(index, _Slot(index))
            if slot.state is State.DRAINING:
                slot.state = State.BUSY
        for slot in list(self._slots.values()):
            if slot.index >= size:
                if slot.state is State.BUSY:
                    slot.state = State.DRAINING
                elif slot.state is not State.DRAINING:
                    self._remove(slot)

    def poll(self, timeout_s: float) -> list[Done | Failed]:
        """Starts what can be started, then waits until something has happened or time is up.

        Raises:
            ActorPoolError: a slot has used up its crash budget; with the last traceback. The
                failures themselves were given by the poll before.
        """
        if self._broken is not None:
            raise ActorPoolError(self._broken)
        self._advance()
        self._wait(0.0 if self._events else timeout_s)
        self._expire()
        self._advance()
        events, self._events = self._events, []
        return events

    def close(self, timeout_s: float) -> list[Done | Failed]:
        """Lets the calls in flight finish, at most so long, then ends all actors."""
        self.resize(0)
        deadline = time.monotonic() + timeout_s
        while self._slots and (left := deadline - time.monotonic()) > 0.0:
            self._wait(left)
            self._expire()
        for slot in list(self._slots.values()):
            self._remove(slot)
        events, self._events = self._events, []
        return events

    def _advance(self) -> None:
        """Creates the actors whose back-off is over and gives idle ones their next call."""
        for slot in list(self._slots.values()):
            if slot.state is State.WAITING and time.monotonic() >= slot.deadline:
                self._create(slot)
            elif slot.state is State.IDLE:
                self._send(slot)

    def _create(self, slot: _Slot) -> None:
        try:
            slot.handle = self._make_actor(slot.index)
            slot.ready = slot.handle.__ray_ready__.remote()
        except Exception as error:
            self._fail(slot, "construction", _describe(error))
            return
        if slot.failures > 0:
            self.counts["restarts"] += 1
        slot.state = State.STARTING
        slot.deadline = time.monotonic() + self._config.start_timeout_s

    def _send(self, slot: _Slot) -> None:
        call = self._start_call(slot.index, slot.handle)
        if call is not None:
            slot.call = call
            slot.state = State.BUSY
            slot.deadline = time.monotonic() + self._config.call_timeout_s

    def _wait(self, timeout_s: float) -> None:
        """Waits for any answer or due time, then takes every answer that is there."""
        slots = self._slots.values()
        waiting = {slot.reference: slot for slot in slots if slot.reference is not None}
        due = [slot.deadline for slot in slots if slot.state is not State.IDLE]
        timeout_s = max(0.0, min([timeout_s, *(at - time.monotonic() for at in due)]))
        if not waiting:
            time.sleep(timeout_s)
            return
        references = list(waiting)
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready:
            ready, _ = ray.wait(
                references, num_returns=len(references), timeout=0, fetch_local=False
            )
        for reference in ready:
            self._take(waiting[reference])

    def _take(self, slot: _Slot) -> None:
        """Takes the answer to what the slot was waiting for."""
        try:
            answer = ray.get(slot.reference, timeout=FETCH_TIMEOUT_S)
        except RayError as error:
            self._fail(slot, _kind(error), _describe(error))
            return
        if slot.call is not None:
            self._events.append(Done(slot.index, slot.call.payload, answer, slot.call.tag))
            self.counts["done"] += 1
            slot.failures = slot.same_cause = 0
        slot.call = slot.ready = None
        if slot.state is State.DRAINING:
            self._remove(slot)
        else:
            slot.state = State.IDLE

    def _expire(self) -> None:
        """Dismisses the actors that take too long."""
        now = time.monotonic()
        for slot in list(self._slots.values()):
            if now < slot.deadline:
                continue
            if slot.state in (State.BUSY, State.DRAINING):
                self._fail(slot, "hang", f"no answer in {self._config.call_timeout_s:g} s")
            elif slot.state is State.STARTING:
                cause = f"not placed and constructed in {self._config.start_timeout_s:g} s"
                self._fail(slot, "unplaced", cause)

    def _fail(self, slot: _Slot, kind: FailureKind, cause: str) -> None:
        """Reports a failure and puts the slot back to waiting; ends the pool if it repeats."""
        self._events.append(Failed(slot.index, kind, cause, slot.tag))
        self.counts["deaths"] += 1
        self.counts[kind] += 1
        draining = slot.state is State.DRAINING
        self._dismiss(slot)
        if draining:
            self._remove(slot)
            return
        slot.failures += 1
        slot.state = State.WAITING
        slot.deadline = time.monotonic() + self._config.delay_s(slot.failures)
        if kind in ENVIRONMENT:
            return
        signature = f"{kind}: {_signature(cause)}"
        slot.same_cause = slot.same_cause + 1 if signature == slot.signature else 1
        slot.signature = signature
        if slot.same_cause >= self._config.crash_budget:
            self._broken = (
                f"actor {slot.index} failed {slot.same_cause} times in a row with the same cause "
                f"({kind}), so it is not tried again: {cause}"
            )

    def _dismiss(self, slot: _Slot) -> None:
        """Kills the slot's actor, if it has one that still lives."""
        if slot.handle is not None:
            ray.kill(slot.handle)
        if slot.call is not None:
            # A payload that failed with the call would be reported once more when it is dropped.
            with contextlib.suppress(RayError):
                ray.get(slot.call.payload, timeout=0)
        slot.handle = slot.call = slot.ready = None

    def _remove(self, slot: _Slot) -> None:
        self._dismiss(slot)
        del self._slots[slot.index]


def actor_options(
    name: str, *, num_cpus: float, resources: dict[str, float] | None
) -> dict[str, Any]:
    """The options with which a pool's actors must be created.

    The pool makes new actors itself, so Ray must not: a restarted one would not know its weights.
    The scheduling strategy is named so that an actor created inside a placement group, such as a
    Tune trial's, is placed outside it: within it the pool could not grow.
    """
    return {
        "name": name,
        "num_cpus": num_cpus,
        "resources": resources,
        "max_restarts": 0,
        "max_task_retries": 0,
        "scheduling_strategy": "DEFAULT",
    }


def _kind(error: Exception) -> FailureKind:
    if isinstance(error, RayTaskError):
        return "full disk" if is_full_disk(error.cause) else "error"
    if isinstance(error, NodeDiedError):
        return "node"
    if isinstance(error, RayActorError):
        if error.actor_init_failed:
            return "construction"
        if error.preempted or "its node has died" in str(error):
            return "node"
    return "crash"


def _describe(error: Exception) -> str:
    """The error's words without terminal colours; of a long one, the end."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    name = type(error).__name__
    return f"{name}: {text[-MAX_CAUSE_CHARACTERS:]}"


def _signature(cause: str) -> str:
    """The cause's last line, where Python puts the error, without numbers and addresses."""
    last_line = cause.rstrip().rpartition("\n")[2]
    return re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", "#", last_line)
