"""The format of data at rest, version 1: the columns of its Parquet files and its manifest.

    DATASET/manifest.json              what the data set is, and each complete file with its sha256
    DATASET/task=<id>/part-*.parquet   labelled transitions, rows in episode order

A data set is what its manifest lists. Other files in its folder are no part of it.
"""

import hashlib
import json
import math
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import pyarrow as pa

from causeway.datasets.batches import RowLayout
from causeway.datasets.faults import DatasetError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
ROW_GROUP_ROWS = 4096  # large enough to decode fast, small enough to stream

Source = Literal["offline", "self_supervised", "online"]
SplitPart = Literal["train", "test"]
JsonScalar = str | int | float | bool | None


def trajectory_schema(layout: RowLayout) -> pa.Schema:
    """The columns of unlabelled rollouts: what an actor saw and did, without any reward."""
    observation = pa.list_(pa.float32(), layout.observation_size)
    return pa.schema(
        [
            pa.field("observation", observation, nullable=False),
            pa.field("action", pa.list_(pa.float32(), layout.action_size), nullable=False),
            pa.field("next_observation", observation, nullable=False),
            pa.field("terminated", pa.bool_(), nullable=False),
            pa.field("truncated", pa.bool_(), nullable=False),
            pa.field("episode", pa.int32(), nullable=False),
            pa.field("step", pa.int32(), nullable=False),
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        ]
    )


def episode_schema(layout: RowLayout) -> pa.Schema:
    """The columns of labelled parts: a rollout's, the reward and where the reward is from."""
    schema = trajectory_schema(layout)
    schema = schema.insert(3, pa.field("reward", pa.float32(), nullable=False))
    # The version of the decoder that gave the reward; null where the environment gave it.
    return schema.append(pa.field("label_version", pa.int32(), nullable=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEntry:
    """One complete file of labelled transitions."""

    path: str  # relative to the data set, with forward slashes
    rows: int
    episodes: int
    sha256: str
    bytes: int
    # The updates that the agent had seen when each episode began; empty where nobody kept them.
    ages: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.ages and len(self.ages) != self.episodes:
            raise ValueError(
                f"PartEntry.ages must hold one age for each of the {self.episodes} episodes of "
                f"{self.path}, or none at all, got {len(self.ages)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEntry:
    """One task: which part of the split it is in, what it is, and its files."""

    id: int
    split_part: SplitPart
    parameters: dict[str, float]
    parts: tuple[PartEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatistics:
    """What a task's data amount to. Returns are undiscounted."""

    episodes: int
    transitions: int
    return_mean: float
    return_std: float
    return_min: float
    return_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceReturns:
    """Returns that a task's scores are read against."""

    random: float | None = None
    expert: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How the data were made, so that they can be made again."""

    generator: str
    created: str  # ISO 8601, UTC
    options: dict[str, JsonScalar] = field(default_factory=dict)
    seed: int | None = None
    git_commit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a data set is: the contents of manifest.json."""

    schema_version: int = SCHEMA_VERSION
    family: str
    split: str
    observation_size: int
    action_size: int
    horizon: int  # env steps of the longest episode
    tasks: tuple[TaskEntry, ...]
    statistics: dict[int, TaskStatistics]  # by task
    references: dict[int, ReferenceReturns]  # by task; may lack some
    provenance: Provenance
    license: str

    def __post_init__(self) -> None:
        for name in ("observation_size", "action_size", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"Manifest.{name} must be at least 1, got {getattr(self, name)}")
        paths = [part.path for task in self.tasks for part in task.parts]
        _expect_unique("id", [task.id for task in self.tasks])
        _expect_unique("parts.path", paths)
        for path in paths:
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or "://" in path or not path:
                raise ValueError(
                    f"Manifest.tasks.parts.path must stay inside the data set, got {path!r}"
                )

    @property
    def layout(self) -> RowLayout:
        """How its transitions lie in rows."""
        return RowLayout(self.observation_size, self.action_size)

    @property
    def identity(self) -> str:
        """A checksum of what transitions there are, by task and in order; not of where they lie."""
        parts = [(task.id, part.sha256) for task in self.tasks for part in task.parts]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def task(self, task_id: int) -> TaskEntry:
        """The task of that id."""
        for task in self.tasks:
            if task.id == task_id:
                return task
        known = sorted(task.id for task in self.tasks)
        raise ValueError(f"task {task_id} is not in this data set, it has {known}")

    def to_json(self) -> str:
        """The contents of manifest.json."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, file: str) -> "Manifest":
        """Reads what `to_json` gave.

        Args:
            text: the contents.
            file: its name, for the error.

        Raises:
            DatasetError: naming the file and the key that is unknown, missing or wrong.
        """
        try:
            value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{file}: must be JSON, but reading it failed: {error}") from error
        version = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise DatasetError(
                f"{file}: schema_version must be {SCHEMA_VERSION}, got {version}: the data set was "
                "written by another release; read it with that one or collect it again"
            )
        try:
            return cast(Manifest, _read(cls, value, ""))
        except ValueError as error:
            raise DatasetError(f"{file}: {error}") from error


def _expect_unique(name: str, values: Sequence[int | str]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(f"Manifest.tasks.{name} must be unique, got {twice} more than once")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"numbers must be finite, got {name}")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse_constant(number)


def _read(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as an instance of an annotation; `where` is its dotted name, for errors."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _read_record(cast(type, kind), value, where)
    if origin is Literal:
        _expect(value in arguments, f"one of {list(arguments)}", value, where)
        return value
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is tuple:
        _expect(isinstance(value, list), "a list", value, where)
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        return _read_mapping(arguments, value, where)
    if kind is float:
        _expect(_is_a(value, float) or _is_a(value, int), "a number", value, where)
        return _to_float(value, where)
    _expect(_is_a(value, kind), f"of type {kind.__name__}", value, where)
    return value


def _is_a(value: Any, kind: type) -> bool:
    """Whether it is of exactly that type: True is no integer here."""
    return type(value) is kind


def _read_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in arguments:
        if _is_a(value, kind):
            return value
    if float in arguments and _is_a(value, int):
        return _to_float(value, where)
    names = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in arguments)
    return _expect(False, names, value, where)


def _to_float(value: float, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{where} must be a number that a float can hold, got more") from None


def _read_mapping(arguments: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    _expect(isinstance(value, dict), "an object", value, where)
    if arguments[0] is str:
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    # JSON's keys are strings.
    for key in value:
        _expect(key.removeprefix("-").isdecimal(), "an object with integer keys", value, where)
    return {int(key): _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}


def _read_record(kind: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, Mapping), "an object", value, where)
    known = {item.name: item for item in fields(kind)}
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in known:
            raise ValueError(f"{prefix}{name} is unknown, the keys here are {sorted(known)}")
    annotations = get_type_hints(kind)
    given = {}
    for name, item in known.items():
        if name in value:
            given[name] = _read(annotations[name], value[name], prefix + name)
        elif name == "schema_version" or item.default is item.default_factory is MISSING:
            raise ValueError(f"{prefix}{name} is missing")
    return kind(**given)


def _expect(holds: bool, what: str, value: Any, where: str) -> None:
    if not holds:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise ValueError(f"{where or 'the whole'} must be {what}, got {shown}")
