"""Where the tasks of a foreign data set are: one place each, its number in its name."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from causeway.datasets.importers.foreign import ForeignTask, refused

MARK = "{task}"


def tasks_at(place: str, is_one: Callable[[Path], bool], what: str) -> tuple[ForeignTask, ...]:
    """The tasks that a place names: with {task} in it one for each number there, else one.

    Args:
        place: a path; {task}, once, stands for the numbers of the tasks.
        is_one: whether a path that is there holds a task's data.
        what: such data in a few words, for errors.

    Raises:
        DatasetError: nothing is there, or two paths have the same number.
    """
    if "://" in place:
        raise refused(place, "must be on this machine to be imported: copy it here first")
    if MARK not in place:
        path = Path(place).expanduser()
        if not path.exists():
            raise refused(place, "must be there, but there is no such file or folder")
        if not is_one(path):
            raise refused(place, f"must be {what}; several tasks are named as .../name-{MARK}")
        return (task_at(0, path),)
    found = numbered(place)
    ones = [(number, path) for number, path in found if is_one(path)]
    if not ones:
        raise refused(place, f"must name {what} with a number for {MARK}, but there is none")
    return unique([task_at(number, path) for number, path in ones], place)


def numbered(place: str) -> list[tuple[int, Path]]:
    """The paths that a pattern names, with the number that stands for {task}, in its order."""
    if place.count(MARK) != 1:
        raise refused(place, f"must have {MARK} exactly once, got it {place.count(MARK)} times")
    pattern = Path(place).expanduser()
    depth = next(i for i, part in enumerate(pattern.parts) if MARK in part)
    base, below = Path(*pattern.parts[:depth]), Path(*pattern.parts[depth + 1 :])
    before, _, after = pattern.parts[depth].partition(MARK)
    name = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    if not base.is_dir():
        raise refused(place, f"must be there, but there is no folder {base}")
    found = [
        (int(match[1]), path / below)
        for path in base.iterdir()
        if (match := name.fullmatch(path.name)) and (path / below).exists()
    ]
    return sorted(found)


def task_at(number: int, path: Path, parameters: dict[str, float] | None = None) -> ForeignTask:
    """The task of that number, in that file or folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    total = sum(file.stat().st_size for file in files)
    return ForeignTask(id=number, place=path, bytes=total, parameters=parameters)


def unique(tasks: list[ForeignTask], place: str) -> tuple[ForeignTask, ...]:
    """The tasks in order of their numbers, once no number is there twice."""
    tasks = sorted(tasks, key=lambda task: task.id)
    for one, other in pairwise(tasks):
        if one.id == other.id:
            what = f"must name each task once, {one.place.name} and {other.place.name} are both"
            raise refused(place, f"{what} number {one.id}")
    return tuple(tasks)
