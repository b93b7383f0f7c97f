"""`causeway submit`: a run as a job of a Ray cluster."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from causeway.cluster.cli.invocation import overrides_of
from causeway.cluster.cli.output import print_line

SUCCEEDED, STOPPED = "SUCCEEDED", "STOPPED"
FAILED_CODE, STOPPED_CODE = 1, 130


def submit(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The run's YAML.")],
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The dashboard's.")
    ] = "http://127.0.0.1:8265",
    working_dir: Annotated[
        Path, typer.Option(help="Is uploaded, without what .gitignore and .rayignore name.")
    ] = Path(),
    num_cpus: Annotated[float, typer.Option(min=0.0, help="That its driver asks for.")] = 1.0,
    follow: Annotated[bool, typer.Option(help="Show what the job prints until it ends.")] = True,
) -> None:
    """Submit a run to a Ray cluster, or go on there with a run that was submitted before."""
    from causeway.cluster import jobs

    request = jobs.JobRequest(
        file=file,
        overrides=overrides_of(context),
        working_dir=working_dir,
        address=address,
        num_cpus=num_cpus,
    )
    job = jobs.submit(request)
    print_line(f"job {job.id} for run {job.run}; 'ray job stop {job.id}' ends it in order")
    if not follow:
        return
    try:
        status, message = jobs.follow(job, sys.stdout.write)
    except KeyboardInterrupt:
        print_line(f"no longer followed; the job goes on: 'ray job logs {job.id} --follow'")
        raise
    print_line(f"job {job.id} {status.lower()}" + (f": {message}" if message else ""))
    if status != SUCCEEDED:
        raise typer.Exit(STOPPED_CODE if status == STOPPED else FAILED_CODE)
