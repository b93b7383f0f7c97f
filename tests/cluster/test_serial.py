"""Serial runs: the same from the same seed, and the same again after any interruption."""

import json

import numpy as np
import pytest
import torch

from causeway.actors.tasks.point_robot import PointRobot
from causeway.cluster.checkpoint import CheckpointError, load_latest
from causeway.cluster.cli.main import run as command
from causeway.cluster.evaluation import EvaluationService
from causeway.cluster.metrics import read_metrics
from causeway.cluster.report.evaluated import read_evaluated
from causeway.cluster.serial import SerialRun
from causeway.cluster.streams import open_data
from causeway.datasets.shards import read_part
from tests.tiny_runs import (
    checkpoint_after,
    online_parts,
    results_of,
    serial_run,
    tiny_config,
)

LAST = 40  # updates of the whole tiny run
KEEP_ALL = ("--schedule.keep_checkpoints", "99")


def run_serially(folder, data, *overrides, **given):
    """A whole run; gives its configuration."""
    config = tiny_config(folder, data, *KEEP_ALL, *overrides, **given)
    with serial_run(config) as run:
        assert run.run(lambda: False)
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_data):
    """A run that nothing interrupted."""
    return run_serially(tmp_path_factory.mktemp("whole"), tiny_data)


def state_after(config, updates):
    """Everything that a checkpoint holds; sums of files stand for their contents."""
    checkpoint = checkpoint_after(config.folder, updates)
    return checkpoint.tensors, checkpoint.state


def assert_same_state(one, other, updates):
    (tensors, state), (others, other_state) = state_after(one, updates), state_after(other, updates)
    assert tensors.keys() == others.keys()
    unequal = [name for name in tensors if not torch.equal(tensors[name], others[name])]
    assert not unequal
    assert state == other_state


def assert_same_results(one, other):
    a, b = results_of(one.folder), results_of(other.folder)
    del a["wall_seconds"], b["wall_seconds"]
    assert a == b
    read = [(c.folder / "evaluations.json").read_text() for c in (one, other)]
    assert json.loads(read[0]) == json.loads(read[1])


def go_on(config):
    """Resumes a run from its newest whole checkpoint to its end; gives the faults found."""
    checkpoint, faults = load_latest(config.folder)
    with serial_run(config, checkpoint) as run:
        assert run.run(lambda: False)
    return faults


def test_the_results_have_exactly_these_keys_and_every_return_its_tasks(whole):
    results = results_of(whole.folder)
    assert set(results) == {
        *("algorithm", "family", "split", "seed", "git_commit", "offline", "online"),
        *("oracle_return", "random_return", "updates", "env_steps"),
        *("self_supervised_transitions", "true_rewards", "protocols", "wall_seconds"),
    }
    names = {"prior_return", "online_context_return", "offline_context_return"}
    assert set(results["offline"]) == set(results["online"]) == names
    returns = [results[stage][name] for stage in ("offline", "online") for name in names]
    for summary in (*returns, results["oracle_return"], results["random_return"]):
        assert set(summary) == {"mean", "ci95", "per_task"}
        assert len(summary["per_task"]) == 10
        assert summary["mean"] == pytest.approx(sum(summary["per_task"]) / 10)
        assert summary["mean"] <= results["oracle_return"]["mean"]
    assert (results["algorithm"], results["family"], results["seed"]) == ("smac", "point-robot", 3)
    # 80 steps of warm-up and 10 for each update but the last block's, in rollouts of 40.
    assert (results["updates"], results["env_steps"]) == (LAST, 240)
    assert results["self_supervised_transitions"] == results["env_steps"]
    assert online_parts(whole.folder) == list(range(6))


def test_metrics_tell_every_block_in_order(whole):
    rows = read_metrics(whole.folder / "metrics.jsonl")
    assert [row["updates"] for row in rows] == list(range(5, LAST + 1, 5))
    assert [row["stage"] for row in rows] == ["offline"] * 4 + ["online"] * 4
    assert [row["online_share"] > 0 for row in rows] == [False] * 4 + [True] * 4
    assert all(row["losses"] for row in rows)


def test_the_same_seed_gives_the_same_run_bit_for_bit(whole, tmp_path, tiny_data):
    again = run_serially(tmp_path, tiny_data)
    for updates in (10, 20, 30, LAST):
        assert_same_state(whole, again, updates)
    assert_same_results(whole, again)


def test_another_seed_gives_another_run(whole, tmp_path, tiny_data):
    other = run_serially(tmp_path, tiny_data, seed=4)
    ours, theirs = state_after(whole, LAST)[0], state_after(other, LAST)[0]
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_collections_made_at_once_are_what_each_is_alone(whole, tmp_path, tiny_data):
    """As long as weights are the same, which are the offline stage's for the first two."""
    together = run_serially(tmp_path, tiny_data, "--collection.tasks_at_once", "4")
    numbers, layout = online_parts(together.folder), open_data(whole).layout
    assert numbers == list(range(len(numbers)))
    assert len(numbers) % 4 == 0
    for number in (0, 1):
        name = f"online/part-{number:08d}.parquet"
        one, other = (read_part(c.folder / name, None, layout) for c in (together, whole))
        assert len(one) == len(other) > 0
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(layout.pack(a), layout.pack(b))


def test_how_often_is_evaluated_changes_nothing_of_what_is_learned(whole, tmp_path, tiny_data):
    other = run_serially(tmp_path, tiny_data, "--schedule.evaluate_every", "5")
    assert_same_state(whole, other, LAST)


