"""RLlib's offline episodes: Parquet files with a column `item` of packed episodes.

    <folder>/**/*.parquet    item: bytes, one SingleAgentEpisode's state each, in MessagePack

As RLlib 2.60 writes them with `output_write_episodes` (its default). Its own reader unpickles
arrays of objects; here they stay bytes that nothing reads. A recording may cut an episode: its
pieces have one id, and each but the first begins where the one before it stopped, after a look
back at rows that were there already. They are put together again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

from causeway.datasets.importers.foreign import (
    ForeignEpisode,
    ForeignTask,
    Format,
    Notes,
    ReadOptions,
    count,
    refused,
)
from causeway.datasets.importers.npy import is_numeric, numeric_array
from causeway.datasets.importers.places import tasks_at

ITEM = "item"
ITEMS_AT_A_TIME = 16
MAX_ITEM_BYTES = 1 << 28
MAX_ELEMENTS = 1 << 22  # of one list in an item: bounds what a damaged one can claim
NAMES = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "next_observation": "observations",
}
_ARROW_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError)


def find_tasks(place: str) -> tuple[ForeignTask, ...]:
    """The one task of a folder or file, or one for each of several."""
    return tasks_at(place, lambda path: bool(_files(path)), "Parquet files of RLlib's episodes")


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*.parquet") if p.is_file())


@dataclass(slots=True)
class _Chunk:
    """A piece of an episode."""

    file: str
    item: int  # of the file
    id: str
    begin: int  # env step
    values: dict[str, Shaped[np.ndarray, "..."]]
    terminated: bool
    truncated: bool

    @property
    def length(self) -> int:
        """In env steps."""
        return len(self.values["rewards"])


@dataclass(slots=True)
class _Open:
    """The pieces of an episode so far."""

    chunks: list[_Chunk] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The env step behind the last."""
        last = self.chunks[-1]
        return last.begin + last.length


def read(task: ForeignTask, options: ReadOptions, notes: Notes) -> Iterator[ForeignEpisode]:
    """A task's episodes, in the order they ended; those without an end last."""
    files = _files(task.place)
    waiting: dict[str, _Open] = {}
    for number, path in enumerate(files):
        for chunk, share in _chunks(path):
            if not chunk.length:  # a piece that only looks back
                continue
            opened = waiting.setdefault(chunk.id, _Open())
            _append(opened, chunk)
            if chunk.terminated or chunk.truncated:
                yield _joined(waiting.pop(chunk.id), (number + share) / len(files))
    count(notes, "episodes_cut_off", len(waiting))
    for left in waiting.values():
        yield _joined(left, 1.0)


def _append(opened: _Open, chunk: _Chunk) -> None:
    end = opened.end if opened.chunks else 0
    if chunk.begin != end:
        what = (
            f"must go on at step {end} of episode {chunk.id[:40]!r}, got step {chunk.begin}: a "
            "piece of the episode is missing or comes before this one"
        )
        raise refused(chunk.file, what, column=ITEM, row=chunk.item)
    opened.chunks.append(chunk)


def _joined(opened: _Open, share: float) -> ForeignEpisode:
    """An episode from its pieces."""
    last = opened.chunks[-1]
    values = {
        name: np.concatenate([chunk.values[name] for chunk in opened.chunks])
        for name in ("observations", "following", "actions", "rewards")
    }
    where = last.file if len(opened.chunks) == 1 else f"{opened.chunks[0].file} to {last.file}"
    return ForeignEpisode(
        file=f"{where}, item {last.item}",
        rows=range(len(values["actions"])),
        names=NAMES,
        share=share,
        observation=values["observations"],
        action=values["actions"],
        reward=values["rewards"],
        next_observation=values["following"],
        terminated=last.terminated,
        truncated=last.truncated or not last.terminated,
    )


