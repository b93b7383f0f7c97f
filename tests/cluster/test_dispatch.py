"""Distributed runs end to end: what they leave behind, and how they are steered."""

import json
import shutil
import time

import pytest
import torch

from causeway.cluster.checkpoint import load_latest
from causeway.cluster.cli.main import run as causeway
from causeway.cluster.launch import existing_run
from causeway.cluster.metrics import read_metrics
from causeway.cluster.run_error import RunError
from causeway.cluster.streams import open_data
from tests.tiny_runs import (
    advance,
    assert_exact,
    checkpoint_after,
    distributed_run,
    ledger_of,
    make_data,
    online_parts,
    outside_of,
    results_of,
    serial_run,
    tiny_config,
)

pytestmark = pytest.mark.ray

# Its reward may be read by the evaluator alone: any other actor that does so dies of it.
GUARDED_FAMILY = """
import ray
from causeway.actors.tasks.point_robot import PointRobot

class GuardedRobot(PointRobot):
    def reward(self, *arguments):
        actor = ray.get_runtime_context().get_actor_name() if ray.is_initialized() else None
        if actor and "evaluator" not in actor:
            raise RuntimeError(f"{actor} has read a reward")
        return super().reward(*arguments)
"""
ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "1000000")


@pytest.fixture(scope="module")
def finished(local_ray, tmp_path_factory):
    """A run from beginning to end: its configuration, its last figures and its ledger."""
    folder = tmp_path_factory.mktemp("dispatch")
    (folder / "guarded.py").write_text(GUARDED_FAMILY)
    family = f"{folder}/guarded.py:GuardedRobot"
    data = make_data(folder / "data", family)
    overrides = ("--data.family", family, "--schedule.keep_checkpoints", "9")
    overrides += ("--collection.collectors", "2", "--collection.tasks_at_once", "2")
    config = tiny_config(folder, data, *overrides)
    with distributed_run(config) as run:
        assert run.run(lambda: False)
        figures = run.figures()
        with outside_of(config.folder, config.name) as (control, _):
            events = [event.kind for event in control.events(None, 1000)]
    return config, figures, events, ledger_of(config.folder, config.name)


@pytest.fixture(scope="module")
def serial_twin(finished, tmp_path_factory):
    """The serial run of the same configuration."""
    config = finished[0]
    folder = tmp_path_factory.mktemp("serial")
    overrides = ("--data.family", config.data.family, "--schedule.keep_checkpoints", "9")
    twin = tiny_config(folder, config.data.path, *overrides)
    with serial_run(twin) as run:
        run.run(lambda: False)
    return twin


def assert_same_checkpoint(folder, other, updates):
    """The networks, the optimiser and the streams of two runs, bit for bit."""
    ours, theirs = checkpoint_after(folder, updates), checkpoint_after(other, updates)
    assert ours.tensors.keys() == theirs.tensors.keys()
    unequal = [n for n in ours.tensors if not torch.equal(ours.tensors[n], theirs.tensors[n])]
    assert not unequal
    ours, theirs = ours.state["run"]["stream"], theirs.state["run"]["stream"]
    assert ours == theirs


def test_a_run_ends_with_every_result_and_no_loss(finished, serial_twin):
    config, figures, events, _ = finished
    results = results_of(config.folder)
    assert results.keys() == results_of(serial_twin.folder).keys()
    assert results["updates"] == figures["updates"] == 40
    assert results["env_steps"] == results["self_supervised_transitions"] >= 80
    assert (figures["deaths"], figures["shards_dropped"]) == (0, {})
    assert events[:1] == ["stage begun"]
    assert events[-2:] == ["checkpoint", "finished"]
    assert events.count("stage finished") == 2


def test_the_ledger_holds_each_shard_once_and_equals_what_was_trained_on(finished):
    config, figures, _, records = finished
    assert_exact(records, config.folder, open_data(config).layout)
    results = results_of(config.folder)
    assert sum(record.rows for record in records) == results["self_supervised_transitions"]
    assert len(records) == figures["shards_committed"]
    files = {path.name for path in (config.folder / "shards").iterdir()}
    assert files == {record.path.removeprefix("shards/") for record in records}
    checkpoint, _ = load_latest(config.folder)
    online = checkpoint.state["run"]["stream"]["online"]
    assert sorted(entry["sequence"] for entry in online) == online_parts(config.folder)


@pytest.mark.parametrize("updates", [10, 20])
def test_the_offline_stage_is_the_serial_runs_bit_for_bit(finished, serial_twin, updates):
    assert_same_checkpoint(finished[0].folder, serial_twin.folder, updates)


@pytest.mark.slow
@pytest.mark.parametrize("updates", [10, 20])
def test_a_run_that_falls_back_far_repeats_its_stages_and_loses_no_rollout(
    finished, tmp_path, updates
):
    """To the middle of the offline stage, or to its end without that stage's evaluation."""
    config, _, _, before = finished
    folder = shutil.copytree(config.folder, tmp_path / config.name)
    (folder / "results.json").unlink()
    (folder / "evaluations.json").unlink()
    for path in (folder / "checkpoints").iterdir():
        if path.name != f"update-{updates:08d}":
            shutil.rmtree(path)
    resumed, checkpoint, _ = existing_run(folder)
    with distributed_run(resumed, checkpoint) as run:
        assert run.run(lambda: False)
        assert run.figures()["deaths"] == 0
    # Rollouts of the online stage are in the ledger already, and stay out of the offline one.
    assert_same_checkpoint(folder, config.folder, 20)
    assert results_of(folder)["offline"] == results_of(config.folder)["offline"]
    records = ledger_of(folder, config.name)
    assert records[: len(before)] == before
    assert_exact(records, folder, open_data(config).layout)
    assert sum(record.rows for record in records) == results_of(folder)["env_steps"]


