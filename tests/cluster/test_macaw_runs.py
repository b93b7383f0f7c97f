"""Runs of gradient-based methods: offline alone, evaluated, fine-tuned, and gone on with."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import load_latest
from causeway.cluster.cli.main import USER_ERROR, run
from causeway.cluster.config import load_run_config
from causeway.cluster.launch import continued_run, new_run
from causeway.cluster.learner import LearnerService
from causeway.cluster.streams import ADDED_ID, TaskStream, few_of, open_data
from tests.tiny_runs import distributed_run, make_data, results_of, serial_run

OK = 0
TINY = """
run: {{algorithm: {algorithm}, seed: 3, folder: {folder}, serial: true}}
data: {{path: {data}, cache_folder: {data}/cache}}
sampler: {{tasks_per_batch: 2, distinct_tasks: true, transitions_per_task: 8, context_per_task: 8}}
schedule:
  {{updates: {{offline: 20}}, updates_per_block: 5, evaluate_every: 10, checkpoint_every: 10}}
evaluation: {{repeats: 1, episodes: 3, prior_episodes: 2, context_size: 8}}
ray: {{num_cpus: 8, object_store_bytes: 200000000}}
hyperparameters: {{hidden: [8], discount: 0.9}}
"""


def write_yaml(folder, data, algorithm="macaw"):
    path = folder / f"{algorithm}.yaml"
    text = TINY.format(algorithm=algorithm, folder=folder, data=data)
    if algorithm == "meta-bc":
        text = text.replace(", discount: 0.9", "")
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data):
    """The folder of a finished serial run."""
    folder = tmp_path_factory.mktemp("macaw")
    assert run(["train", str(write_yaml(folder, tiny_data)), "--run.name", "first"]) == OK
    return folder / "first"


RETURNS = {"prior_return", "online_context_return", "offline_context_return"}


def test_a_run_that_only_learns_offline_ends_with_its_three_returns_and_a_report(trained):
    results = results_of(trained)
    assert set(results["offline"]) == RETURNS
    assert results["env_steps"] == 0
    assert "online" not in results
    assert (trained / "report.html").exists()


@pytest.mark.parametrize("algorithm", ["meta-bc", "multi-task-awr"])
def test_the_baselines_run_from_the_same_file(algorithm, tmp_path, tiny_data):
    config = load_run_config(write_yaml(tmp_path, tiny_data, algorithm))
    with serial_run(config) as whole:
        assert whole.run(lambda: False)
    assert set(results_of(config.folder)["offline"]) == RETURNS


@pytest.mark.slow
@pytest.mark.ray
def test_a_distributed_run_learns_the_same_as_a_serial_one(local_ray, tmp_path, tiny_data, trained):
    path = write_yaml(tmp_path, tiny_data)
    config = load_run_config(path, ["--run.serial=false", "--run.name=apart"])
    with distributed_run(config) as distributed:
        assert distributed.run(lambda: False)
        assert distributed.pool.size == 0
    ours, theirs = (load_latest(folder)[0].tensors for folder in (config.folder, trained))
    unequal = [name for name, tensor in theirs.items() if not torch.equal(ours[name], tensor)]
    assert unequal == []
    assert results_of(config.folder)["offline"] == results_of(trained)["offline"]


def test_evaluate_explores_adapts_and_goes_on_learning(trained, tmp_path, capsys):
    out = tmp_path / "result.json"
    options = ["--explore", "training_tasks", "--explore-episodes", "2", "--keep-episodes", "1"]
    options += ["--out", str(out)]
    assert run(["evaluate", str(trained), *options]) == OK
    shown = capsys.readouterr().out
    found = json.loads(out.read_text())
    for name in ("unadapted_return", "exploration_return", "adapted_return"):
        assert len(found[name]["per_task"]) == 10
        assert name.replace("_", " ") in shown
    assert found["context"] == "own episodes, explored by training_tasks"
    assert found["options"]["exploration_episodes"] == 2
    assert found["options"]["kept_episodes"] == 1
    assert found["fine_tuned_returns"] == []
    assert run(["evaluate", str(trained), "--fine-tune-episodes", "3", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["context"] == "logs"
    assert found["exploration_return"] is None
    assert [point["episodes"] for point in found["fine_tuned_returns"]] == [3]


def test_the_protocols_of_the_run_are_written_too(trained, tmp_path, capsys):
    out = tmp_path / "result.json"
    assert run(["evaluate", str(trained), "--out", str(out)]) == OK
    found = json.loads(out.read_text())
    assert found["prior_return"] == results_of(trained)["offline"]["prior_return"]
    assert "prior return" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--explore", "luck"], "exploration must be one of noise, training_tasks"),
        (["--explore-episodes", "2"], "--explore-episodes and --keep-episodes need --explore"),
    ],
)
def test_what_evaluate_cannot_do_is_refused_in_words(trained, words, told, capsys):
    assert run(["evaluate", str(trained), *words]) == USER_ERROR
    assert told in " ".join(capsys.readouterr().err.split())


# Going on from a finished run.


def test_a_run_goes_on_from_anothers_weights_with_more_tasks(trained, tmp_path, capsys):
    more = make_data(tmp_path / "more")
    words = ["train", "--resume-from", str(trained), "--add-data", str(more)]
    assert run([*words, "--schedule.updates.offline", "5"]) == OK
    folder = trained.parent / "first-continued"
    config = load_run_config(folder / "config.yaml")
    assert config.data.added_paths == (str(more),)
    assert config.data.path == load_run_config(trained / "config.yaml").data.path
    family = load_family(config.data.family)
    tasks = find_split(family, config.data.split).train
    stream = TaskStream(config, tasks, tmp_path)
    assert stream.info().tasks == (*range(40), *range(ADDED_ID, ADDED_ID + 40))
    blocks, _ = stream.sample_block(40, with_state=True)
    assert {0, 1} == set((blocks.task >= ADDED_ID).ravel().astype(int))
    stream.close()
    begins = config.replace(run=dataclasses.replace(config.run, name="without-checkpoints-yet"))
    fresh = LearnerService(begins, open_data(config).layout)
    before = load_latest(trained)[0].tensors
    ours = {n: t for n, t in fresh._trainer.state()[0].items() if n.startswith("model.")}
    assert ours
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.items())
    after = load_latest(folder)[0]
    assert after.state["trainer"]["updates"] == 5
    assert any(not torch.equal(after.tensors[name], tensor) for name, tensor in ours.items())
    assert results_of(folder)["offline"]["prior_return"]["per_task"]
    check_old_tasks(results_of(folder), results_of(trained))
    shown = capsys.readouterr().out
    for heading in ("at the start", "after offline", "change"):
        assert heading in shown


def check_old_tasks(results, before):
    """What the old run's tasks earned before is what that run has found, and the change is told."""
    old = results["old"]
    assert old["before"] == before["offline"]
    assert old["after"] == results["offline"]
    assert old["after"] != old["before"]
    for name in RETURNS:
        assert old["change"][name]["per_task"] == pytest.approx(
            np.subtract(old["after"][name]["per_task"], old["before"][name]["per_task"])
        )


