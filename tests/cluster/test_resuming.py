"""Runs that go on elsewhere: on another machine's size and paths, and with nothing else changed."""

import json
import shutil
import struct

import pytest
import torch

from causeway.cluster.checkpoint import load_latest, save_checkpoint
from causeway.cluster.cli.main import run as causeway
from causeway.cluster.config import load_run_config, run_config_class
from causeway.cluster.config_io import known_keys
from causeway.cluster.learner import LearnerService
from causeway.cluster.metrics import read_metrics
from causeway.cluster.resuming import CHANGEABLE, reason_to_hold, resumed_run
from causeway.cluster.streams import open_data
from causeway.learners.registry import ALGORITHMS
from tests.tiny_runs import (
    advance,
    distributed_run,
    make_data,
    results_of,
    serial_run,
    tiny_config,
    write_yaml,
)

OK, USER_ERROR = 0, 2


@pytest.fixture
def stopped(tmp_path, tiny_data):
    """The folder of a serial run that was stopped half-way."""
    config = tiny_config(tmp_path, tiny_data, "--run.serial", "true", "--run.name", "moves")
    with serial_run(config) as run:
        assert not run.run(lambda: run.schedule.position.updates >= 15)
    return config.folder


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_field_may_change_or_has_a_reason_not_to(algorithm):
    known = known_keys(run_config_class(algorithm))
    assert set(CHANGEABLE) <= set(known)
    for name in known:
        assert name in CHANGEABLE or name.partition(".")[0] in CHANGEABLE or reason_to_hold(name)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--run.seed", "4"), "run.seed must stay 3 where a run goes on, got 4: it says which run"),
        (("--run.folder", "elsewhere"), "the run is where its folder is"),
        (("--data.train_tasks", "3"), "it would learn from other data"),
        (("--sampler.memory_budget_bytes", "5000000"), "it would draw other meta-batches"),
        (("--trainer.precision", "bfloat16"), "its updates would be computed otherwise"),
        (("--schedule.updates.online", "30"), "schedule.updates.online must stay 20"),
        (("--collection.publish_every", "10"), "gather its rollouts by other rules"),
        (("--collector.num_envs", "3"), "it would gather other rollouts"),
        (("--evaluation.repeats", "2"), "'causeway evaluate' takes it"),
        (("--hyperparameters.learning_rate", "1"), "another algorithm would go on"),
        (("--run.learners", "3"), "must be 1 where serial is true"),
        (("--trainer.treads", "2"), "did you mean 'trainer.threads'"),
    ],
)
def test_what_would_change_the_run_is_refused_by_field_and_reason(stopped, capsys, words, told):
    before = (stopped / "config.yaml").read_text()
    assert causeway(["resume", str(stopped), "--trainer.threads", "2", *words]) == USER_ERROR
    assert told in " ".join(capsys.readouterr().err.split())
    assert (stopped / "config.yaml").read_text() == before


def test_a_serial_run_goes_on_with_other_threads_and_paths_and_says_so(
    stopped, tiny_data, tmp_path, capsys
):
    moved = shutil.copytree(tiny_data, tmp_path / "elsewhere", ignore=lambda *_: {"cache"})
    words = ["--trainer.threads", "2", "--trainer.device", "cpu", "--data.path", str(moved)]
    words += ["--run.seed", "3", "--run.folder", str(tmp_path), "--redis.url", "redis://there"]
    assert causeway(["resume", str(stopped), *words]) == OK
    told = " ".join(capsys.readouterr().err.split())
    assert "trainer.threads was 1 and is 2 from now on" in told
    assert "run.seed" not in told
    assert results_of(stopped)["updates"] == 40
    assert [row["updates"] for row in read_metrics(stopped / "metrics.jsonl")][-1] == 40
    saved = load_run_config(stopped / "config.yaml")
    assert (saved.trainer.threads, saved.trainer.device, saved.data.path) == (2, "cpu", str(moved))
    assert saved.redis.url == "redis://there"


def test_other_data_under_the_new_path_are_refused(stopped, tmp_path, capsys):
    other = make_data(tmp_path / "other")  # of the same seed, but another task's rows come first
    manifest = json.loads((other / "manifest.json").read_text())
    first, second = manifest["tasks"][0]["parts"], manifest["tasks"][1]["parts"]
    manifest["tasks"][0]["parts"], manifest["tasks"][1]["parts"] = second, first
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert causeway(["resume", str(stopped), "--data.path", str(other)]) == USER_ERROR
    told = " ".join(capsys.readouterr().err.split())
    assert "must hold the data that the run has been trained on" in told


