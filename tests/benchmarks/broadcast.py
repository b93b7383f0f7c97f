"""Weights from the learner to collectors: how long until all of them act on a new version."""

import statistics
import time
from collections.abc import Iterator

import ray
import torch

from causeway.cluster.ray_local import RayConfig, ray_session
from causeway.cluster.weights import WeightPublisher, WeightReader, encode, start_weight_store
from tests.benchmarks.harness import Options, Row

PARAMETERS = 1_000_000
COLLECTORS = (1, 4, 8)
LIMITED = 4  # to so many collectors the limit applies
LIMIT_MS = 50.0
VERSIONS = 60


class Reader:
    """What a collector does about weights, and nothing else."""

    def __init__(self, store) -> None:
        torch.set_num_threads(1)
        self._reader = WeightReader(store, 30.0)

    def pull(self) -> tuple[int, int]:
        """Pulls, and gives the version that is then there."""
        self._reader.pull()
        return self._reader.key


def run(options: Options) -> Iterator[Row]:
    """A row for each number of collectors, and one for what publishing costs the learner."""
    weights = {f"layer-{i}": torch.randn(PARAMETERS // 10) for i in range(10)}
    with ray_session(RayConfig(num_cpus=16, object_store_bytes=500_000_000)):
        for collectors in COLLECTORS:
            each_ms = latencies_ms(weights, collectors, options)
            p95 = statistics.quantiles(each_ms, n=20)[-1]
            yield Row.at_most(
                f"published until {collectors} collectors have it, p95; the limit",
                measured=p95,
                allowed=LIMIT_MS * max(1.0, collectors / LIMITED),
                unit="ms",
                note=f"1 M parameters, median {statistics.median(each_ms):.3g} ms",
            )
    begun = time.perf_counter()
    for _ in range(20):
        encode(weights)
    encoded_ms = (time.perf_counter() - begun) / 20 * 1e3
    yield Row.at_most(
        "flattening for one publication, whatever the number of collectors; the limit",
        measured=encoded_ms,
        allowed=LIMIT_MS,
        unit="ms",
    )


def latencies_ms(weights, collectors: int, options: Options) -> list[float]:
    """From the call of `publish` until the last collector has the version, again and again."""
    store = start_weight_store(f"broadcast-{collectors}")
    publisher = WeightPublisher(store)
    readers = [ray.remote(num_cpus=0)(Reader).remote(store) for _ in range(collectors)]
    ray.get([reader.pull.remote() for reader in readers])
    found = []
    for version in range(options.scaled(VERSIONS, at_least=5)):
        begun = time.perf_counter()
        publisher.publish(0, version, weights)
        waiting = set(readers)
        while waiting:  # a collector may ask before the store has heard of the version
            keys = dict(zip(waiting, ray.get([r.pull.remote() for r in waiting]), strict=True))
            waiting = {reader for reader, key in keys.items() if key < (0, version)}
        found.append((time.perf_counter() - begun) * 1e3)
    for actor in (*readers, store):
        ray.kill(actor)
    return found[1:]  # the first one warms up
