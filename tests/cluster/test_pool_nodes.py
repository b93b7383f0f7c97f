"""The pool on several nodes; a file of its own, because its Ray is not the shared one."""

import os
import signal
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from causeway.cluster.naming import actor_name
from causeway.cluster.pool import ActorPool, Call, Done, Failed, PoolConfig, actor_options
from tests.ray_nodes import joined


class Worker:
    def work(self):
        time.sleep(0.1)
        return os.getpid(), ray.get_runtime_context().get_node_id()


@pytest.fixture
def two_nodes():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=2, resources={"collector": 2})
    with joined(cluster):
        yield cluster, node


def start_pool():
    def make_actor(index):
        options = actor_options(
            actor_name("run-1", "collector", index), num_cpus=0.1, resources={"collector": 1}
        )
        return ray.remote(Worker).options(**options).remote()

    def start_call(index, handle):
        return Call(*handle.work.options(num_returns=2).remote(), tag=index)

    return ActorPool(make_actor, start_call, 2, PoolConfig(crash_budget=1, backoff_s=0.1))


def poll_until(pool, condition):
    events = []
    deadline = time.monotonic() + 120.0
    while not condition(events):
        assert time.monotonic() < deadline, events[-3:]
        events += pool.poll(0.2)
    return events


@pytest.mark.ray
@pytest.mark.slow
def test_actors_of_a_lost_node_come_back_on_another_without_using_up_the_budget(two_nodes):
    cluster, node = two_nodes
    pool = start_pool()
    poll_until(pool, lambda events: {e.index for e in events if isinstance(e, Done)} == {0, 1})
    raylet = node.all_processes["raylet"][0].process
    os.kill(raylet.pid, signal.SIGKILL)
    lost = poll_until(pool, lambda events: sum(isinstance(e, Failed) for e in events) == 2)
    assert {event.kind for event in lost if isinstance(event, Failed)} == {"node"}
    replacement = cluster.add_node(num_cpus=2, resources={"collector": 2})
    events = poll_until(pool, lambda events: {e.index for e in events} == {0, 1})
    assert {event.metadata for event in events} == {replacement.node_id}
    assert (pool.deaths, pool.restarts) == (2, 2)
    pool.close(1.0)
