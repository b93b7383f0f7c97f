"""Runs as jobs: refused where they cannot work, submitted from a plain checkout, gone on with."""

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobSubmissionClient

from causeway.cluster.checkpoint import load_latest
from causeway.cluster.cli.main import run as causeway
from causeway.cluster.config import load_run_config
from causeway.cluster.config_io import ConfigError
from causeway.cluster.jobs import JobRequest, check_for_cluster, entrypoint, metadata_of
from causeway.cluster.metrics import read_metrics
from causeway.cluster.redis_server import EmbeddedRedis
from tests.tiny_runs import results_of, tiny_config, write_yaml

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "1000000")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["--run.serial", "true"], "run.serial must be false"),
        (["--run.folder", "runs"], "run.folder must be an absolute path that every node reaches"),
        (["--data.path", "data/here"], "data.path must be an absolute path or a URI"),
    ],
)
def test_a_configuration_that_no_cluster_can_run_is_refused_before_it_is_sent(
    tmp_path, tiny_data, overrides, told
):
    with pytest.raises(ConfigError, match=told):
        check_for_cluster(load_run_config(write_yaml(tmp_path, tiny_data), overrides))


def test_a_jobs_command_names_the_file_as_the_job_sees_it_and_goes_on_by_name(tmp_path, tiny_data):
    file = write_yaml(tmp_path, tiny_data)
    config = tiny_config(tmp_path, tiny_data, "--run.name", "mine")
    request = JobRequest(
        file=file,
        overrides=("--run.seed", "4"),
        working_dir=tmp_path,
        address="http://head:8265",
        num_cpus=1.0,
    )
    assert entrypoint(request, config) == (
        "python -m causeway train tiny.yaml --or-resume --run.seed 4 --run.name mine "
        "--ray.address auto"
    )
    assert metadata_of(config)["run"] == "mine"
    assert metadata_of(config)["family"] == "point-robot"
    with pytest.raises(ConfigError, match="must lie in the working directory"):
        entrypoint(
            JobRequest(
                file=file, overrides=(), working_dir=ROOT, address="http://head:8265", num_cpus=1.0
            ),
            config,
        )


def test_nothing_is_submitted_where_nothing_answers(tmp_path, tiny_data, capsys):
    file = str(write_yaml(tmp_path, tiny_data))
    words = ["submit", file, "--working-dir", str(tmp_path)]
    assert causeway([*words, "--address", "http://127.0.0.1:9"]) == 1
    assert "no job can be submitted at http://127.0.0.1:9" in " ".join(
        capsys.readouterr().err.split()
    )
    assert causeway([*words, "--address", "head:8265"]) == 2


@pytest.fixture
def dashboard(tmp_path, monkeypatch):
    """A cluster's dashboard; its nodes know a Redis, and no causeway but what a job brings."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with EmbeddedRedis(tmp_path / "shared") as url:
        monkeypatch.setenv("CAUSEWAY_REDIS_URL", url)
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 8, "include_dashboard": True}
        )
        try:
            yield f"http://{cluster.head_node.webui_url}"
        finally:
            cluster.shutdown()


def wait_for(condition, said):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ssl=None:DeprecationWarning")  # Ray's, of aiohttp
def test_a_stopped_job_has_left_a_checkpoint_and_the_next_goes_on_from_it(
    dashboard, tmp_path, tiny_data, capsys
):
    """From a plain checkout: what the job runs is the working directory that was uploaded."""
    file = ROOT / "deploy" / "runs" / f"submitted-{os.getpid()}.yaml"
    with contextlib.ExitStack() as stack:
        stack.callback(file.unlink, missing_ok=True)
        file.write_text(write_yaml(tmp_path, tiny_data).read_text())
        run = tmp_path / "mine"
        words = ["submit", str(file), "--address", dashboard, "--working-dir", str(ROOT)]
        words += ["--run.name", "mine"]
        assert causeway([*words, "--no-follow", *ENDLESS]) == 0
        client = JobSubmissionClient(dashboard)
        wait_for(
            lambda: (run / "metrics.jsonl").exists() and read_metrics(run / "metrics.jsonl"),
            lambda: client.get_job_logs("mine-1"),
        )
        assert client.get_job_info("mine-1").metadata["algorithm"] == "smac"
        capsys.readouterr()
        assert causeway([*words, "--no-follow"]) == 2
        assert "job mine-1 is running" in " ".join(capsys.readouterr().err.split())

        client.stop_job("mine-1")
        wait_for(
            lambda: client.get_job_status("mine-1").is_terminal(),
            lambda: client.get_job_logs("mine-1"),
        )
        assert client.get_job_status("mine-1").value == "STOPPED"
        assert "stopped, with a checkpoint" in " ".join(client.get_job_logs("mine-1").split())
        checkpoint, faults = load_latest(run)
        updates = checkpoint.state["trainer"]["updates"]
        assert (updates, faults) == (read_metrics(run / "metrics.jsonl")[-1]["updates"], [])

        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("online: 1000000", f"online: {updates}"))
        assert causeway(words) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "job mine-2 succeeded" in out
        assert "results.json" in out
        assert results_of(run)["updates"] == updates + 20
        assert results_of(run)["git_commit"] is None  # the upload is no repository