def test_a_run_that_began_with_anothers_weights_goes_on_without_that_one(stopped, tmp_path, capsys):
    """It has weights of its own by then, and the other may not be on this machine."""
    words = ["--run.name", "next", "--schedule.updates.online", "5"]
    assert causeway(["train", "--resume-from", str(stopped), *words]) == OK
    later = tmp_path / "next"
    before = results_of(later)
    (later / "results.json").unlink()
    shutil.rmtree(max((later / "checkpoints").iterdir()))
    shutil.rmtree(stopped)
    assert causeway(["resume", str(later)]) == OK
    again = results_of(later)
    del before["wall_seconds"], again["wall_seconds"]
    assert again == before


def test_the_same_command_again_goes_on_and_takes_the_changes_that_it_may(
    stopped, tmp_path, tiny_data, capsys
):
    file = write_yaml(tmp_path, tiny_data)
    words = ["train", str(file), "--or-resume", "--run.serial", "true", "--run.name", "moves"]
    assert causeway([*words, "--run.seed", "5"]) == USER_ERROR
    assert "run.seed must stay 3" in " ".join(capsys.readouterr().err.split())
    assert causeway([*words, "--run.folder", str(tmp_path), "--trainer.threads", "2"]) == OK
    assert load_run_config(stopped / "config.yaml").trainer.threads == 2


def test_a_checkpoint_of_a_gpu_goes_on_without_one(stopped):
    """It names no device but in its state, and only the generator's tensor is of the device."""
    config = load_run_config(stopped / "config.yaml")
    checkpoint, _ = load_latest(stopped)
    header = (checkpoint.path / "tensors.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", header[:8])
    entries = json.loads(header[8 : 8 + size])
    assert {key for entry in entries.values() for key in entry} == {
        *("dtype", "shape", "data_offsets")
    }
    trainer = {**checkpoint.state["trainer"], "device": "cuda"}
    generator = torch.zeros(16, dtype=torch.uint8)  # CUDA's state: a seed and an offset
    tensors = {**checkpoint.tensors, "generator": generator}
    state = {**checkpoint.state, "trainer": trainer}
    save_checkpoint(stopped, trainer["updates"], tensors, state, keep=9)
    loaded, _ = load_latest(stopped)
    learner = LearnerService(config, open_data(config).layout)
    learner.load(loaded)
    mine, values = learner._trainer.state()
    assert values == checkpoint.state["trainer"]  # its device is the CPU again
    same = [name for name in mine if name != "generator"]
    assert all(torch.equal(mine[name], checkpoint.tensors[name]) for name in same)
    assert causeway(["resume", str(stopped), "--trainer.device", "cpu"]) == OK
    assert results_of(stopped)["updates"] == 40


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_of_two_learners_and_two_collectors_goes_on_with_one_of_each(
    tmp_path, tiny_data, local_ray
):
    """And what `causeway scale` asked of the larger machine no longer holds."""
    words = ("--run.learners", "2", "--collection.collectors", "2", "--run.name", "shrinks")
    config = tiny_config(tmp_path, tiny_data, *words, "--schedule.updates.online", "200")
    with distributed_run(config) as run:
        run._control.set_collectors(3)
        advance(run, lambda: run.pool.size == 3 and run.schedule.position.env_steps > 0)
        assert not run.run(lambda: True)
    at = load_latest(config.folder)[0].state["trainer"]["updates"]
    assert at < 220
    smaller = ["--run.learners", "1", "--collection.collectors", "1", "--trainer.threads", "2"]
    resumed, checkpoint, _ = resumed_run(config.folder, smaller)
    with distributed_run(resumed, checkpoint) as run:
        assert run._parts.peers == ()
        advance(run, lambda: run.schedule.position.updates > at)
        assert run.pool.size == 1
        assert run.run(lambda: False)
    assert results_of(config.folder)["updates"] == 220
    collectors = [row["collectors_wanted"] for row in read_metrics(config.folder / "metrics.jsonl")]
    assert collectors[-1] == 1
