"""`causeway report` and `causeway evaluate`: what a run has found out."""

from pathlib import Path
from typing import Annotated

import typer

from causeway.cluster.cli.output import print_json, print_line, print_table
from causeway.cluster.config_yaml import ConfigError

RunFolder = Annotated[Path, typer.Argument(help="The run's folder.")]


def report(
    folder: RunFolder,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="A folder for the figures as PNG.")
    ] = None,
) -> None:
    """Write a run's report: one HTML page with its pictures inside."""
    from causeway.cluster.report.build import build_report

    print_line(str(build_report(folder, pictures=pictures)))


def evaluate(
    folder: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Evaluate a run's last checkpoint on the held-out tasks, under each context protocol."""
    from causeway.cluster.evaluation import EvaluationService
    from causeway.cluster.launch import existing_run
    from causeway.cluster.learner import LearnerService
    from causeway.cluster.streams import open_data

    config, checkpoint, _ = existing_run(folder)
    if checkpoint is None:
        raise ConfigError(
            f"{folder} must have a checkpoint to be evaluated, it has none: the run ended before "
            f"its first; 'causeway resume {folder}' goes on with it"
        )
    learner = LearnerService(config, open_data(config).layout)
    learner.load(checkpoint)
    found = EvaluationService(config).evaluate(*learner.weights())
    returns = {name: summary.to_json() for name, summary in found.returns().items()}
    if as_json:
        print_json({"updates": found.updates, **returns})
        return
    rows = [
        (name.replace("_", " "), f"{value['mean']:.2f}", _width(value["ci95"]))
        for name, value in returns.items()
    ]
    print_table((f"after {found.updates} updates", "mean", "± 95 %"), rows)


def _width(half_width: float | None) -> str:
    return "" if half_width is None else f"{half_width:.2f}"
