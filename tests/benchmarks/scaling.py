"""Collectors of one run: the driver's cost for up to 256, and what 1 to 8 nodes of them gather.

For the cost, collectors are real calls to real actors, with a real Redis behind the ledger; but
they gather nothing, and several share a process, because what is measured is the driver and not
this machine's memory. For what nodes gather, a whole run is at work, each of its collectors on a
raylet of its own; their simulators sleep, as one machine has not the cores of eight.
"""

import contextlib
import itertools
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import ray
from ray.cluster_utils import Cluster

from causeway.cluster.dispatch import DistributedRun
from causeway.cluster.ledger import CommitResult, Ledger, LedgerConfig, ShardRecord
from causeway.cluster.pool import ActorPool, Call, Done, PoolConfig
from causeway.cluster.ray_local import RayConfig, ray_session
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import EmbeddedRedis
from tests.benchmarks.harness import Options, Row
from tests.ray_nodes import joined
from tests.tiny_runs import advance, distributed_run, make_data, tiny_config

COLLECTORS = (16, 64, 256)
PER_PROCESS = 32
COLLECTION_S = 4.0  # of each; real ones take longer
MEASURED_S = 16.0
CORE_SHARE = 0.5  # of one core, that the driver may take with 256 collectors of 10 s each
POLL_S = 0.05
NODES = (1, 2, 4, 8)  # with one collector each
NODE_SHARE = 0.9  # of what a collector gathers alone, that it must gather beside others
COLLECTING_S = 15.0
SETTLED_STEPS = 400  # of each collector, before anything is measured
STORE_BYTES = 100_000_000
PATIENCE_S = 120.0
SLOW = "tests.benchmarks.support.slow_robots:SlowRobot"


class IdleCollectors:
    """Several collectors that wait instead of acting."""

    def collect(self, record: ShardRecord, seconds: float) -> tuple[np.ndarray, ShardRecord]:
        """A rollout's size of nothing, and its record."""
        time.sleep(seconds)
        return np.zeros(20_000, np.float32), record


def run(options: Options) -> Iterator[Row]:
    """All rows."""
    yield from driver_costs(options)
    yield from gathered_on_nodes(options)


def driver_costs(options: Options) -> Iterator[Row]:
    """A row for each number of collectors: the driver's CPU for one rollout."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(Path(folder)) as url,
        connect(url, LinkConfig()) as client,
        ray_session(RayConfig(num_cpus=16, object_store_bytes=500_000_000)),
    ):
        ledger = Ledger(client, "scaling", Path(folder) / "spool.jsonl", LedgerConfig())
        epoch = ledger.open_epoch()
        sequences = itertools.count()
        for collectors in COLLECTORS:
            measured_s = MEASURED_S * options.scale
            cpu_ms, polls_ms, rollouts = drive(ledger, epoch, sequences, collectors, measured_s)
            yield Row.at_most(
                f"the driver's CPU for one rollout of {collectors} collectors; the limit",
                measured=cpu_ms,
                allowed=CORE_SHARE * 10_000.0 / 256,
                unit="ms",
                note=f"{rollouts} rollouts, a round takes {polls_ms:.3g} ms (p95) beside its wait",
            )


def gathered_on_nodes(options: Options) -> Iterator[Row]:
    """A row for each number of nodes: environment steps/s against so many times those of one."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedRedis(Path(name) / "shared") as url,
        mock.patch.dict(os.environ, CAUSEWAY_REDIS_URL=url),
        nodes_of_collectors(max(NODES)),
    ):
        folder = Path(name)
        data = slow_data(folder / "data")
        with distributed_run(tiny_config(folder, data, *run_on_nodes())) as at_work:
            alone = 0.0
            for nodes in NODES:
                rate = collected_per_s(at_work, nodes, COLLECTING_S * options.scale)
                alone = alone or rate
                yield Row.rates(
                    f"environment steps/s, collectors on {nodes} nodes; {nodes} times one's",
                    ours=rate,
                    theirs=nodes * alone,
                    target=NODE_SHARE,
                    unit="environment steps/s",
                )


