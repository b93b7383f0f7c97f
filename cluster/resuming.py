"""Going on with a run on another machine: what of its configuration may change, and what not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import CONFIG_NAME, RunConfig, load_run_config, save_run_config
from causeway.cluster.config_io import ConfigError, to_plain
from causeway.cluster.launch import newest_checkpoint, run_in

# What a machine has and where things lie on it: nothing of it changes what is learned, up to
# rounding. Names of fields, or of whole sections.
CHANGEABLE = (
    "run.learners",
    "data.path",  # the checkpoint knows the parts that it was trained on
    "data.added_paths",
    "data.cache_folder",
    "data.cache_bytes",
    "trainer.device",
    "trainer.threads",
    "schedule.keep_checkpoints",
    "schedule.checkpoint_copies",
    "schedule.block_timeout_s",
    "schedule.recoveries",
    "collection.collectors",
    "collection.cpus_per_collector",
    "collection.resources",
    "collector.threads",
    "ray",
    "redis",
    "pool",
)
# Why everything else stays. The longest name that fits a field is its own.
HELD = {
    "run": "it says which run this is",
    "run.folder": "the run is where its folder is, which may be moved as a whole",
    "data": "it would learn from other data",
    "sampler": "it would draw other meta-batches",
    "trainer": "its updates would be computed otherwise",
    "schedule": "its stages, and what is measured in them, would be others",
    "collection": "it would gather its rollouts by other rules",
    "collector": "it would gather other rollouts",
    "evaluation": "returns could not be compared with those before; 'causeway evaluate' takes it",
    "hyperparameters": "another algorithm would go on",
}


def resumed_run(
    folder: Path, overrides: Sequence[str]
) -> tuple[RunConfig, Checkpoint | None, list[str]]:
    """A run that goes on, maybe changed for the machine it is on, and where it stands.

    Args:
        folder: the run's own. Its `config.yaml` says from now on what was changed.
        overrides: as on the command line, of the fields in `CHANGEABLE`. Others may be given what
            they are.

    Returns:
        The configuration, the newest whole checkpoint if there is one, and a line for each change
        and for each newer checkpoint that could not be used.

    Raises:
        ConfigError: this is not the folder of a run, or an override is not valid or of a field
            that must stay.
        CheckpointError: it has checkpoints but none that can be used.
    """
    saved = run_in(folder)
    config, changes = changed_for_machine(saved, overrides)
    checkpoint, faults = newest_checkpoint(config)
    if changes:
        save_run_config(config, folder)
    return config, checkpoint, [*changes, *faults]


def changed_for_machine(
    saved: RunConfig, overrides: Sequence[str]
) -> tuple[RunConfig, tuple[str, ...]]:
    """The configuration with its overrides, and each change as a line of text.

    Raises:
        ConfigError: an override is not valid, or of a field that must stay.
    """
    config = load_run_config(saved.folder / CONFIG_NAME, overrides)
    as_it_was = load_run_config(saved.folder / CONFIG_NAME).run.folder
    here = saved.run.folder  # it may have been moved since
    if config.run.folder == as_it_was or Path(config.run.folder).resolve() == Path(here).resolve():
        config = config.replace(run=replace(config.run, folder=here))
    changes = []
    for name, before, after in _differences(to_plain(saved), to_plain(config), ""):
        if not any(_is_in(name, changeable) for changeable in CHANGEABLE):
            raise ConfigError(
                f"{name} must stay {before!r} where a run goes on, got {after!r}: "
                f"{reason_to_hold(name)}. Leave it out, or train another run with it"
            )
        changes.append(f"{name} was {before!r} and is {after!r} from now on")
    return config, tuple(changes)


def reason_to_hold(name: str) -> str:
    """Why a field may not change while its run goes on.

    Raises:
        KeyError: nothing is said of it.
    """
    return HELD[max((held for held in HELD if _is_in(name, held)), key=len, default=name)]


def _is_in(name: str, section: str) -> bool:
    return name == section or name.startswith(f"{section}.")


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted names and both values of the fields that differ."""
    for key in dict.fromkeys([*before, *after]):
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}", one, other
