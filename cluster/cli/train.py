"""`causeway train` and `causeway resume`: a run from its beginning, or from its last checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cluster.cli.invocation import overrides_of
from causeway.cluster.cli.output import print_line, print_table
from causeway.cluster.config_yaml import ConfigError

if TYPE_CHECKING:
    from causeway.cluster.config import RunConfig
    from causeway.cluster.launch import Outcome

INTERRUPTED = 130
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.")]


def train(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="The run's YAML; without one, the point-robot demo.")
    ] = None,
    or_resume: Annotated[
        bool, typer.Option("--or-resume", help="Go on with the run of that name if there is one.")
    ] = False,
    resume_from: Annotated[
        Path | None,
        typer.Option("--resume-from", help="A run whose configuration and weights to start with."),
    ] = None,
    add_data: Annotated[
        list[Path] | None,
        typer.Option("--add-data", help="With it: more data, whose tasks join the old ones."),
    ] = None,
) -> None:
    """Train: offline, then with online self-supervision; evaluate on held-out tasks; report."""
    from causeway.cluster.launch import has_run, launch, new_run
    from causeway.cluster.progress import ProgressView

    config = _configured(file, resume_from, add_data or [], overrides_of(context))
    if or_resume and has_run(config):
        _go_on(config.folder, overrides_of(context))
        return
    config, _ = new_run(config)
    with ProgressView(config.name) as view:
        outcome = launch(config, None, view)
    _tell(outcome)


def _configured(
    file: Path | None, resume_from: Path | None, add_data: list[Path], overrides: tuple[str, ...]
) -> "RunConfig":
    """The run's configuration: a file's, or that of the run that it goes on from."""
    from causeway.cluster.config import load_run_config
    from causeway.cluster.launch import continued_run

    if resume_from is None:
        if add_data:
            raise ConfigError("--add-data needs --resume-from: name the run that goes on with it")
        return load_run_config(file, overrides)
    if file is not None:
        raise ConfigError(
            f"--resume-from takes the configuration of its run, {file} must be left out: override "
            "single settings with --section.key value"
        )
    return continued_run(resume_from, add_data, overrides)


def resume(context: typer.Context, folder: RunFolder) -> None:
    """Go on with a run from its last checkpoint, or from the beginning where it has none.

    Overrides such as --trainer.device cpu or --collection.collectors 2 fit it to another machine.
    Those that would change what is learned are refused.
    """
    _go_on(folder, overrides_of(context))


def _go_on(folder: Path, overrides: tuple[str, ...]) -> None:
    from causeway.cluster.launch import launch
    from causeway.cluster.progress import ProgressView
    from causeway.cluster.resuming import resumed_run

    config, checkpoint, notes = resumed_run(folder, overrides)
    with ProgressView(config.name) as view:
        for note in notes:
            view.print(note)
        outcome = launch(config, checkpoint, view)
    _tell(outcome)


def _tell(outcome: "Outcome") -> None:
    if not outcome.finished:
        print_line(f"stopped, with a checkpoint; causeway resume {outcome.folder} goes on")
        raise typer.Exit(INTERRUPTED if outcome.interrupted else 0)
    print_results(outcome.folder)
    print_line(f"results: {outcome.folder / 'results.json'}")
    print_line(f"report:  {outcome.report}")


def print_results(folder: Path) -> None:
    """The returns on held-out tasks as a table, stage by stage.

    Of a run that goes on from another, those at the start and what has changed since as well.
    """
    import json

    results = json.loads((folder / "results.json").read_text())
    columns = {
        f"after {stage}": value
        for stage, value in results.items()
        if "prior_return" in _mapping(value)
    }
    if "old" in results:
        old = results["old"]
        columns = {"at the start": old["before"], **columns, "change": old["change"]}
    names = ("prior_return", "online_context_return", "offline_context_return")
    rows = [
        [name.replace("_", " "), *(_interval(column[name]) for column in columns.values())]
        for name in names
    ]
    rows += [
        [
            name.replace("_", " "),
            *("" if head == "change" else _interval(results[name]) for head in columns),
        ]
        for name in ("oracle_return", "random_return")
        if results[name] is not None
    ]
    print_table(("held-out tasks", *columns), rows)


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _interval(summary: dict[str, float | None]) -> str:
    text = f"{summary['mean']:.2f}"
    return text if summary["ci95"] is None else f"{text} ± {summary['ci95']:.2f}"