def slow_data(folder: Path) -> Path:
    """A data set that fast point robots gathered, for slow ones."""
    make_data(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "family": SLOW}))
    return folder


@contextlib.contextmanager
def nodes_of_collectors(count: int) -> Iterator[None]:
    """A Ray of several raylets, each with room for one collector."""
    store = {"object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, **store})
    for _ in range(count):
        cluster.add_node(num_cpus=1, resources={"collector": 1}, **store)
    with joined(cluster):
        yield


def run_on_nodes() -> list[str]:
    """Of a run that collects for as long as it is watched, and is not held back by its updates."""
    return [
        f"--data.family={SLOW}",
        "--ray.address=auto",
        "--collection.collectors=1",
        "--collection.resources={collector: 1}",
        "--collection.cpus_per_collector=0",
        "--collection.env_steps_per_update=100000",
        "--schedule.updates.online=1000000",
        "--schedule.evaluate_every=1000000",
        "--schedule.checkpoint_every=1000000",
    ]


def collected_per_s(at_work: DistributedRun, collectors: int, measured_s: float) -> float:
    """Environment steps/s that reach the run from so many collectors."""
    at_work.services.control.set_collectors(collectors)
    advance(at_work, lambda: at_work.figures()["collectors"] == collectors, PATIENCE_S)
    settled = at_work.figures()["env_steps"] + SETTLED_STEPS * collectors
    advance(at_work, lambda: at_work.figures()["env_steps"] >= settled, PATIENCE_S)
    before, begun = at_work.figures()["env_steps"], time.monotonic()
    advance(at_work, lambda: time.monotonic() > begun + measured_s, 2 * measured_s)
    return (at_work.figures()["env_steps"] - before) / (time.monotonic() - begun)


def record_of(sequence: int, epoch: int) -> ShardRecord:
    return ShardRecord(
        shard_id=f"{sequence:08d}",
        path=f"shards/{sequence:08d}-{epoch}.parquet",
        sha256=f"{sequence:064x}",
        task_id=0,
        rows=1_000,
        episodes=5,
        num_bytes=80_000,
        collector=0,
        generation=epoch,
        version=0,
        epoch=epoch,
    )


def drive(ledger, epoch, sequences, collectors: int, measured_s: float) -> tuple[float, float, int]:
    """The driver's CPU per rollout in ms, the 95th percentile of a round in ms, and how many."""
    remote = ray.remote(num_cpus=0, max_concurrency=PER_PROCESS)(IdleCollectors)
    hosts = [remote.remote() for _ in range(-(-collectors // PER_PROCESS))]
    ray.get([host.__ray_ready__.remote() for host in hosts])
    numbers = np.random.default_rng(0)

    def start_call(index, handle):
        seconds = COLLECTION_S * numbers.uniform(0.5, 1.5)
        record = record_of(next(sequences), epoch)
        return Call(*handle.collect.options(num_returns=2).remote(record, seconds), tag=index)

    pool = ActorPool(lambda i: hosts[i // PER_PROCESS], start_call, collectors, PoolConfig())
    taken, busy_ms = 0, []
    warm = time.monotonic() + COLLECTION_S * 1.5
    began, cpu = None, 0.0
    while began is None or time.monotonic() < began + measured_s:
        if began is None and time.monotonic() > warm:
            began, cpu, taken = time.monotonic(), cpu_s(), 0
        worked = time.perf_counter()
        events = pool.poll(POLL_S)
        for event in events:
            assert isinstance(event, Done), event
            assert ledger.commit(event.metadata) is CommitResult.COMMITTED
        taken += len(events)
        busy_ms.append(max(0.0, time.perf_counter() - worked - POLL_S) * 1e3)
    spent = cpu_s() - cpu
    for host in hosts:
        ray.kill(host)
    return spent / taken * 1e3, statistics.quantiles(busy_ms, n=20)[-1], taken


def cpu_s() -> float:
    """This process's CPU so far, with all of its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
