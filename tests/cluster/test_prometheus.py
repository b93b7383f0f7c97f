"""A real Prometheus scrapes a real run: every metric of the catalogue and every panel has data."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import ray
import yaml

from causeway.cluster.dashboard import dashboard
from causeway.cluster.metrics import CATALOGUE, RayMetrics
from causeway.cluster.naming import actor_name
from causeway.cluster.streams import open_data
from tests.tiny_runs import advance, distributed_run, make_data, tiny_config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "1000")
EAGER = ("--collection.env_steps_per_update", "1000")
PATIENCE_S = 90.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def prometheus(folder, port):
    """A Prometheus that scrapes this port each second, with the rules that are deployed."""
    shutil.copy(DEPLOY / "prometheus" / "rules.yaml", folder / "rules.yaml")
    own, config = free_port(), folder / "prometheus.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": ["rules.yaml"],
                "scrape_configs": [
                    {"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                ],
            }
        )
    )
    words = [f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb"]
    process = subprocess.Popen(
        ["prometheus", *words, f"--web.listen-address=127.0.0.1:{own}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait()


def ask(url, expression):
    """What Prometheus has for an expression at this moment."""
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as answer:
        return json.loads(answer.read())["data"]["result"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus is on PATH")
def test_every_metric_and_every_panel_has_data_of_a_real_run(local_ray, tmp_path):
    data = make_data(tmp_path / "data")
    config = tiny_config(tmp_path, data, *ENDLESS, *EAGER, "--run.name", "seen")
    (part,) = open_data(config).parts(3)
    (data / part.path).write_bytes(b"damaged, so that something is quarantined")
    port = ray.nodes()[0]["MetricsExportPort"]
    with prometheus(tmp_path, port) as url, distributed_run(config) as run:
        run._recorder.listeners.append(RayMetrics(config.name).record)
        advance(run, lambda: run.figures()["env_steps"] > 0, 120.0)
        collector = ray.get_actor(actor_name(config.name, "collector", 0))
        os.kill(ray.get(collector.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
        advance(run, lambda: run.figures()["restarts"] > 0)

        panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
        shown = [target["expr"] for panel in panels for target in panel["targets"]]
        missing = {text.replace("$run", "seen") for text in shown}
        for metric in CATALOGUE:
            total = "_total" if metric.kind == "counter" else ""
            missing.add(f'ray_{metric.name}{total}{{run="seen"}}')
        deadline = time.monotonic() + PATIENCE_S
        while missing := {text for text in missing if not ask(url, text)}:
            assert time.monotonic() < deadline, sorted(missing)
            updates = run.schedule.position.updates
            advance(run, lambda updates=updates: run.schedule.position.updates > updates)
        assert ask(url, "ray_causeway_quarantined_total")[0]["value"][1] == "1"
        run.run(lambda: True)
