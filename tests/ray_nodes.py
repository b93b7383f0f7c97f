"""A Ray of several raylets on this machine, each a node to Ray."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

from causeway.cluster.naming import NAMESPACE


@contextmanager
def joined(cluster: Cluster) -> Iterator[Cluster]:
    """This process as a driver of the cluster, whose nodes are all there; ends both behind it."""
    try:
        ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
