"""The walkthrough for a cluster of three nodes is followed to the letter, on one machine."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from causeway.cluster.redis_server import find_server_binary

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("6390", "6380", "8265")  # in the document; others may be in use here
PATIENCE_S = 400


def lines_of(document):
    """What the section by hand has its reader type."""
    section = re.search(r"^## Three nodes by hand$(.*?)^## ", document, re.DOTALL | re.MULTILINE)
    return "\n".join(re.findall(r"^```bash\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE))


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.mark.ray
@pytest.mark.slow
def test_the_walkthrough_ends_with_a_run_that_is_exact(tmp_path):
    text = lines_of((ROOT / "docs" / "cluster.md").read_text())
    for documented, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        assert documented in text
        text = text.replace(documented, free)
    shared, programs = tmp_path / "shared", tmp_path / "bin"
    assert "$(mktemp -d)" in text
    text = text.replace("$(mktemp -d)", str(shared))
    shared.mkdir()
    programs.mkdir()
    if shutil.which("redis-server") is None:
        (programs / "redis-server").symlink_to(find_server_binary())
    variables = {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("PYTHONPATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):  # of the tests, not a reader's
        variables.pop(name, None)
    answer = subprocess.run(
        ["bash", "-eu", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{text}"],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    said = answer.stdout + answer.stderr
    assert "job first-1 succeeded" in said, said[-4000:]
    assert re.search(r"[1-9]\d* shards with [\d,]+ rows committed once each", said), said[-4000:]
    assert "0 files not in the ledger, 0 faults" in said
    assert (shared / "runs" / "first" / "results.json").exists()
