"""Making a data set: scripted episodes of every task, written as Parquet."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime

from causeway.actors.behaviour import collect_scripted
from causeway.actors.evaluator import random_return
from causeway.actors.tasks.family import Family, Task, find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.config import DataSection
from causeway.cluster.recorder import git_commit
from causeway.datasets.locations import Location
from causeway.datasets.schema import MANIFEST_NAME, Provenance, ReferenceReturns, TaskEntry
from causeway.datasets.writer import DatasetHeader, DatasetWriter

RANDOM_REPEATS = 20


def has_data(path: str) -> bool:
    """Whether there is a finished data set."""
    return Location.parse(path).child(MANIFEST_NAME).exists()


def collect_data(
    config: DataSection, *, overwrite: bool, progress: Callable[[int, int], None]
) -> None:
    """Writes the scripted data set that the section describes.

    Args:
        config: family, split, behaviour, seed and where to.
        overwrite: whether a data set that is there already is replaced.
        progress: told how many of how many tasks are done.

    Raises:
        DatasetError: there is a data set and it is not to be overwritten.
        ValueError: the family has no scripted behaviour.
    """
    family = load_family(config.family)
    split = find_split(family, config.split)
    episodes = collect_scripted(
        family,
        split,
        config.behaviour,
        episodes_per_task=config.episodes_per_task,
        seed=config.seed,
    )
    train = {task.id for task in split.train}
    header = DatasetHeader(
        family=config.family,
        split=config.split,
        observation_size=family.observation_size,
        action_size=family.action_size,
        horizon=family.horizon,
        tasks=tuple(_entry(task, is_train=task.id in train) for task in split.tasks),
        provenance=Provenance(
            generator="causeway scripted behaviour",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            options={
                "episodes_per_task": config.episodes_per_task,
                **dataclasses.asdict(config.behaviour),
            },
            seed=config.seed,
            git_commit=git_commit(),
        ),
        license="CC0-1.0",
        references=_references(family, split.tasks),
    )
    with DatasetWriter(config.path, header, overwrite) as writer:
        for done, (task, of_task) in enumerate(episodes, 1):
            writer.add(task.id, of_task)
            progress(done, len(split.tasks))


def _entry(task: Task, *, is_train: bool) -> TaskEntry:
    return TaskEntry(
        id=task.id, split_part="train" if is_train else "test", parameters=task.parameters
    )


def _references(family: Family, tasks: tuple[Task, ...]) -> dict[int, ReferenceReturns]:
    floor = random_return(family, tasks, repeats=RANDOM_REPEATS, seed=0).per_task
    return {
        task.id: ReferenceReturns(random=low, expert=family.optimal_return(task))
        for task, low in zip(tasks, floor, strict=True)
    }