def test_what_is_measured_offline_is_what_the_serial_run_measures(finished, serial_twin):
    ours, theirs = results_of(finished[0].folder), results_of(serial_twin.folder)
    for name in ("offline", "oracle_return", "random_return"):
        assert ours[name] == theirs[name]


def test_metrics_tell_every_block_and_what_the_machinery_did(finished):
    rows = read_metrics(finished[0].folder / "metrics.jsonl")
    assert [row["updates"] for row in rows] == list(range(5, 41, 5))
    assert rows[-1]["online_share"] > 0
    assert rows[-1]["shards_committed"] >= 2
    assert rows[-1]["staleness"] >= 0


@pytest.mark.slow
def test_a_run_is_steered_from_outside_while_it_goes_on(local_ray, tmp_path, tiny_data, capsys):
    config = tiny_config(tmp_path, tiny_data, *ENDLESS, "--schedule.checkpoint_every", "1000000")
    folder = str(config.folder)

    def status():
        capsys.readouterr()
        assert causeway(["status", folder, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    with (
        distributed_run(config) as run,
        outside_of(config.folder, config.name) as (control, ledger),
    ):
        position = run.schedule.position

        def goes_on():
            """Until updates and rollouts have come in that were not there before."""
            updates, env_steps = position.updates, position.env_steps
            advance(run, lambda: position.updates > updates and position.env_steps > env_steps)

        goes_on()
        assert status()["stage"] == "online"
        assert status()["alive"]

        assert causeway(["scale", folder, "--collectors", "3"]) == 0
        advance(run, lambda: run.figures()["collectors"] == 3)
        advance(run, lambda: {record.collector for record in ledger.records(None)[0]} == {0, 1, 2})
        assert causeway(["scale", folder, "--collectors", "1"]) == 0
        advance(run, lambda: run.figures()["collectors"] == run.pool.size == 1)
        goes_on()

        assert causeway(["pause", folder]) == 0
        advance(run, lambda: status()["paused"] and not any(status()["queue_depth"].values()))
        advance(run, lambda: run.pool.states() == {"idle": 1})
        before = (position.updates, position.env_steps)
        until = time.monotonic() + 1.0
        advance(run, lambda: time.monotonic() > until)
        assert (position.updates, position.env_steps) == before

        asked = control.request_checkpoint()
        advance(run, lambda: control.commands().checkpoint_finished == asked)
        checkpoint, _ = load_latest(config.folder)
        assert checkpoint.state["trainer"]["updates"] == position.updates
        assert checkpoint.state["run"]["position"]["env_steps"] == position.env_steps

        assert causeway(["unpause", folder]) == 0
        goes_on()

        assert causeway(["stop", folder]) == 0
        assert not run.run(lambda: False)
        assert position.updates > before[0]
        checkpoint, _ = load_latest(config.folder)
        assert checkpoint.state["trainer"]["updates"] == position.updates
        assert causeway(["events", folder, "--last", "1"]) == 0
        assert "causeway stop" in capsys.readouterr().out
    assert run.figures()["deaths"] == 0
    assert causeway(["status", folder]) == 2
    records = ledger_of(config.folder, config.name)
    assert_exact(records, config.folder, open_data(config).layout)


@pytest.mark.slow
def test_rollouts_on_weights_too_old_are_dropped_counted_and_deleted(
    local_ray, tmp_path, tiny_data
):
    slow = ("--collector.num_envs", "1", "--collector.prior_env_steps", "400")
    eager = ("--collection.env_steps_per_update", "1000", "--collection.max_staleness", "5")
    config = tiny_config(tmp_path, tiny_data, *ENDLESS, *slow, *eager, "--run.name", "stale")
    with distributed_run(config) as run:
        advance(run, lambda: run.figures()["shards_dropped"].get("stale", 0) >= 3)
        figures = run.figures()
        assert figures["staleness"] <= 5
        run.run(lambda: True)
    records = ledger_of(config.folder, config.name)
    assert_exact(records, config.folder, open_data(config).layout)
    assert sum(record.rows for record in records) == run.schedule.position.env_steps
    files = {path.name for path in (config.folder / "shards").iterdir()}
    assert files == {record.path.removeprefix("shards/") for record in records}


@pytest.mark.slow
def test_divergence_ends_the_run_with_advice_and_not_with_a_traceback(
    local_ray, tmp_path, tiny_data
):
    rate = ("--hyperparameters.learning_rate", "1e30", "--run.name", "diverging")
    config = tiny_config(tmp_path, tiny_data, *rate)
    with (
        distributed_run(config) as run,
        pytest.raises(RunError, match="training diverged in stage 'offline'") as raised,
    ):
        run.run(lambda: False)
    assert "smaller learning_rate" in str(raised.value)
    assert "Traceback" not in str(raised.value)
