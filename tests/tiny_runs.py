"""Whole runs small enough for tests: real data, real networks, a few dozen updates."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from causeway.cluster.checkpoint import load_checkpoint
from causeway.cluster.collect_data import collect_data
from causeway.cluster.config import DataSection, RunConfig, load_run_config, save_run_config
from causeway.cluster.control import Control, ControlConfig
from causeway.cluster.dispatch import DistributedRun
from causeway.cluster.ledger import Ledger, LedgerConfig, ShardRecord
from causeway.cluster.recorder import Recorder
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import EmbeddedRedis, embedded_url
from causeway.cluster.serial import SerialRun
from causeway.cluster.services import run_services
from causeway.datasets.batches import RowLayout
from causeway.datasets.shards import read_part, read_shard

TINY_YAML = """
run: {seed: 3}
sampler: {tasks_per_batch: 2, transitions_per_task: 8, context_per_task: 8}
schedule:
  updates: {offline: 20, online: 20}
  updates_per_block: 5
  evaluate_every: 10
  checkpoint_every: 10
collection: {collectors: 1, env_steps_per_update: 10, warmup_env_steps: 80, publish_every: 5}
collector: {num_envs: 2, prior_env_steps: 20, posterior_env_steps: 20, context_size: 8}
evaluation: {repeats: 1, episodes: 3, prior_episodes: 2, context_size: 8}
ray: {num_cpus: 8, object_store_bytes: 200000000}
pool: {backoff_s: 0.1}
hyperparameters:
  latent_dim: 2
  encoder_hidden: [8]
  decoder_hidden: [8]
  critic_hidden: [8]
  actor_hidden: [8]
"""


def make_data(folder: Path, family: str = "point-robot") -> Path:
    """A data set of every task of the standard split, two episodes each."""
    section = DataSection(path=str(folder), family=family, episodes_per_task=2)
    collect_data(section, overwrite=False, progress=lambda done, total: None)
    return folder


def write_yaml(folder: Path, data: Path) -> Path:
    """The tiny configuration as a file, on that data set, its runs in `folder`."""
    path = folder / "tiny.yaml"
    section = f"data: {{path: {data}, cache_folder: {data}/cache}}\n"
    path.write_text(TINY_YAML.replace("run: {", f"run: {{folder: {folder}, ") + section)
    return path


def tiny_config(folder: Path, data: Path, *overrides: str, **given: object) -> RunConfig:
    """The tiny configuration; overrides as on the command line, `given` for the run's section."""
    config = load_run_config(write_yaml(folder, data), overrides)
    config = config.replace(run=dataclasses.replace(config.run, **given))
    save_run_config(config, config.folder)
    return config


@contextlib.contextmanager
def serial_run(config, checkpoint=None, clock=time.monotonic):
    """A serial run that is closed at the end."""
    with contextlib.closing(Recorder(config, config.folder, None, clock)) as recorder:
        run = SerialRun(config, config.folder, recorder, checkpoint)
        with contextlib.closing(run):
            yield run


@contextlib.contextmanager
def distributed_run(config, checkpoint=None, kind=DistributedRun):
    """A distributed run on the Ray that is up, with a Redis of its own, ended at the end."""
    recorder = Recorder(config, config.folder, None)
    try:
        with run_services(config, config.folder) as services:
            run = kind(config, config.folder, recorder, services, checkpoint)
            try:
                yield run
            finally:
                run.close()
    finally:
        recorder.close()


def checkpoint_after(folder: Path, updates: int):
    """The run's checkpoint of so many updates."""
    return load_checkpoint(folder / "checkpoints" / f"update-{updates:08d}")


def results_of(folder: Path) -> dict:
    """The run's results."""
    return json.loads((folder / "results.json").read_text())


def online_parts(folder: Path) -> list[int]:
    """The numbers of the labelled rollouts in the run's folder."""
    files = (folder / "online").glob("part-*.parquet")
    return sorted(int(path.stem.removeprefix("part-")) for path in files)


@contextlib.contextmanager
def outside_of(folder: Path, name: str):
    """A run's control plane and ledger as another process sees them while the run is at work."""
    with contextlib.closing(connect(embedded_url(folder), LinkConfig())) as client:
        ledger = Ledger(client, name, folder / "outside.jsonl", LedgerConfig())
        yield Control(client, name, ControlConfig()), ledger


def ledger_of(folder: Path, name: str) -> list[ShardRecord]:
    """What the ledger of a run that has ended holds."""
    with EmbeddedRedis(folder), outside_of(folder, name) as (_, ledger):
        records, _ = ledger.records(None)
        assert ledger.counters().committed == len(records)
    return records


def assert_exact(records: list[ShardRecord], folder: Path, layout: RowLayout) -> None:
    """The ledger holds each rollout once, and the buffers' files hold just these, labelled."""
    numbers = [int(record.shard_id) for record in records]
    assert len(set(numbers)) == len(numbers)
    assert sorted(numbers) == online_parts(folder)
    for record in records:
        gathered = read_shard(folder / record.path, record.sha256, layout)
        part = folder / "online" / f"part-{record.shard_id}.parquet"
        taken_in = read_part(part, None, layout)
        assert [len(t) for t in gathered] == [len(e) for e in taken_in]
        for trajectory, episode in zip(gathered, taken_in, strict=True):
            assert np.array_equal(trajectory.action, episode.action)
            assert np.array_equal(trajectory.next_observation, episode.next_observation)


def advance(run: DistributedRun, condition: Callable[[], bool], patience_s: float = 60.0) -> float:
    """Steps the run until the condition holds; gives how long that took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < patience_s, f"not met: {run.figures()}"
        run.step()
    return time.monotonic() - begun
