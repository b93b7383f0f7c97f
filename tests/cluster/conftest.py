"""Real servers for the tests: an embedded Redis each, and one local Ray for all that need it.

And one finished run, for all that only look at it.
"""

import contextlib
import io

import pytest

from causeway.cluster.cli.main import run
from causeway.cluster.ray_local import RayConfig, ray_session
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import EmbeddedRedis
from tests.tiny_runs import write_yaml


@pytest.fixture
def server(tmp_path):
    embedded = EmbeddedRedis(tmp_path)
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture
def client(server):
    client = connect(server.start(), LinkConfig())
    yield client
    client.close()


@pytest.fixture(scope="module")
def local_ray():
    """A Ray of the test file's own, with more CPUs than there are: its actors mostly wait."""
    with ray_session(RayConfig(num_cpus=8, object_store_bytes=200_000_000)):
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_data):
    """The folder of a run that the command line has trained; tests must not change it."""
    folder = tmp_path_factory.mktemp("cli")
    path = write_yaml(folder, tiny_data)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(["train", str(path), "--run.serial", "true", "--run.name", "demo"]) == 0
    (folder / "printed").write_text(out.getvalue())
    return folder / "demo"