@pytest.mark.parametrize("updates", [5, 20, 35])
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(whole, tmp_path, tiny_data, updates):
    config = tiny_config(tmp_path, tiny_data, *KEEP_ALL)
    with serial_run(config) as run:
        assert not run.run(lambda: run.schedule.position.updates >= updates)
    assert not (config.folder / "results.json").exists()
    assert go_on(config) == []
    assert_same_state(whole, config, LAST)
    assert_same_results(whole, config)


@pytest.mark.parametrize("updates", [15, 35])
def test_a_crashed_run_repeats_what_its_last_checkpoint_lacks(whole, tmp_path, tiny_data, updates):
    config = tiny_config(tmp_path, tiny_data, *KEEP_ALL)
    with serial_run(config) as run:
        while run.schedule.position.updates < updates:
            run.step()
    assert go_on(config) == []
    assert_same_state(whole, config, LAST)
    assert_same_results(whole, config)
    assert online_parts(config.folder) == online_parts(whole.folder)


@pytest.mark.parametrize("updates", [20, 30])
def test_a_damaged_newest_checkpoint_costs_only_the_way_from_the_one_before(
    whole, tmp_path, tiny_data, updates
):
    config = tiny_config(tmp_path, tiny_data, *KEEP_ALL)
    with serial_run(config) as run:
        run.run(lambda: run.schedule.position.updates >= updates)
    tensors = config.folder / "checkpoints" / f"update-{updates:08d}" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    (fault,) = go_on(config)
    assert str(tensors) in fault
    assert_same_state(whole, config, LAST)
    assert_same_results(whole, config)


def test_a_finished_run_resumed_gives_its_results_again(whole, tmp_path, tiny_data):
    config = run_serially(tmp_path, tiny_data)
    (config.folder / "results.json").unlink()
    go_on(config)
    assert_same_results(whole, config)


def test_without_any_whole_checkpoint_every_fault_is_told(tmp_path, tiny_data):
    config = tiny_config(tmp_path, tiny_data)
    with serial_run(config) as run:
        run.run(lambda: run.schedule.position.updates >= 10)
    for manifest in config.folder.glob("checkpoints/*/manifest.json"):
        manifest.write_text("")
    with pytest.raises(CheckpointError, match=r"update-00000010.*must be JSON"):
        load_latest(config.folder)


def test_the_rate_after_a_resume_counts_from_the_checkpoint(tmp_path, tiny_data):
    config, now = tiny_config(tmp_path, tiny_data), [0.0]
    with serial_run(config, clock=lambda: now[0]) as run:
        while run.schedule.position.updates < 35:
            now[0] += 0.25
            run.step()
        run.save()
    checkpoint, _ = load_latest(config.folder)
    with serial_run(config, checkpoint, clock=lambda: now[0]) as run:
        now[0] += 0.5
        run.step()
    rows = read_metrics(config.folder / "metrics.jsonl")
    assert [(row["updates"], row["updates_per_s"]) for row in rows[-2:]] == [(35, 20.0), (40, 10.0)]
    assert [row["time_s"] for row in rows[-2:]] == [1.75, 2.25]


def test_a_stage_of_no_updates_is_passed_over(tmp_path, tiny_data):
    config = run_serially(tmp_path, tiny_data, "--schedule.updates.offline", "0")
    results = results_of(config.folder)
    assert "offline" not in results
    assert results["updates"] == 20
    assert results["self_supervised_transitions"] > 0


def test_no_reward_of_an_environment_is_read_while_a_run_collects_or_learns(
    whole, tmp_path, tiny_data, monkeypatch
):
    reward, evaluating = PointRobot.reward, []

    def guarded_reward(*arguments):
        assert evaluating, "a reward was read outside evaluation"
        return reward(*arguments)

    def allowed(method):
        def call(*arguments):
            evaluating.append(True)
            try:
                return method(*arguments)
            finally:
                evaluating.pop()

        return call

    monkeypatch.setattr(PointRobot, "reward", guarded_reward)
    for name in ("evaluate", "references"):
        monkeypatch.setattr(EvaluationService, name, allowed(getattr(EvaluationService, name)))
    config = run_serially(tmp_path, tiny_data)
    assert_same_state(whole, config, LAST)
    assert_same_results(whole, config)


def test_a_stop_before_the_first_block_still_leaves_a_checkpoint(tmp_path, tiny_data):
    config = tiny_config(tmp_path, tiny_data)
    with serial_run(config) as run:
        assert isinstance(run, SerialRun)
        assert not run.run(lambda: True)
    assert load_latest(config.folder)[0].path.name == "update-00000000"


def test_a_run_is_evaluated_under_other_protocols_without_training_it_again(whole, capsys):
    folder = str(whole.folder)
    others = [
        "--evaluation.offline_protocol=offline_shifted",
        *("--evaluation.online_protocol", "online_filtered"),
    ]
    assert command(["evaluate", folder, "--json", *others]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["protocols"] == {"online": "online_filtered", "offline": "offline_shifted"}
    assert results_of(whole.folder)["protocols"]["offline"] == "offline"
    assert read_evaluated(whole.folder) == [told]
    known = results_of(whole.folder)["online"]["offline_context_return"]
    assert told["offline_context_return"] != known
    assert command(["evaluate", folder, "--data.seed", "3"]) == 2
    assert "evaluation alone" in capsys.readouterr().err
