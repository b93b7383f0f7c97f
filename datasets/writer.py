"""Writing a data set: parts first, each whole, then the manifest that lists them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.faults import DatasetError
from causeway.datasets.locations import Location
from causeway.datasets.parts import Origin, encode, sha256_of
from causeway.datasets.rows import ROW_DTYPE
from causeway.datasets.schema import (
    MANIFEST_NAME,
    JsonScalar,
    Manifest,
    PartEntry,
    Provenance,
    ReferenceReturns,
    TaskEntry,
)
from causeway.datasets.statistics import task_statistics

MAX_PART_BYTES = 1 << 25  # of its rows as float32: it is encoded and decoded in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetHeader:
    """What is known of a data set before its episodes are."""

    family: str
    split: str
    observation_size: int
    action_size: int
    horizon: int  # env steps of the longest episode
    tasks: tuple[TaskEntry, ...]  # without parts
    provenance: Provenance
    license: str
    references: dict[int, ReferenceReturns] = field(default_factory=dict)


class DatasetWriter:
    """Writes a data set as a context manager; it exists once the block ends without an error.

    Parts appear whole, one by one; the manifest last. A block that fails leaves no manifest, so
    what it wrote is no data set.

    Args:
        path: a folder, local or as a URI.
        header: what the data set is.
        overwrite: whether a data set that is there already is replaced.

    Raises:
        DatasetError: if there is a data set and it is not to be overwritten.
    """

    def __init__(
        self, path: str | Path | Location, header: DatasetHeader, overwrite: bool = False
    ) -> None:
        self._folder = Location.parse(path)
        self._header = header
        self._overwrite = overwrite
        self._layout = RowLayout(header.observation_size, header.action_size)
        self._parts: dict[int, list[PartEntry]] = {task.id: [] for task in header.tasks}
        self._returns: dict[int, list[float]] = {task.id: [] for task in header.tasks}
        self._manifest({})  # refuses a wrong header before anything is collected for it

    def __enter__(self) -> Self:
        """Makes way for the data set, or refuses to."""
        manifest = self._folder.child(MANIFEST_NAME)
        if manifest.exists():
            if not self._overwrite:
                raise DatasetError(
                    f"{self._folder} must not hold a data set yet, but {MANIFEST_NAME} is there: "
                    "choose another folder or ask to overwrite it"
                )
            self._delete_listed(manifest)
        return self

    def add(self, task_id: int, episodes: Sequence[Episode], ages: Sequence[int] = ()) -> None:
        """Writes episodes of a task, with the environment's own rewards, as one part or more.

        Args:
            task_id: one of the header's.
            episodes: in the order in which they are to stand.
            ages: the updates that the agent had seen when each episode began, or none.

        Raises:
            ValueError: naming the task, column and row of what the format does not allow.
        """
        if task_id not in self._parts:
            raise ValueError(
                f"task {task_id} must be one of the header's tasks, {sorted(self._parts)}"
            )
        longest = max((len(episode) for episode in episodes), default=0)
        if longest > self._header.horizon:
            raise ValueError(
                f"data of task {task_id}: episodes must have at most the header's horizon of "
                f"{self._header.horizon} steps, got {longest}"
            )
        if ages and len(ages) != len(episodes):
            raise ValueError(
                f"ages of task {task_id} must be one for each of the {len(episodes)} episodes, or "
                f"none, got {len(ages)}"
            )
        begin = 0
        for chunk in _chunks(episodes, max_part_rows(self._layout)):
            self._write_part(task_id, chunk, tuple(ages[begin : begin + len(chunk)]))
            begin += len(chunk)

    def note(self, facts: Mapping[str, JsonScalar]) -> None:
        """Adds what came to light while episodes were added to the provenance's options."""
        provenance = self._header.provenance
        options = {**provenance.options, **facts}
        self._header = replace(self._header, provenance=replace(provenance, options=options))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes the manifest, unless the block failed."""
        if kind is not None:
            return
        empty = [task_id for task_id, parts in self._parts.items() if not parts]
        if empty:
            raise ValueError(
                f"every task of the header must have episodes, {empty} have none: "
                "add them or leave these tasks out of the header"
            )
        manifest = self._manifest(self._parts)
        self._folder.child(MANIFEST_NAME).write(manifest.to_json().encode())

    def _write_part(self, task_id: int, episodes: Sequence[Episode], ages: tuple[int, ...]) -> None:
        origin = Origin(task=task_id, source="offline")
        contents = encode(episodes, origin, labelled=True, layout=self._layout)
        path = f"task={task_id}/part-{len(self._parts[task_id]):05d}.parquet"
        self._folder.child(path).write(contents)
        part = PartEntry(
            path=path,
            rows=sum(len(episode) for episode in episodes),
            episodes=len(episodes),
            sha256=sha256_of(contents),
            bytes=contents.size,
            ages=ages,
        )
        self._parts[task_id].append(part)
        self._returns[task_id].extend(episode.undiscounted_return for episode in episodes)

    def _manifest(self, parts: dict[int, list[PartEntry]]) -> Manifest:
        header = self._header
        return Manifest(
            family=header.family,
            split=header.split,
            observation_size=header.observation_size,
            action_size=header.action_size,
            horizon=header.horizon,
            tasks=tuple(
                replace(task, parts=tuple(parts.get(task.id, ()))) for task in header.tasks
            ),
            statistics={
                task_id: task_statistics(self._returns[task_id], sum(part.rows for part in listed))
                for task_id, listed in parts.items()
            },
            references=header.references,
            provenance=header.provenance,
            license=header.license,
        )

    def _delete_listed(self, manifest: Location) -> None:
        """Deletes a data set: its manifest first, so that none is ever left half deleted."""
        try:
            old = Manifest.from_json(manifest.read().to_pybytes(), file=str(manifest))
        except DatasetError:
            old = None  # unreadable: its parts are overwritten by name, or stay unlisted
        manifest.delete()
        for task in old.tasks if old is not None else ():
            for part in task.parts:
                self._folder.child(part.path).delete()


def max_part_rows(layout: RowLayout) -> int:
    """How many rows a part has at most, unless it is of one longer episode."""
    return max(1, MAX_PART_BYTES // (layout.width * ROW_DTYPE.itemsize))


def _chunks(episodes: Sequence[Episode], max_rows: int) -> list[Sequence[Episode]]:
    """The episodes in runs of at most so many rows, or of one longer episode."""
    chunks: list[list[Episode]] = []
    rows = 0
    for episode in episodes:
        if not chunks or rows + len(episode) > max_rows:
            chunks.append([])
            rows = 0
        chunks[-1].append(episode)
        rows += len(episode)
    return list(chunks)
