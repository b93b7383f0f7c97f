"""Importing foreign data: a family's tasks, written as Parquet with where they are from."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from causeway.actors.tasks.family import Family, Split, Task, find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.recorder import git_commit
from causeway.datasets.batches import RowLayout
from causeway.datasets.importers.conversion import ConversionConfig
from causeway.datasets.importers.foreign import ForeignTask, Format, Notes, ReadOptions
from causeway.datasets.importers.registry import find_format
from causeway.datasets.importers.writing import check_options, write_tasks
from causeway.datasets.schema import JsonScalar, Provenance, TaskEntry
from causeway.datasets.writer import DatasetHeader, DatasetWriter

OF_FAMILY, NONE = "family", "none"  # words for `task_parameters`, beside a file
OWN_SPLIT = "imported"  # of tasks that are not the family's
PARAMETER_TOLERANCE = 1e-3  # formats round to three decimals


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What to import, and what its files do not say."""

    format: str
    place: str  # of the files; see the format
    out: str
    family: str
    task_parameters: str | None = None  # `family`, `none` or a JSON file; None: as the format says
    split: str | None = None  # None: the family's default for its own tasks, else `imported`
    test_tasks: tuple[int, ...] = ()  # of tasks that are not the family's
    horizon: int | None = None  # None: the family's
    action_bound: float = 1.0
    clip_actions: bool = False
    allow_gaps: bool = False
    early_end: Literal["terminated", "truncated"] | None = None
    ignore_terminals: bool = False
    observation_keys: tuple[str, ...] = ()
    license: str = "not stated"


def import_data(
    request: ImportRequest, *, overwrite: bool, progress: Callable[[int, int], None]
) -> Notes:
    """Writes the data set that the request describes; it is there whole or not at all.

    Args:
        request: what to import.
        overwrite: whether a data set that is there already is replaced.
        progress: told how many of how many bytes are read.

    Returns:
        What was found in the files and done to them, as it stands in the manifest.

    Raises:
        DatasetError: naming the file that cannot be used, with column and row where they are known.
        ValueError: the request does not fit the family or the files.
    """
    form = find_format(request.format)
    family = load_family(request.family)
    horizon = family.horizon if request.horizon is None else request.horizon
    config = ConversionConfig(
        layout=RowLayout(family.observation_size, family.action_size),
        horizon=horizon,
        action_bound=request.action_bound,
        clip_actions=request.clip_actions,
        allow_gaps=request.allow_gaps,
    )
    options = ReadOptions(
        horizon=horizon,
        early_end=request.early_end,
        ignore_terminals=request.ignore_terminals,
        observation_keys=request.observation_keys,
    )
    check_options(form, options)
    tasks = form.find_tasks(request.place)
    split, entries = _entries(request, family, tasks)
    header = DatasetHeader(
        family=request.family,
        split=split,
        observation_size=family.observation_size,
        action_size=family.action_size,
        horizon=horizon,
        tasks=entries,
        provenance=_provenance(request, form, tasks, horizon),
        license=request.license,
    )
    with DatasetWriter(request.out, header, overwrite) as writer:
        notes = write_tasks(
            form, tasks, options, config, writer,
            horizon_given=request.horizon is not None, progress=progress,
        )  # fmt: skip
        writer.note(notes)
    return notes


def _provenance(
    request: ImportRequest, form: Format, tasks: tuple[ForeignTask, ...], horizon: int
) -> Provenance:
    options: dict[str, JsonScalar] = {
        "format": form.name,
        "place": request.place,
        "bytes": sum(task.bytes for task in tasks),
        "horizon": horizon,
        "horizon_from": "family" if request.horizon is None else "option",
        "task_parameters": request.task_parameters or "the files' names",
        **{f"rule.{name}": text for name, text in form.rules.items()},
    }
    for name in ("action_bound", "clip_actions", "allow_gaps", *sorted(form.options)):
        value = getattr(request, name)
        options[name] = ",".join(value) if isinstance(value, tuple) else value
    return Provenance(
        generator=f"causeway data import {form.name}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        options=options,
        git_commit=git_commit(),
    )


