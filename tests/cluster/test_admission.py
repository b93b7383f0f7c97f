"""A cluster that other machines reach is joined, and given jobs, only where it asks for a token."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from causeway.cluster.admission import is_this_machine
from tests.tiny_runs import write_yaml

PATIENCE_S = 60.0
JOIN = """
import sys
from causeway.cluster.ray_local import RayConfig, RayStartError, start_ray
try:
    start_ray(RayConfig(address=sys.argv[1], allow_cluster_without_token=sys.argv[2] == "allowed"))
except RayStartError as error:
    sys.exit(str(error))
"""


def outer_address():
    """This machine's own address in a network that others are in, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: a datagram socket only picks a route
        address = probe.getsockname()[0]
        return None if address.startswith("127.") else address
    return None


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def answers(address, port):
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


@contextlib.contextmanager
def head(address, **variables):
    """A head with a dashboard, as `ray start` makes it; gives its ports and its environment."""
    loopback = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    environment = {k: v for k, v in os.environ.items() if k != loopback} | variables
    ray, port, dashboard = Path(sys.executable).parent / "ray", free_port(), free_port()
    process = subprocess.Popen(
        [
            *(ray, "start", "--head", "--block", "--num-cpus=1", "--object-store-memory=80000000"),
            *(f"--node-ip-address={address}", f"--port={port}", f"--dashboard-port={dashboard}"),
            f"--dashboard-host={address}",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        for waited in (port, dashboard):
            while not answers(address, waited):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield f"{address}:{port}", f"http://{address}:{dashboard}", environment
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def join(address, environment, allowed="refused"):
    """Joins in a process of its own, because Ray reads its mode once; gives its complaint."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", JOIN, address, allowed],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    ).stderr


def submit(file, url, environment):
    words = ("submit", str(file), "--address", url, "--working-dir", str(file.parent))
    return subprocess.run(
        [sys.executable, "-m", "causeway", *words, "--no-follow", "--ray.address", "auto"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


outer = pytest.mark.skipif(
    outer_address() is None, reason="this machine is in no network: none could reach its cluster"
)


@outer
@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_admits_anyone_is_refused_unless_that_is_allowed(tmp_path, tiny_data):
    file = write_yaml(tmp_path, tiny_data)
    with head(outer_address(), RAY_AUTH_MODE="disabled") as (address, url, environment):
        refused = join(address, environment)
        assert "must ask for a token, it admits anyone" in refused
        assert "RAY_AUTH_MODE=token" in refused
        assert "Error" not in join(address, environment, "allowed")
        answer = submit(file, url, environment)
        assert answer.returncode == 1
        assert "must ask for a token" in " ".join(answer.stderr.split())


@outer
@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_with_a_token_is_joined_with_it_and_not_without(tmp_path, tiny_data):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    file = write_yaml(tmp_path, tiny_data)
    with head(outer_address(), **token) as (address, url, environment):
        assert join(address, environment) == ""
        other = {**environment, "RAY_AUTH_TOKEN": "fedcba9876543210" * 4}
        assert "where it asks for its token, set" in join(address, other)
        assert "set RAY_AUTH_MODE=token" in " ".join(submit(file, url, other).stderr.split())


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("[::1]", True),
        ("127.8.9.1", True),
        ("10.0.0.1", False),
        ("head", False),
        ("0.0.0.0", False),
    ],
)
def test_only_a_loopback_address_is_this_machines_own(host, is_own):
    assert is_this_machine(host) is is_own
