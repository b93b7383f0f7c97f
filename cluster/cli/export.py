"""`causeway export`: a run's policy for use without it."""

from pathlib import Path
from typing import Annotated

import typer

from causeway.cluster.cli.output import print_line
from causeway.cluster.cli.report import RunFolder
from causeway.cluster.config_yaml import ConfigError


def export(
    folder: RunFolder,
    to: Annotated[Path, typer.Option("--to", help="A new folder for the policy.")],
) -> None:
    """Write the policy of a run's last checkpoint into a folder of its own.

    It acts and adapts without the run, Ray or MuJoCo: causeway.learners.exported.ExportedPolicy.
    """
    from causeway.cluster.exporting import export_policy
    from causeway.cluster.launch import trained_run
    from causeway.learners.exported import ExportError

    config, checkpoint = trained_run(folder, to_be="exported")
    try:
        export_policy(config, checkpoint, to)
    except ExportError as error:
        raise ConfigError(f"--to {error}") from error
    print_line(str(to))
