"""Task streams: the one component that holds the data, and the only one that changes it.

A stream opens the data set, draws blocks of meta-batches for the learner, hands out assignments to
collectors, and takes labelled rollouts in. Under Ray it is an actor; in a serial run an object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from causeway.actors.collector import Assignment
from causeway.actors.tasks.family import Task, find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.config import RunConfig
from causeway.cluster.config_io import ConfigError
from causeway.cluster.labelling import LabelledRollout
from causeway.cluster.naming import ONLINE_NAME
from causeway.datasets.batches import MetaBlock
from causeway.datasets.buffers import OpenBuffers, open_buffers
from causeway.datasets.cache import RowCache, default_cache_folder
from causeway.datasets.faults import DatasetError
from causeway.datasets.sampler import MetaSampler
from causeway.datasets.shards import read_part, write_part
from causeway.datasets.store import DatasetStore
from causeway.datasets.task_buffer import TaskBuffer
from causeway.learners.algorithm import outcome_discount

Rows = Float32[np.ndarray, "K W"]

ADDED_ID = 1_000_000  # ids of an added data set's tasks begin at a multiple of it


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """What a stream found when it opened the data set."""

    tasks: tuple[int, ...]
    rows: int
    mode: str  # mapped or streamed
    faults: tuple[str, ...]
    lost: dict[int, str]  # labelled rollouts that could not be read again, and why


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamShare:
    """How far the online part has grown, and how far a stream has come through the offline one."""

    online_rows: int
    online_share: float  # of what is drawn next
    data_coverage: float  # of the offline data, that has been within reach of a draw


class TaskStream:
    """The training tasks' buffers and all that is drawn from them.

    Args:
        config: of the run.
        tasks: of the split's training part.
        folder: the run's folder, where labelled rollouts are kept.
    """

    def __init__(self, config: RunConfig, tasks: Sequence[Task], folder: Path) -> None:
        self._config = config
        self._folder = folder / ONLINE_NAME
        self._store = open_data(config)
        self._layout = self._store.layout
        self._tasks: dict[int, Task] = {}
        self._buffers: dict[int, TaskBuffer] = {}
        self._open = [self._join(self._store, few_of(tasks, config), first_id=0)]
        self._identities = [self._store.manifest.identity]
        check_faults(self._store, config)
        for index, path in enumerate(config.data.added_paths, 1):
            store, joining = open_added(config, path)
            self._open.append(self._join(store, joining, first_id=index * ADDED_ID))
            self._identities.append(store.manifest.identity)
        self._sampler = MetaSampler(self._buffers, config.sampler, config.run.seed)
        self._online: list[dict[str, Any]] = []  # the labelled parts in the order they came
        self.lost: dict[int, DatasetError] = {}  # labelled rollouts that cannot be read again

    def __repr__(self) -> str:
        return f"TaskStream {self._config.data.family}"

    def info(self) -> StreamInfo:
        """What was found."""
        return StreamInfo(
            tasks=tuple(self._buffers),
            rows=sum(buffer.num_rows for buffer in self._buffers.values()),
            mode=self._open[0].mode,
            faults=tuple(str(fault) for fault in self._store.faults),
            lost={sequence: str(error) for sequence, error in self.lost.items()},
        )

    def sample_block(
        self, updates: int, *, with_state: bool
    ) -> tuple[MetaBlock, dict[str, Any] | None]:
        """The next updates' meta-batches and, if asked, the state that goes on behind them."""
        block = self._sampler.sample_block(updates)
        return block, self.state() if with_state else None

    def assign(self, first: int, count: int = 1) -> list[Assignment]:
        """The collections from a number on; what each is depends on seed and number alone."""
        return [self._assignment(sequence) for sequence in range(first, first + count)]

    def _assignment(self, sequence: int) -> Assignment:
        generator = np.random.default_rng([self._config.run.seed, sequence, 1])
        task = int(generator.choice(list(self._buffers)))
        return Assignment(
            task_id=task,
            dynamics=self._tasks[task].dynamics,
            labelling_context=self._offline(task, generator, 4),
            sequence=sequence,
        )

    def labelling_contexts(self, task: int, sequence: int, count: int) -> list[Rows]:
        """Offline transitions of the task, drawn anew for each of `count` trajectories.

        Pong et al. 2022 (arXiv:2107.03974), sec. 5.2: labels come from offline context alone.
        """
        generator = np.random.default_rng([self._config.run.seed, sequence, 2])
        return [self._offline(task, generator, 1) for _ in range(count)]

    def append(self, rollout: LabelledRollout) -> StreamShare:
        """Takes a labelled rollout in: written to the run's folder first, then drawn from."""
        path = self._part_path(rollout.sequence)
        part = write_part(path, rollout.episodes, rollout.task_id, rollout.label_version)
        entry = {
            "sequence": rollout.sequence,
            "task": rollout.task_id,
            "rows": part.rows,
            "sha256": part.sha256,
        }
        self._take(entry, rollout.episodes)
        return self.share()

    def share(self) -> StreamShare:
        """How far the online part has grown."""
        return StreamShare(
            online_rows=sum(buffer.num_online_rows for buffer in self._buffers.values()),
            online_share=self._sampler.online_share,
            data_coverage=float(np.mean([opened.coverage for opened in self._open])),
        )

    def state(self) -> dict[str, Any]:
        """What was drawn from and how far, and the online parts in order; in JSON's types."""
        return {
            "data": self._identities,
            "sampler": self._sampler.state_dict(),
            "online": list(self._online),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from `state()`; online parts are read again from the run's folder.

        Those that are damaged or gone are put into `lost`: their shards can be labelled anew. What
        belongs to tasks that have meanwhile been quarantined is left out.
        """
        if self._online:
            raise ValueError("a stream's state can be loaded only before anything is appended")
        for entry in state["online"]:
            if entry["task"] not in self._buffers:
                continue
            path = self._part_path(entry["sequence"])
            try:
                self._take(entry, read_part(path, entry["sha256"], self._layout))
            except DatasetError as error:
                self.lost[entry["sequence"]] = error
        sampler = state["sampler"]
        if self._store.faults:
            known = {str(task) for task in self._buffers}
            sources = {task: s for task, s in sampler["sources"].items() if task in known}
            sampler = {**sampler, "sources": sources}
        self._sampler.load_state_dict(sampler)

    def close(self) -> None:
        """Stops reading ahead."""
        for opened in self._open:
            opened.close()

    def _join(self, store: DatasetStore, tasks: Sequence[Task], *, first_id: int) -> OpenBuffers:
        """Opens a data set's tasks, under their ids from `first_id` on."""
        known = {task.id: task for task in tasks}
        opened = open_buffers(
            store,
            row_cache(self._config),
            [task for task in store.task_ids("train") if task in known],
            self._config.sampler,
            self._config.run.seed,
        )
        for task, buffer in opened.buffers.items():
            self._tasks[first_id + task] = known[task]
            self._buffers[first_id + task] = buffer
        return opened

    def _take(self, entry: dict[str, Any], episodes: Sequence[Any]) -> None:
        rows = np.concatenate([self._layout.pack(episode) for episode in episodes])
        self._buffers[entry["task"]].append(rows)
        self._online.append(entry)

    def _offline(self, task: int, generator: np.random.Generator, contexts: int) -> Rows:
        buffer, sampler = self._buffers[task], self._config.sampler
        count = min(contexts * sampler.context_per_task, buffer.offline.num_rows)
        if sampler.context_in_order and sampler.context_episodes is not None:
            num_episodes = contexts * sampler.context_episodes
            return buffer.draw_offline_in_order(generator, count, num_episodes)
        return buffer.draw_offline(generator, count)

    def _part_path(self, sequence: int) -> Path:
        return self._folder / f"part-{sequence:08d}.parquet"


def open_data(config: RunConfig) -> DatasetStore:
    """The run's data set, once it is known to be of the run's family.

    Its rows tell outcomes of episodes where the algorithm asks for them.

    Raises:
        DatasetError: there is none, or it is of another family or split.
    """
    store = DatasetStore.open(
        config.data.path,
        strict=config.data.strict,
        outcome_discount=outcome_discount(config.hyperparameters),
    )
    found = (store.manifest.family, store.manifest.split)
    wanted = (config.data.family, config.data.split)
    if found != wanted:
        raise DatasetError(
            f"data.path {config.data.path} must hold family and split {' '.join(wanted)!r}, "
            f"it holds {' '.join(found)!r}: set data.family and data.split to these, or data.path "
            "to another folder"
        )
    return store


def open_added(config: RunConfig, path: str) -> tuple[DatasetStore, tuple[Task, ...]]:
    """A data set that joins the run's own, and the training tasks of its split.

    Raises:
        DatasetError: there is none, or it is of another family.
    """
    store = DatasetStore.open(
        path,
        strict=config.data.strict,
        outcome_discount=outcome_discount(config.hyperparameters),
    )
    if store.manifest.family != config.data.family:
        raise DatasetError(
            f"data.added_paths {path} must hold family {config.data.family!r}, it holds "
            f"{store.manifest.family!r}: only tasks of one family can be learned together"
        )
    check_faults(store, config)
    return store, find_split(load_family(config.data.family), store.manifest.split).train


def check_same_data(config: RunConfig, state: Mapping[str, Any]) -> None:
    """Raises DatasetError where a stream's state is not of the run's data sets."""
    stores = [open_data(config), *(open_added(config, path)[0] for path in config.data.added_paths)]
    identities = [store.manifest.identity for store in stores]
    if state.get("data", identities) != identities:  # older states do not tell
        paths = (config.data.path, *config.data.added_paths)
        raise DatasetError(
            f"{', '.join(paths)} must hold the data that the run has been trained on, but the "
            "manifest lists other parts: give their place as data.path (and data.added_paths), or "
            "train another run"
        )


def few_of(tasks: Sequence[Task], config: RunConfig) -> Sequence[Task]:
    """As many of the tasks as the run trains on, evenly spaced in their order.

    Raises:
        ConfigError: there are not so many.
    """
    count = config.data.train_tasks
    if count is None:
        return tasks
    if count > len(tasks):
        raise ConfigError(
            f"data.train_tasks must be at most the split's {len(tasks)}, got {count}: lower it, or "
            "leave it null"
        )
    chosen = np.linspace(0, len(tasks) - 1, count).round().astype(int)
    return [tasks[index] for index in chosen]


def check_faults(store: DatasetStore, config: RunConfig) -> None:
    """Raises DatasetError where more of the data set is damaged than the run puts up with."""
    if store.fault_share > config.data.max_fault_share:
        raise DatasetError(
            f"{config.data.path}: {store.fault_share:.0%} of its parts are damaged, more than "
            f"data.max_fault_share ({config.data.max_fault_share:.0%}) allows: "
            + "; ".join(str(fault) for fault in store.faults[:3])
        )


def row_cache(config: RunConfig) -> RowCache:
    """This node's cache of decoded rows."""
    folder = config.data.cache_folder
    place = Path(folder) if folder is not None else default_cache_folder()
    return RowCache(place, config.data.cache_bytes)
