"""Real servers for the tests: an embedded Redis each, and one local Ray for all that need it."""

import pytest

from causeway.cluster.ray_local import RayConfig, ray_session
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import EmbeddedRedis


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
