"""Whole runs small enough for tests: real data, real networks, a few dozen updates."""

import contextlib
import dataclasses
import json
from pathlib import Path

from causeway.cluster.checkpoint import load_checkpoint
from causeway.cluster.collect_data import collect_data
from causeway.cluster.config import DataSection, RunConfig, load_run_config, save_run_config
from causeway.cluster.dispatch import DistributedRun
from causeway.cluster.recorder import Recorder
from causeway.cluster.serial import SerialRun
from causeway.cluster.services import run_services

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
def serial_run(config, checkpoint=None):
    """A serial run that is closed at the end."""
    recorder = Recorder(config, config.folder, None)
    run = SerialRun(config, config.folder, recorder, checkpoint)
    try:
        yield run
    finally:
        run.close()
        recorder.close()


@contextlib.contextmanager
def distributed_run(config, checkpoint=None):
    """A distributed run on the Ray that is up, with a Redis of its own, ended at the end."""
    recorder = Recorder(config, config.folder, None)
    try:
        with run_services(config, config.folder) as services:
            run = DistributedRun(config, config.folder, recorder, services, checkpoint)
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
    return sorted(int(path.stem.removeprefix("part-")) for path in (folder / "online").glob("*"))
