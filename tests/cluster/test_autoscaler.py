"""Ray's autoscaler brings nodes for the collectors that a run is asked for, and takes them away.

The nodes are real raylets on this machine, started by Ray's own provider for tests.
"""

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
)
from ray.cluster_utils import Cluster

from causeway.cluster.cli.main import run as causeway
from causeway.cluster.naming import NAMESPACE, actor_name
from causeway.cluster.redis_server import EmbeddedRedis
from tests.tiny_runs import advance, distributed_run, tiny_config

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
COMMANDS = (
    *("initialization", "setup", "head_setup", "worker_setup"),
    *("head_start_ray", "worker_start_ray"),
)
STORE_BYTES = 100_000_000
PATIENCE_S = 120.0
ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "1000000")
ON_NODES = (
    *("--ray.address", "auto", "--collection.resources", "{collector: 1}"),
    *("--collection.cpus_per_collector", "0", "--collection.env_steps_per_update", "1000"),
)


def launcher_file(port):
    """What `ray up` would be given: nodes for one collector each, none of them at first."""
    return {
        "cluster_name": "scaled",
        "max_workers": 3,
        "idle_timeout_minutes": 0.05,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
            "collectors": {
                "resources": {"CPU": 0, "collector": 1, "object_store_memory": STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 3,
            },
        },
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,  # the nodes need no ssh
            "disable_launch_config_check": True,
        },
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{f"{name}_commands": [] for name in COMMANDS},
        "cluster_synced_files": [],
        "upscaling_speed": 10.0,
    }


@pytest.fixture
def autoscaled(tmp_path, monkeypatch):
    """A head with an autoscaler, and this process connected to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "launcher.json"
    file.write_text(json.dumps(launcher_file(port)))
    settings = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    with monkeypatch.context() as variables:
        for name, value in settings.items():
            variables.setenv(name, value)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 4,
                "object_store_memory": 200_000_000,
                "gcs_server_port": port,
                "autoscaling_config": str(file),
            },
        )
    try:
        ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()
        end_nodes(f"127.0.0.1:{port}")


def end_nodes(address):
    """Ends what the provider has left behind: its nodes outlive the head that they belonged to."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"={address}" in (folder / "cmdline").read_text():
                os.kill(int(folder.name), signal.SIGKILL)


def nodes_of_collectors():
    """The nodes that are alive and have a place for a collector."""
    return {n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("collector")}


def node_of(config, index):
    """Where a collector is."""
    actor = ray.get_actor(actor_name(config.name, "collector", index))
    return ray.get(
        actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()), timeout=30
    )


@pytest.mark.ray
@pytest.mark.slow
def test_scaling_a_run_brings_nodes_and_takes_them_away(
    autoscaled, tmp_path, tiny_data, monkeypatch, capsys
):
    words = (*ENDLESS, *ON_NODES, "--collection.collectors", "1", "--run.name", "scaled")
    config = tiny_config(tmp_path, tiny_data, *words)
    folder = str(config.folder)
    assert nodes_of_collectors() == set()
    with EmbeddedRedis(tmp_path / "shared") as url:
        monkeypatch.setenv("CAUSEWAY_REDIS_URL", url)
        with distributed_run(config) as run:
            advance(run, lambda: run.figures()["env_steps"] > 0, PATIENCE_S)
            assert nodes_of_collectors() == {node_of(config, 0)}

            assert causeway(["scale", folder, "--collectors", "3"]) == 0
            begun = time.monotonic()
            advance(run, lambda: run.figures()["collectors"] == 3, PATIENCE_S)
            came_s = time.monotonic() - begun
            places = {node_of(config, index) for index in range(3)}
            assert len(places) == 3
            assert places == nodes_of_collectors()
            committed = run.figures()["shards_committed"]
            advance(run, lambda: run.figures()["shards_committed"] > committed + 3, PATIENCE_S)

            assert causeway(["scale", folder, "--collectors", "1"]) == 0
            begun = time.monotonic()
            advance(run, lambda: len(nodes_of_collectors()) == 1, PATIENCE_S)
            with capsys.disabled():
                print(
                    f"\ntwo collectors more, on new nodes, {came_s:.1f} s after the command; their "
                    f"nodes gone {time.monotonic() - begun:.1f} s after the one that took them away"
                )
            assert run.figures()["collectors"] == 1
            assert run.figures()["deaths"] == 0