def _entries(
    request: ImportRequest, family: Family, tasks: tuple[ForeignTask, ...]
) -> tuple[str, tuple[TaskEntry, ...]]:
    """The split's name and the manifest's entry of each task."""
    own = request.task_parameters == OF_FAMILY
    split = request.split or (next(iter(family.splits())) if own else OWN_SPLIT)
    if split in family.splits() or own:
        known = find_split(family, split)
        return split, _of_family(request, known, tasks, split)
    parameters = _parameters(request, tasks)
    unknown = sorted(set(request.test_tasks) - set(parameters))
    if unknown:
        raise ValueError(f"test tasks must be among {sorted(parameters)}, got {unknown}")
    return split, tuple(
        TaskEntry(
            id=task.id,
            split_part="test" if task.id in request.test_tasks else "train",
            parameters=parameters[task.id],
        )
        for task in tasks
    )


def _of_family(
    request: ImportRequest, split: Split, tasks: tuple[ForeignTask, ...], name: str
) -> tuple[TaskEntry, ...]:
    """Entries of tasks that are the family's own, by id; what the files say must agree."""
    if request.test_tasks:
        raise ValueError(
            f"test tasks of split {name!r} are the family's own: leave --test-tasks out, or give "
            "the split a name of its own with --split"
        )
    known = {task.id: task for task in split.tasks}
    train = {task.id for task in split.train}
    given = {} if request.task_parameters == OF_FAMILY else _parameters(request, tasks)
    for task in tasks:
        if task.id not in known:
            raise ValueError(
                f"task {task.id} ({task.place.name}) must be one of split {name!r}, which has "
                f"{min(known)} to {max(known)}: its numbers must be the family's, or the split "
                "must have a name of its own (--split) and --task-parameters be a file"
            )
        if task.id in given:
            _require_equal(known[task.id], given[task.id], name)
    return tuple(
        TaskEntry(
            id=task.id,
            split_part="train" if task.id in train else "test",
            parameters=known[task.id].parameters,
        )
        for task in tasks
    )


def _require_equal(task: Task, given: Mapping[str, float], split: str) -> None:
    own = task.parameters
    same = own.keys() == given.keys() and all(
        math.isclose(
            own[name], given[name], rel_tol=PARAMETER_TOLERANCE, abs_tol=PARAMETER_TOLERANCE
        )
        for name in own
    )
    if not same:
        raise ValueError(
            f"parameters of task {task.id} must be those of the family's split {split!r}, {own}, "
            f"got {dict(given)}: give the split a name of its own with --split"
        )


def _parameters(
    request: ImportRequest, tasks: tuple[ForeignTask, ...]
) -> dict[int, dict[str, float]]:
    """Each task's parameters, from the files' names, from a JSON file, or none."""
    if request.task_parameters is None:
        silent = [task.id for task in tasks if task.parameters is None]
        if silent:
            raise ValueError(
                f"task parameters must be given, files of the format {request.format} do not have "
                f"those of tasks {silent[:5]}: --task-parameters takes a JSON file "
                f'{{"<task>": {{"<name>": <number>}}}}, {OF_FAMILY!r} for the tasks of the '
                f"family's split, or {NONE!r}"
            )
        return {task.id: dict(task.parameters or {}) for task in tasks}
    if request.task_parameters == NONE:
        return {task.id: {} for task in tasks}
    return _read_parameters(Path(request.task_parameters), tasks)


def _read_parameters(path: Path, tasks: tuple[ForeignTask, ...]) -> dict[int, dict[str, float]]:
    try:
        stated = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"task parameters must be {OF_FAMILY!r}, {NONE!r} or a JSON file, reading {path} "
            f"failed: {error}"
        ) from error
    found = {}
    for task in tasks:
        values = stated.get(str(task.id)) if isinstance(stated, dict) else None
        if not isinstance(values, dict) or not all(map(_is_number, values.values())):
            raise ValueError(
                f'{path} must give task {task.id} as "{task.id}": {{"<name>": <finite number>}}, '
                f"got {str(values)[:60]}"
            )
        found[task.id] = {str(name): float(value) for name, value in values.items()}
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
