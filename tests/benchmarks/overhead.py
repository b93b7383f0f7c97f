"""A learner's updates per second in a distributed run, against the same loop without Ray.

The run has no collectors, so that both sides have the same cores for the same work: blocks of
meta-batches drawn, trained on and noted.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.dispatch import DistributedRun
from causeway.cluster.learner import LearnerService
from causeway.cluster.ray_local import ray_session
from causeway.cluster.recorder import Recorder
from causeway.cluster.services import run_services
from causeway.cluster.streams import TaskStream, open_data
from tests.benchmarks.harness import Options, Row, interleaved
from tests.tiny_runs import make_data, tiny_config

TARGET = 0.95
WINDOW_S = 8.0
ROUNDS = 5
ENDLESS = "1000000000"
SETTINGS = (
    *("--schedule.updates.offline", ENDLESS, "--schedule.updates_per_block", "10"),
    *("--schedule.evaluate_every", ENDLESS, "--schedule.checkpoint_every", ENDLESS),
    *("--sampler.tasks_per_batch", "16", "--sampler.transitions_per_task", "64"),
    *("--sampler.context_per_task", "40", "--collection.collectors", "0"),
    *("--hyperparameters.critic_hidden", "[128, 128]"),
    *("--hyperparameters.actor_hidden", "[128, 128]"),
    *("--hyperparameters.encoder_hidden", "[128, 128]"),
    *("--hyperparameters.decoder_hidden", "[128, 128]"),
)


def run(options: Options) -> Iterator[Row]:
    """One row: both sides in turns, in one process tree."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = tiny_config(folder, make_data(folder / "data"), *SETTINGS)
        seconds = WINDOW_S * options.scale
        with ray_session(config.ray), run_services(config, config.folder) as services:
            recorder = Recorder(config, config.folder, None)
            distributed = DistributedRun(config, config.folder, recorder, services, None)
            alone = Alone(config, folder / "alone")
            ours, theirs = interleaved(
                lambda: distributed_rate(distributed, seconds),
                lambda: alone.rate(seconds),
                rounds=options.scaled(ROUNDS),
            )
            distributed.close()
            alone.stream.close()
            recorder.close()
        yield Row.rates(
            "updates per second on Ray / without",
            ours=ours,
            theirs=theirs,
            target=TARGET,
            unit="updates/s",
            note="SMAC, 16 tasks x 64, networks of 128 x 2; a run draws one block ahead",
        )


def distributed_rate(run: DistributedRun, seconds: float) -> float:
    """Updates per second of the run; afterwards its learner has nothing to do."""
    run.services.control.unpause()
    while run.figures()["queue_depth"]["blocks"] == 0:
        run.step()
    begun, before = time.perf_counter(), run.schedule.position.updates
    while time.perf_counter() < begun + seconds:
        run.step()
    rate = (run.schedule.position.updates - before) / (time.perf_counter() - begun)
    run.services.control.pause()
    while run.figures()["queue_depth"]["blocks"] > 0:
        run.step()
    return rate


class Alone:
    """The same stream and learner in this process, one after the other."""

    def __init__(self, config, folder: Path) -> None:
        split = find_split(load_family(config.data.family), config.data.split)
        self.stream = TaskStream(config, split.train, folder)
        self._learner = LearnerService(config, open_data(config).layout)
        self._learner.enter("offline")
        self._size = config.schedule.updates_per_block

    def rate(self, seconds: float) -> float:
        """Updates per second."""
        begun, updates = time.perf_counter(), 0
        while time.perf_counter() < begun + seconds:
            block, _ = self.stream.sample_block(self._size, with_state=False)
            self._learner.run_block(block)
            self.stream.share()
            updates += self._size
        return updates / (time.perf_counter() - begun)
