"""The online oracle as a run: true rewards where it asks for them, and nowhere else."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from causeway.actors.tasks.family import find_split, with_true_reward
from causeway.actors.tasks.registry import load_family
from causeway.cluster.config import load_run_config
from causeway.cluster.config_io import ConfigError
from causeway.cluster.labelling import rewarded_rollout
from causeway.datasets.batches import RowLayout
from causeway.datasets.shards import read_part, read_shard, write_part
from tests.actors.collecting import assignment, make
from tests.tiny_runs import distributed_run, online_parts, results_of, serial_run, write_yaml


def oracle_config(folder, data):
    path = write_yaml(folder, data)
    path.write_text(path.read_text().replace("  decoder_hidden: [8]\n", ""))
    return load_run_config(path, ["--run.algorithm=pearl", "--collection.true_rewards=true"])


@pytest.mark.parametrize(
    "wiring",
    ["serial", pytest.param("distributed", marks=[pytest.mark.ray, pytest.mark.slow])],
)
def test_an_oracles_online_data_have_the_true_rewards(wiring, tmp_path, tiny_data, request):
    config = oracle_config(tmp_path, tiny_data)
    if wiring == "distributed":
        request.getfixturevalue("local_ray")
    with (serial_run if wiring == "serial" else distributed_run)(config) as run:
        assert run.run(lambda: False)
    assert results_of(config.folder)["true_rewards"] is True
    family, layout = load_family("point-robot"), RowLayout(2, 2)
    tasks = {task.id: task for task in find_split(family, "standard").train}
    numbers = online_parts(config.folder)
    assert numbers
    for number in numbers:
        path = config.folder / "online" / f"part-{number:08d}.parquet"
        (source,) = set(pq.read_table(path).column("source").to_pylist())
        assert source == "online"
        (task_id,) = {e["task"] for e in _entries(config, number)}
        for episode in read_part(path, None, layout):
            true = with_true_reward(family, tasks[task_id], episode)
            np.testing.assert_array_equal(true.reward, episode.reward)


def _entries(config, number):
    newest = max((config.folder / "checkpoints").glob("update-*"))
    state = (newest / "state.json").read_text()
    return [e for e in json.loads(state)["run"]["stream"]["online"] if e["sequence"] == number]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--collection.true_rewards=true"], "must be false for stage 'online' of 'smac'"),
        (["--run.algorithm=pearl"], "must be true for stage 'online' of 'pearl', an oracle"),
    ],
)
def test_true_rewards_are_refused_to_whom_they_are_not_due(tmp_path, overrides, message):
    path = write_yaml(tmp_path, tmp_path)
    if "--run.algorithm=pearl" in overrides:
        path.write_text(path.read_text().replace("  decoder_hidden: [8]\n", ""))
    with pytest.raises(ConfigError, match=message):
        load_run_config(path, overrides)


def test_offline_training_alone_needs_no_true_rewards(tmp_path, tiny_data):
    path = write_yaml(tmp_path, tiny_data)
    path.write_text(path.read_text().replace("  decoder_hidden: [8]\n", ""))
    load_run_config(path, ["--run.algorithm=pearl", "--schedule.updates.online=0"])


def test_a_rollout_without_rewards_is_not_taken_for_an_oracles():
    (rollout,) = make().collect([assignment(sequence=4)])
    with pytest.raises(ValueError, match=r"rollout 4 lacks some: it was gathered without"):
        rewarded_rollout(rollout)


def test_an_oracles_file_can_be_read_with_and_without_its_rewards(tmp_path):
    (rollout,) = make().collect([assignment()])
    episodes = [one.labelled(np.full(len(one), 0.5, np.float32)) for one in rollout.trajectories]
    path = tmp_path / "part.parquet"
    write_part(path, episodes, 3, None)
    assert all((e.reward == 0.5).all() for e in read_part(path, None, RowLayout(2, 2)))
    assert len(read_shard(path, None, RowLayout(2, 2))) == len(episodes)