def test_a_run_that_begins_anew_tells_nothing_of_old_tasks(trained):
    assert "old" not in results_of(trained)


def test_going_on_after_an_interruption_keeps_what_the_old_tasks_earned(trained, tmp_path):
    words = ["--run.name=cut", "--schedule.updates.offline=20", f"--run.folder={tmp_path}"]
    config, folder = new_run(continued_run(trained, [], words))
    with serial_run(config) as first:
        first.step()
        first.save()
        first.step()
    with serial_run(config, load_latest(folder)[0]) as second:
        assert second.run(lambda: False)
    check_old_tasks(results_of(folder), results_of(trained))


@pytest.mark.slow
@pytest.mark.ray
def test_a_distributed_run_tells_the_same_of_the_old_tasks(local_ray, trained, tmp_path):
    words = ["--run.name=spread", "--schedule.updates.offline=10", f"--run.folder={tmp_path}"]
    config, folder = new_run(continued_run(trained, [], [*words, "--run.serial=false"]))
    with distributed_run(config) as distributed:
        assert distributed.run(lambda: False)
    check_old_tasks(results_of(folder), results_of(trained))


def test_another_familys_data_cannot_join(trained, tmp_path, capsys):
    other = make_data(tmp_path / "other", family="sparse-point-robot")
    words = ["train", "--resume-from", str(trained), "--add-data", str(other)]
    assert run([*words, "--run.name", "wrong"]) == USER_ERROR
    assert "must hold family 'point-robot'" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--add-data", "somewhere"], "--add-data needs --resume-from"),
        (["some.yaml", "--resume-from", "runs/x"], "some.yaml must be left out"),
    ],
)
def test_contradictory_ways_to_begin_are_refused(words, told, capsys):
    assert run(["train", *words]) == USER_ERROR
    assert told in " ".join(capsys.readouterr().err.split())


def test_fewer_training_tasks_are_evenly_spaced_and_more_than_there_are_refused(
    tmp_path, tiny_data
):
    path = write_yaml(tmp_path, tiny_data)
    for count, expected in ((3, [0, 20, 39]), (1, [0]), (40, list(range(40)))):
        config = load_run_config(path, [f"--data.train_tasks={count}"])
        assert list(few_of(list(range(40)), config)) == expected
    config = load_run_config(path, ["--data.train_tasks=41"])
    with pytest.raises(ValueError, match="must be at most the split's 40, got 41"):
        few_of(list(range(40)), config)
    config = load_run_config(path, ["--data.train_tasks=3"])
    with serial_run(config) as run_:
        assert run_._stream.info().tasks == (0, 20, 39)
