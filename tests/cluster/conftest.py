"""Real servers for the tests: an embedded Redis each, and one local Ray for all that need it."""

import pytest

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
