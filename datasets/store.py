"""Opening a data set: what its manifest says, its episodes, and what is wrong with its files."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from causeway.datasets.batches import Episode, RowLayout
from causeway.datasets.faults import DatasetError, Fault
from causeway.datasets.locations import Location
from causeway.datasets.parts import Expected, episodes_of
from causeway.datasets.schema import (
    MANIFEST_NAME,
    Manifest,
    PartEntry,
    SplitPart,
    TaskEntry,
    TaskStatistics,
)
from causeway.datasets.shards import load
from causeway.datasets.statistics import differences, task_statistics

QUARANTINE_NAME = "quarantine.json"


class DatasetStore:
    """An open data set. Use `DatasetStore.open`.

    A damaged or alien part is quarantined: it is recorded in `faults` (and, where the folder can
    be written to, in quarantine.json), left where it is, and skipped from then on.
    """

    def __init__(
        self, folder: Location, manifest: Manifest, layout: RowLayout, *, strict: bool
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.layout = layout  # how its transitions lie in rows
        self._strict = strict
        self._faults: dict[str, tuple[Fault, ...]] = {}  # by the path of the part

    @classmethod
    def open(
        cls,
        path: str | Path | Location,
        strict: bool = False,
        outcome_discount: float | None = None,
    ) -> "DatasetStore":
        """Opens a data set and looks for missing and cut-off files.

        Args:
            path: its folder, local or as a URI.
            strict: read every file now, and refuse the data set for the first fault.
            outcome_discount: of the returns that its rows tell; None: rows tell no outcome.

        Raises:
            DatasetError: if there is no data set, if its manifest cannot be used, or, when strict,
                if a file cannot.
        """
        folder = Location.parse(path)
        manifest = _read_manifest(folder)
        layout = replace(manifest.layout, outcome_discount=outcome_discount)
        store = cls(folder, manifest, layout, strict=strict)
        store._quarantine_missing()
        if strict:
            store.verify()
        return store

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What was found wrong so far: for each quarantined part one fault or more."""
        return tuple(fault for of_part in self._faults.values() for fault in of_part)

    @property
    def fault_share(self) -> float:
        """The share of the parts that are quarantined."""
        return len(self._faults) / max(1, sum(len(task.parts) for task in self.manifest.tasks))

    def task_ids(self, part: SplitPart | None = "train") -> tuple[int, ...]:
        """The ids of the tasks in that part of the split, in order; None: of all."""
        chosen = (task.id for task in self.manifest.tasks if part in (None, task.split_part))
        return tuple(sorted(chosen))

    def parts(self, task_id: int) -> tuple[PartEntry, ...]:
        """A task's files that are not quarantined."""
        listed = self.manifest.task(task_id).parts
        return tuple(part for part in listed if part.path not in self._faults)

    def episodes(self, task_id: int) -> list[Episode]:
        """A task's episodes, in the order they were written; those of faulty parts left out."""
        return [episode for part in self.iterate_parts(task_id) for episode in part]

    def iterate_parts(self, task_id: int) -> Iterator[list[Episode]]:
        """A task's episodes one part at a time, to bound memory; faulty parts are skipped."""
        task = self.manifest.task(task_id)
        for part in self.parts(task_id):
            try:
                episodes = self._read(task, part)
            except DatasetError as error:
                self._quarantine(part, error)
            else:
                yield episodes

    def verify(
        self, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Fault]:
        """Reads every file that is not quarantined yet, and compares statistics with episodes.

        Args:
            progress: told how many of how many parts are done.

        Returns:
            All faults, old and new; those of statistics quarantine nothing.

        Raises:
            DatasetError: the first fault, where the data set was opened strictly.
        """
        total, done = sum(len(task.parts) for task in self.manifest.tasks), 0
        misstated: list[Fault] = []
        for task in self.manifest.tasks:
            returns: list[float] = []
            rows = 0
            for number, episodes in enumerate(self.iterate_parts(task.id), 1):
                returns.extend(episode.undiscounted_return for episode in episodes)
                rows += sum(len(episode) for episode in episodes)
                progress(done + number, total)
            done += len(task.parts)
            progress(done, total)
            if len(self.parts(task.id)) == len(task.parts) > 0:  # else some are not known
                misstated += self._compare(task.id, task_statistics(returns, rows))
        self._record()
        if misstated and self._strict:
            raise DatasetError.of(*misstated)
        return [*self.faults, *misstated]

    def _read(self, task: TaskEntry, part: PartEntry) -> list[Episode]:
        file = self.folder.child(part.path)
        expected = Expected(
            file=str(file),
            layout=self.layout,
            labelled=True,
            sha256=part.sha256,
            horizon=self.manifest.horizon,
            task=task.id,
        )
        episodes = episodes_of(load(file, expected))
        rows = sum(len(episode) for episode in episodes)
        if (rows, len(episodes)) != (part.rows, part.episodes):
            what = (
                f"must hold {part.rows} rows in {part.episodes} episodes, as {MANIFEST_NAME} says, "
                f"got {rows} in {len(episodes)}"
            )
            raise DatasetError.of(Fault(file=str(file), what=what))
        return episodes

    def _compare(self, task_id: int, actual: TaskStatistics) -> list[Fault]:
        """Where the manifest says something else of a task than its episodes do."""
        file, key = str(self.folder.child(MANIFEST_NAME)), f"statistics.{task_id}"
        stated = self.manifest.statistics.get(task_id)
        if stated is None:
            return [Fault(file=file, column=key, what="must be there, the task has episodes")]
        return [
            Fault(file=file, column=f"{key}.{name}", what=f"must be {true}, got {said}")
            for name, (said, true) in differences(stated, actual).items()
        ]

    def _quarantine_missing(self) -> None:
        listed = [part for task in self.manifest.tasks for part in task.parts]
        sizes = self.folder.file_sizes([part.path for part in listed])
        for part, size in zip(listed, sizes, strict=True):
            if size == part.bytes:
                continue
            what = (
                f"must be there: {MANIFEST_NAME} lists it"
                if size is None
                else f"must have {part.bytes} bytes, got {size}: it was cut off or changed"
            )
            fault = Fault(file=str(self.folder.child(part.path)), what=what)
            self._quarantine(part, DatasetError.of(fault))

    def _quarantine(self, part: PartEntry, error: DatasetError) -> None:
        if self._strict or error.fault is None:
            raise error
        self._faults[part.path] = error.faults
        self._record()

    def _record(self) -> None:
        """Keeps quarantine.json as `faults` is: absent when there are none."""
        file = self.folder.child(QUARANTINE_NAME)
        record = {"faults": [asdict(fault) for fault in self.faults]}
        with suppress(OSError):  # a read-only data set: `faults` alone has the record
            if self._faults:
                file.write(json.dumps(record, indent=1).encode())
            else:
                file.delete()


def _read_manifest(folder: Location) -> Manifest:
    file = folder.child(MANIFEST_NAME)
    if not folder.exists():
        raise DatasetError(f"{folder} must be a data set, but there is no such folder")
    if not file.exists():
        raise DatasetError(
            f"{folder} must be a data set, but it has no {MANIFEST_NAME}: either it is another "
            "folder or writing it was interrupted; collect it again"
        )
    return Manifest.from_json(file.read().to_pybytes(), file=str(file))
