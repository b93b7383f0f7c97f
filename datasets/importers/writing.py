"""From a foreign format's tasks to a data set of ours: read, converted and written part by part."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from causeway.datasets.batches import Episode
from causeway.datasets.importers.conversion import ConversionConfig, Converter, check_horizon
from causeway.datasets.importers.foreign import (
    OPTIONS,
    ForeignEpisode,
    ForeignTask,
    Format,
    Notes,
    ReadOptions,
    refused,
)
from causeway.datasets.writer import DatasetWriter, max_part_rows

Progress = Callable[[int, int], None]  # told how many of how many bytes have been read


def check_options(form: Format, options: ReadOptions) -> None:
    """Refuses an option that the format does not take: it would be dropped without a word.

    Raises:
        ValueError: naming the option.
    """
    empty = ReadOptions(horizon=options.horizon)
    for name in OPTIONS:
        if getattr(options, name) != getattr(empty, name) and name not in form.options:
            taken = ", ".join(f"--{o.replace('_', '-')}" for o in sorted(form.options))
            raise ValueError(
                f"--{name.replace('_', '-')} is not for the format {form.name}, "
                f"which takes {taken or 'none of these options'}: leave it out"
            )


def write_tasks(
    form: Format,
    tasks: Sequence[ForeignTask],
    options: ReadOptions,
    config: ConversionConfig,
    writer: DatasetWriter,
    *,
    horizon_given: bool,
    progress: Progress,
) -> Notes:
    """Reads, converts and writes every episode of the tasks.

    Args:
        form: of the files.
        tasks: all that the writer's header lists.
        options: what the files do not say of themselves.
        config: what the episodes must be.
        writer: at work.
        horizon_given: whether the horizon was given for these files; if not, it must fit them.
        progress: told how far it is.

    Returns:
        What was found and done, for the manifest.

    Raises:
        DatasetError: naming the file and what is wrong in it.
    """
    notes: Notes = {}
    converter = Converter(config, notes, continuous=form.continuous)
    total, before = sum(task.bytes for task in tasks), 0
    for task in tasks:
        lengths: Counter[int] = Counter()
        told = partial(_tell, progress, task, before, total)
        found = _noted(form.read(task, options, notes), lengths, told)
        for part in _parts(map(converter.convert, found), config):
            writer.add(task.id, part)
        if not lengths:
            raise refused(task.place, "must hold at least one episode of at least one step")
        if form.by_horizon and not horizon_given:
            check_horizon(lengths, options.horizon, str(task.place))
        before += task.bytes
        progress(before, total)
    return notes


def _tell(progress: Progress, task: ForeignTask, before: int, total: int, share: float) -> None:
    progress(before + round(share * task.bytes), total)


def _noted(
    episodes: Iterator[ForeignEpisode], lengths: Counter[int], told: Callable[[float], None]
) -> Iterator[ForeignEpisode]:
    """The episodes, their lengths counted and the share that is read told."""
    for episode in episodes:
        lengths[len(episode.rows)] += 1
        told(episode.share)
        yield episode


def _parts(episodes: Iterator[Episode], config: ConversionConfig) -> Iterator[list[Episode]]:
    """The episodes in lists, each for a part."""
    limit = max_part_rows(config.layout)
    part: list[Episode] = []
    rows = 0
    for episode in episodes:
        if part and rows + len(episode) > limit:
            yield part
            part, rows = [], 0
        part.append(episode)
        rows += len(episode)
    if part:
        yield part
