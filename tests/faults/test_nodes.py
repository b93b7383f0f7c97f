"""Whole nodes: a run outlives the loss of those that collect, and the absence of Ray's own head."""

import os
import signal
import socket
import subprocess
import time

import pytest
from ray.cluster_utils import Cluster

from causeway.cluster.redis_server import EmbeddedRedis, find_server_binary
from causeway.cluster.streams import open_data
from tests.ray_nodes import joined
from tests.tiny_runs import advance, assert_exact, distributed_run, online_parts, tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "1000000")
EAGER = ("--collection.env_steps_per_update", "1000")
STORE_BYTES = 200_000_000
AWAY_S = 6.0


def settle(run, config):
    """Pauses the run, lets what is on its way come in, and gives what the ledger holds."""
    run.services.control.pause()
    advance(run, lambda: run.pool.states()["busy"] == 0)
    advance(run, lambda: not any(run.figures()["queue_depth"].values()))
    records, _ = run.services.ledger.records(None)
    assert_exact(records, config.folder, open_data(config).layout)
    assert len(online_parts(config.folder)) == len(records)


def test_a_lost_node_of_collectors_costs_their_rollouts_and_others_take_their_place(
    tmp_path, tiny_data, monkeypatch, capsys
):
    node = {"num_cpus": 4, "resources": {"collector": 2}, "object_store_memory": STORE_BYTES}
    head = {"num_cpus": 4, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    first = cluster.add_node(**node)
    words = ("--collection.resources", "{collector: 1}", "--collection.collectors", "2")
    words += ("--ray.address", "auto", "--run.name", "nodes")
    config = tiny_config(tmp_path, tiny_data, *ENDLESS, *EAGER, *words)
    with EmbeddedRedis(tmp_path / "shared") as url, joined(cluster):
        monkeypatch.setenv("CAUSEWAY_REDIS_URL", url)
        with distributed_run(config) as run:
            advance(run, lambda: run.figures()["env_steps"] > 0, 120.0)
            os.kill(first.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            begun = time.monotonic()
            advance(run, lambda: run.pool.counts["node"] >= 2, 120.0)
            updates = run.schedule.position.updates
            advance(run, lambda: run.schedule.position.updates > updates + 20)
            assert run.figures()["collectors"] == 0
            cluster.add_node(**node)
            env_steps = run.figures()["env_steps"]
            advance(run, lambda: run.figures()["env_steps"] > env_steps, 120.0)
            with capsys.disabled():
                print(f"\nnode lost and replaced: rollouts after {time.monotonic() - begun:.1f} s")
            settle(run, config)


@pytest.fixture
def redis_of_the_head(tmp_path, monkeypatch):
    """A Redis of its own for Ray's head."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    folder = tmp_path / "gcs"
    folder.mkdir()
    process = subprocess.Popen(
        [str(find_server_binary()), "--port", port, "--bind", "127.0.0.1", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    monkeypatch.setenv("RAY_REDIS_ADDRESS", f"127.0.0.1:{port}")
    yield
    process.terminate()
    process.wait()


def test_a_run_goes_on_while_rays_head_is_away_and_grows_when_it_is_back(
    redis_of_the_head, tmp_path, tiny_data, capsys
):
    head = {
        "num_cpus": 8,
        "object_store_memory": STORE_BYTES,
        "_system_config": {"gcs_rpc_server_reconnect_timeout_s": 600},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    config = tiny_config(tmp_path, tiny_data, *ENDLESS, *EAGER, "--run.name", "head")
    with joined(cluster), distributed_run(config) as run:
        advance(run, lambda: run.figures()["env_steps"] > 0, 120.0)
        cluster.head_node.kill_gcs_server(check_alive=False)
        before, begun = run.figures(), time.monotonic()
        gaps, last, updates = [], begun, before["updates"]
        while time.monotonic() < begun + AWAY_S:
            run.step()
            if run.figures()["updates"] > updates:
                gaps.append(time.monotonic() - last)
                last, updates = time.monotonic(), run.figures()["updates"]
        away = run.figures()
        cluster.head_node.start_gcs_server()
        run.services.control.set_collectors(2)
        grew = advance(run, lambda: run.figures()["collectors"] == 2, 120.0)
        with capsys.disabled():
            print(
                f"\nhead away for {AWAY_S:g} s: {away['updates'] - before['updates']} updates, "
                f"longest gap {max(gaps):.1f} s; another collector {grew:.1f} s after its return"
            )
        assert away["updates"] > before["updates"]
        assert away["env_steps"] > before["env_steps"]
        assert away["deaths"] == before["deaths"]
        settle(run, config)
