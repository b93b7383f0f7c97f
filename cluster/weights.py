"""How weights reach the actors: one flat buffer, put once, found through a store by its version.

The learner publishes, actors pull when it suits them. A version is the pair (generation, version);
the generation grows when training goes back to a checkpoint, so that weights of the future that was
discarded are older than everything that follows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError
from torch import Tensor

from causeway.cluster.naming import actor_name

ALIGNMENT_BYTES = 64  # where each tensor begins: a whole cache line, and any type's own alignment
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}

WeightKey = tuple[int, int]  # (generation, version), ordered as tuples are
StoreHandle = ActorHandle[Any]  # of a WeightStore
BEFORE_ANY: WeightKey = (-1, -1)
MAX_UNANSWERED = 8  # calls to a store that does not answer; the next `refresh` catches up


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatWeights:
    """Named tensors in one buffer: a single object to serialise, whatever their number."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    buffer: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def num_bytes(self) -> int:
        """The buffer's size."""
        return self.buffer.nbytes


def encode(state: Mapping[str, Tensor | np.ndarray[Any, Any]]) -> FlatWeights:
    """The tensors, copied into one buffer; from an accelerator in one transfer.

    Raises:
        ValueError: a tensor has a type that is not one of `DTYPES`.
    """
    tensors = {name: _as_tensor(value) for name, value in state.items()}
    dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    shapes = tuple(tuple(tensor.shape) for tensor in tensors.values())
    for name, dtype in zip(tensors, dtypes, strict=True):
        if dtype not in DTYPES:
            raise ValueError(
                f"weights must have one of the types {', '.join(DTYPES)}, "
                f"got {dtype} for {name!r}: convert it before publishing"
            )
    offsets, num_bytes = _offsets(dtypes, shapes)
    device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
    buffer = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    for tensor, start in zip(tensors.values(), offsets, strict=True):
        content = tensor.contiguous().reshape(-1).view(torch.uint8)
        buffer[start : start + len(content)].copy_(content)
    return FlatWeights(
        names=tuple(tensors), dtypes=dtypes, shapes=shapes, buffer=buffer.cpu().numpy()
    )


def decode(weights: FlatWeights) -> dict[str, Tensor]:
    """The tensors by name. They share one writable copy of the buffer.

    Raises:
        ValueError: the buffer's size does not fit its description.
    """
    offsets, num_bytes = _offsets(weights.dtypes, weights.shapes)
    if num_bytes != weights.num_bytes:
        raise ValueError(
            f"a buffer of weights must have the {num_bytes} bytes that its shapes need, got "
            f"{weights.num_bytes}: it was damaged, or written by another version"
        )
    # A copy, because arrays out of the object store are read-only.
    buffer = torch.from_numpy(weights.buffer.copy())
    state = {}
    for name, dtype, shape, start in zip(
        weights.names, weights.dtypes, weights.shapes, offsets, strict=True
    ):
        stop = start + _size_bytes(dtype, shape)
        state[name] = buffer[start:stop].view(DTYPES[dtype]).reshape(shape)
    return state


class Publication(NamedTuple):
    """What the store holds: a version, and a list of one reference.

    The list keeps Ray from replacing the reference by the weights on their way through the store.
    """

    generation: int
    version: int
    reference: list[Any]

    @property
    def key(self) -> WeightKey:
        """The version as a pair that compares."""
        return (self.generation, self.version)


