"""An S3-compatible object store on this machine, for tests: moto's server as a process of its own.

In the tests' own process it would wait for the interpreter while Arrow, which holds it, waits for
the server.
"""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

BUCKET = "bucket"
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A store with one bucket."""

    port: int

    def uri(self, path: str) -> str:
        """Where something is in the bucket."""
        options = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        return f"s3://{BUCKET}/{path}?{options}"

    def request(self, path: str, method: str = "GET") -> None:
        """Asks the server for something."""
        address = f"http://127.0.0.1:{self.port}/{path}"
        with urllib.request.urlopen(urllib.request.Request(address, method=method)):
            pass


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Starts an object store, which ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        store = ObjectStore(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(store.port)]
    # It logs every request: a pipe that nobody reads would fill up and stop it.
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(store, server, log)
            store.request(BUCKET, "PUT")
            yield store
        finally:
            server.terminate()
            server.wait()


def _wait_for(store: ObjectStore, server: "subprocess.Popen[bytes]", log: IO[str]) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.poll() is None:
        try:
            store.request("moto-api/data.json")
        except urllib.error.URLError:
            time.sleep(0.05)
        else:
            return
    log.seek(0)
    raise RuntimeError(f"moto's server must answer, it said: {log.read()}")
