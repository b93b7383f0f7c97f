"""Runs as jobs of a Ray cluster: submitted to its dashboard from anywhere, and followed.

A job's command is `causeway train FILE --or-resume` on one of the cluster's nodes, so the same
submission again goes on with the run where an earlier job has left it.
"""

import asyncio
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from causeway.cluster.admission import dashboard_is_open, refusal
from causeway.cluster.config import RunConfig, load_run_config
from causeway.cluster.config_io import ConfigError
from causeway.cluster.ray_local import RayStartError

STOP_WAIT_S = 120  # between a job's SIGTERM and its SIGKILL: what a checkpoint may take
POLL_S = 0.5
AGENT_S = 60.0  # until a cluster that has just started takes jobs
NO_AGENT = "No available agent"  # Ray has no class for it
NOT_UPLOADED = ("/.git/", "/.venv/", "/runs/", "/data/")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A run to be submitted."""

    file: Path
    overrides: tuple[str, ...]  # of its configuration, as on the command line
    working_dir: Path  # is uploaded; the job runs in it
    address: str  # of the dashboard, as http://head:8265
    num_cpus: float  # that the job's driver asks for, so that it is placed away from the head


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that was submitted."""

    id: str
    run: str
    client: Any


def submit(request: JobRequest) -> Job:
    """Submits a run; the same run again goes on from its last checkpoint.

    Raises:
        ConfigError: the configuration cannot work on a cluster, or the run is at work already.
        RayStartError: the cluster cannot be reached, refuses us, or admits anyone.
    """
    config = load_run_config(request.file, request.overrides)
    check_for_cluster(config)
    client, jobs = _reach(request.address, config)
    mine = [job for job in jobs if (job.metadata or {}).get("run") == config.name]
    for job in mine:
        if not job.status.is_terminal():
            raise ConfigError(
                f"run.name {config.name!r} must name a run that is not at work, but job "
                f"{job.submission_id} is {job.status.value.lower()}: follow it with 'ray job logs "
                f"{job.submission_id} --follow', end it with 'ray job stop', or choose another name"
            )
    taken = {job.submission_id for job in mine}
    submission_id = next(name for name in _numbered(config.name) if name not in taken)
    _submit(
        client,
        entrypoint=entrypoint(request, config),
        submission_id=submission_id,
        metadata=metadata_of(config),
        entrypoint_num_cpus=request.num_cpus,
        runtime_env={
            "working_dir": str(request.working_dir.resolve()),
            "excludes": list(NOT_UPLOADED),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "OMP_NUM_THREADS": "1"},
        },
    )
    return Job(id=submission_id, run=config.name, client=client)


def follow(job: Job, show: Callable[[str], object]) -> tuple[str, str]:
    """Shows what the job prints until it ends; gives its status and a message on it.

    Ray's status and not an exit code, which Ray has for a stopped job as little as for one that
    could not be set up.
    """

    async def tail() -> None:
        async for text in job.client.tail_job_logs(job.id):
            show(text)

    asyncio.run(tail())
    while not (info := job.client.get_job_info(job.id)).status.is_terminal():
        time.sleep(POLL_S)
    return info.status.value, info.message or ""


def check_for_cluster(config: RunConfig) -> None:
    """Raises ConfigError where the configuration cannot work on a cluster of several machines."""
    if config.run.serial:
        raise ConfigError("run.serial must be false for a job, got true: a serial run needs no Ray")
    if not Path(config.run.folder).is_absolute():
        raise ConfigError(
            f"run.folder must be an absolute path that every node reaches, got "
            f"{config.run.folder!r}: a job's own working directory goes with it. Give for example "
            "--run.folder /mnt/shared/runs"
        )
    if "://" not in config.data.path and not Path(config.data.path).is_absolute():
        raise ConfigError(
            f"data.path must be an absolute path or a URI that every node reaches, got "
            f"{config.data.path!r}: data are not uploaded with a job"
        )


def metadata_of(config: RunConfig) -> dict[str, str]:
    """What Ray's dashboard and `ray job list` show of the job."""
    return {
        "run": config.name,
        "algorithm": config.run.algorithm,
        "family": config.data.family,
        "split": config.data.split,
        "seed": str(config.run.seed),
        "folder": str(config.folder),
    }


def entrypoint(request: JobRequest, config: RunConfig) -> str:
    """The job's command line."""
    folder, file = request.working_dir.resolve(), request.file.resolve()
    if not file.is_relative_to(folder):
        raise ConfigError(
            f"{request.file} must lie in the working directory that is uploaded, {folder}: give "
            "another one with --working-dir"
        )
    words: Sequence[str] = [
        *("python", "-m", "causeway", "train", str(file.relative_to(folder)), "--or-resume"),
        *request.overrides,
        *("--run.name", config.name, "--ray.address", "auto"),
    ]
    return shlex.join(words)


def _reach(address: str, config: RunConfig) -> tuple[Any, list[Any]]:
    """A client of the dashboard and the jobs that it knows."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigError(
            f"the address must be that of the cluster's dashboard, as http://head:8265, got "
            f"{address!r}"
        )
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        is_open = dashboard_is_open(address)
        if is_open and not config.ray.allow_cluster_without_token:
            raise RayStartError(refusal(address))
        client = JobSubmissionClient(address)
        return client, client.list_jobs()
    except (OSError, RuntimeError, AuthenticationError) as error:
        if isinstance(error, RayStartError):
            raise
        raise RayStartError(
            f"no job can be submitted at {address} ({str(error).strip()}): check the address, and, "
            "where the cluster asks for its token, set RAY_AUTH_MODE=token and give the token in "
            "RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names"
        ) from error


def _submit(client: Any, **job: Any) -> None:
    """Submits, after the cluster's agents have come up; what is uploaded is uploaded once."""
    logging.getLogger("ray._private.runtime_env").setLevel(logging.ERROR)  # tells of every file
    deadline = time.monotonic() + AGENT_S
    while True:
        try:
            client.submit_job(**job)
            return
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _numbered(name: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{name}-{number}"
