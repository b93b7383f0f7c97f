"""One local Ray for each test file, with more CPUs than there are: its actors mostly wait."""

import pytest

from causeway.cluster.ray_local import RayConfig, ray_session


@pytest.fixture(scope="module")
def local_ray():
    with ray_session(RayConfig(num_cpus=8, object_store_bytes=200_000_000)):
        yield