class WeightStore:
    """Remembers the newest publication. It holds a reference and never touches the weights."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._latest: Publication | None = None

    def __repr__(self) -> str:
        return f"WeightStore {self._run}"

    def publish(self, generation: int, version: int, reference: list[Any]) -> None:
        """Takes a publication; the same version again replaces its reference.

        Raises:
            ValueError: it is older than what the store has: its learner has been replaced.
        """
        new = Publication(generation, version, reference)
        if self._latest is not None and new.key < self._latest.key:
            raise ValueError(
                f"weights {new.key} (generation, version) were published after "
                f"{self._latest.key}: a learner must begin a new generation when it goes back"
            )
        self._latest = new

    def latest(self) -> Publication | None:
        """The newest publication, or None before the first."""
        return self._latest

    def latest_after(self, generation: int, version: int) -> Publication | None:
        """The newest publication, or None if it is not newer than the given version."""
        if self._latest is None or self._latest.key <= (generation, version):
            return None
        return self._latest


def start_weight_store(run: str) -> StoreHandle:
    """Starts the run's store as a named actor that asks for no CPU.

    Ray restarts it when it dies. It comes back empty: `WeightPublisher.refresh` fills it again.
    """
    remote = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy="DEFAULT")(WeightStore)
    handle: StoreHandle = remote.options(name=actor_name(run, "weights")).remote(run)  # type: ignore[assignment]
    return handle


class WeightPublisher:
    """The learner's side: puts weights into the object store once and tells the weight store.

    It never waits for the store; a refused publication is raised by the call that follows it.
    """

    def __init__(self, store: StoreHandle) -> None:
        self._store: Any = store  # a handle's methods have no types
        self._last: Publication | None = None
        self._answers: list[Any] = []

    def publish(self, generation: int, version: int, state: Mapping[str, Tensor]) -> None:
        """Publishes the tensors under a version.

        Raises:
            ValueError: the store has refused an earlier publication of this learner.
        """
        self._last = Publication(generation, version, [ray.put(encode(state))])
        self.refresh()

    @property
    def reference(self) -> list[Any]:
        """Where the weights published last are: a list of one reference."""
        return self._last.reference if self._last is not None else []

    def refresh(self) -> None:
        """Tells the store again what was published last, in case it has been restarted.

        Raises:
            ValueError: the store has refused an earlier publication of this learner.
        """
        self._check_answers()
        if self._last is not None and len(self._answers) < MAX_UNANSWERED:
            self._answers.append(self._store.publish.remote(*self._last))

    def _check_answers(self) -> None:
        if not self._answers:
            return
        ready, self._answers = ray.wait(
            self._answers, num_returns=len(self._answers), timeout=0, fetch_local=False
        )
        for answer in ready:
            try:
                ray.get(answer)
            except RayTaskError as error:
                raise ValueError(str(error.cause)) from error
            except RayActorError:
                pass  # the store died: the next call reaches the new one


class WeightReader:
    """An actor's side: pulls weights that are newer than those it has, if there are any."""

    def __init__(self, store: StoreHandle, timeout_s: float) -> None:
        self._store: Any = store  # a handle's methods have no types
        self._timeout_s = timeout_s
        self.key: WeightKey = BEFORE_ANY
        self.num_failures = 0  # pulls in which the store or the weights could not be reached

    def pull(self) -> dict[str, Tensor] | None:
        """The newest weights, or None: there are none newer, or they cannot be had now.

        Weights are lost with the learner that put them. An actor then keeps what it has until a
        learner publishes again; `num_failures` tells that from having the newest.
        """
        try:
            newer = self._store.latest_after.remote(*self.key)
            found = ray.get(newer, timeout=self._timeout_s)
            if found is None:
                return None
            weights = ray.get(found.reference[0], timeout=self._timeout_s)
        except (GetTimeoutError, RayActorError, ObjectLostError):
            self.num_failures += 1
            return None
        self.key = found.key
        return decode(weights)


def _as_tensor(value: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.from_numpy(np.array(value))  # a copy: arrays may be read-only


def _offsets(dtypes: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> tuple[list[int], int]:
    """Where each tensor begins, and the size of the whole."""
    offsets, end = [], 0
    for dtype, shape in zip(dtypes, shapes, strict=True):
        offsets.append(end)
        # At least one unit, for a view of another type cannot begin in an empty buffer.
        num_units = max(1, math.ceil(_size_bytes(dtype, shape) / ALIGNMENT_BYTES))
        end += num_units * ALIGNMENT_BYTES
    return offsets, end


def _size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * DTYPES[dtype].itemsize