def _chunks(path: Path) -> Iterator[tuple[_Chunk, float]]:
    """The pieces in a file, with the share of the file that has been read."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema, total = file.schema_arrow, file.metadata.num_rows
    except _ARROW_ERRORS as error:
        raise _damaged(path, error) from error
    if schema.names.count(ITEM) != 1 or schema.field(ITEM).type not in (
        pa.binary(),
        pa.large_binary(),
    ):
        what = (
            f"must be a column of bytes, the file has {', '.join(schema.names[:20])}: record with "
            "output_write_episodes=True"
        )
        raise refused(path, what, column=ITEM)
    done = 0
    for item in _items(file, path):
        if item is None or len(item) > MAX_ITEM_BYTES:
            what = f"must be at most {MAX_ITEM_BYTES} bytes and no null"
            raise refused(path, what, column=ITEM, row=done)
        yield _unpack(item, str(path), done), (done + 1) / max(1, total)
        done += 1
    if done != total:
        raise refused(path, f"must hold the {total} items that it states, got {done}")


def _items(file: pq.ParquetFile, path: Path) -> Iterator[bytes | None]:
    batches = file.iter_batches(ITEMS_AT_A_TIME, columns=[ITEM], use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        except _ARROW_ERRORS as error:
            raise _damaged(path, error) from error
        if batch is None:
            return
        yield from (value.as_py() for value in batch.column(0))


def _damaged(path: Path, error: BaseException) -> Exception:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return refused(path, f"must be a complete Parquet file, reading it failed: {reason}")


def _unpack(item: bytes, file: str, row: int) -> _Chunk:
    """One packed piece of an episode."""
    try:
        state = msgpack.unpackb(
            item,
            object_hook=_decode,
            strict_map_key=False,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
        )
        return _chunk_of(state, file, row)
    except (msgpack.UnpackException, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        what = f"must be an episode as RLlib packs it, but {reason}"
        raise refused(file, what, column=ITEM, row=row) from error


def _decode(value: dict[Any, Any]) -> Any:
    """An array of numbers as msgpack-numpy packs it; others, some of which it pickles, as None."""
    if b"nd" not in value:
        return value
    kind = value.get(b"type")
    name = kind.decode("ascii") if isinstance(kind, bytes) else kind
    if value.get(b"kind") == b"O" or not is_numeric(name):
        return None
    shape = value.get(b"shape", ()) if value[b"nd"] else ()
    return numeric_array(name, shape, value.get(b"data"), "C")


def _chunk_of(state: Any, file: str, row: int) -> _Chunk:
    if not isinstance(state, Mapping):
        raise ValueError(f"it is a {type(state).__name__}")
    begin, end = state["t_started"], state["t"]
    if not all(type(step) is int for step in (begin, end)) or not 0 <= begin <= end:
        raise ValueError(f"its steps must run from t_started to t, got {begin!r} to {end!r}")
    length = end - begin
    observations = _buffer(state, "observations", length + 1)
    return _Chunk(
        file=file,
        item=row,
        id=str(state["id_"]),
        begin=begin,
        values={
            "observations": observations[:-1],
            "following": observations[1:],
            "actions": _buffer(state, "actions", length),
            "rewards": _buffer(state, "rewards", length),
        },
        terminated=_flag(state, "is_terminated"),
        truncated=_flag(state, "is_truncated"),
    )


def _flag(state: Mapping[Any, Any], name: str) -> bool:
    if not isinstance(state[name], (bool, np.bool_, np.ndarray)) or np.ndim(state[name]):
        raise ValueError(f"{name} must be true or false, got {str(state[name])[:40]!r}")
    return bool(state[name])


def _buffer(state: Mapping[Any, Any], name: str, length: int) -> Shaped[np.ndarray, "T *F"]:
    """A buffer's values, without those that it only looks back at."""
    buffer = state[name]
    if not isinstance(buffer, Mapping) or not isinstance(buffer["lookback"], int):
        raise ValueError(f"{name} must be a buffer with a look-back")
    values, lookback = buffer["data"], buffer["lookback"]
    if isinstance(values, Mapping) or lookback < 0:
        raise ValueError(f"{name} must be arrays, composite ones are not read")
    array = np.asarray(values)
    if array.ndim < 1 or len(array) != lookback + length:
        raise ValueError(f"{name} must hold {lookback + length} values, got shape {array.shape}")
    return array[lookback:]


RLLIB = Format(
    name="rllib",
    layout="a folder of RLlib's episodes in Parquet; .../name-{task} for several tasks",
    find_tasks=find_tasks,
    read=read,
    rules={
        "pieces": "pieces of an episode are put together by its id; look-back rows are left out",
        "ends": "as is_terminated and is_truncated say; an episode whose end was not recorded is "
        "cut off, and truncated",
    },
    by_horizon=False,
    continuous=False,
)
