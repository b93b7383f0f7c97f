"""Writing: what is there is whole, what is wrong is refused before it is written."""

import json
from dataclasses import replace

import numpy as np
import pytest

from causeway.datasets import writer as writer_module
from causeway.datasets.faults import DatasetError
from causeway.datasets.locations import Location
from causeway.datasets.shards import read_part, read_shard, write_part, write_shard
from causeway.datasets.store import DatasetStore
from causeway.datasets.writer import DatasetWriter

from .factories import (
    LAYOUT,
    assert_same_episodes,
    make_episode,
    make_episodes,
    make_header,
    write_dataset,
)


def test_a_data_set_is_read_back_as_it_was_written(tmp_path):
    written = write_dataset(tmp_path / "set")
    store = DatasetStore.open(tmp_path / "set", strict=True)
    assert store.task_ids() == (0, 1)
    assert store.task_ids("test") == (2,)
    assert store.task_ids(None) == (0, 1, 2)
    for task_id, episodes in written.items():
        assert_same_episodes(store.episodes(task_id), episodes)
        statistics = store.manifest.statistics[task_id]
        assert statistics.episodes == 8
        assert statistics.transitions == 48
        returns = [episode.undiscounted_return for episode in episodes]
        assert statistics.return_mean == pytest.approx(np.mean(returns))
        assert statistics.return_min == min(returns)
    assert store.manifest.task(1).parameters == {"goal": 0.5}
    assert store.faults == ()


def test_no_temporary_file_is_left(tmp_path):
    write_dataset(tmp_path)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"manifest.json", "part-00000.parquet", "part-00001.parquet"}


def write_task(folder, episodes, header):
    with DatasetWriter(folder, header) as writer:
        for episode in episodes:
            writer.add(0, [episode])


def failing_collection():
    yield from make_episodes(2)
    raise RuntimeError("power")


def test_a_failed_block_leaves_no_data_set(tmp_path):
    with pytest.raises(RuntimeError, match="power"):
        write_task(tmp_path, failing_collection(), make_header(train=(0,), test=()))
    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    with pytest.raises(DatasetError, match=r"has no manifest\.json.*interrupted"):
        DatasetStore.open(tmp_path)


def test_a_failed_replacement_leaves_no_mixture(tmp_path):
    write_dataset(tmp_path)
    writer = DatasetWriter(tmp_path, make_header(), overwrite=True)
    with pytest.raises(ValueError, match="must have episodes"), writer:
        writer.add(0, make_episodes(1))
    with pytest.raises(DatasetError, match=r"has no manifest\.json"):
        DatasetStore.open(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    location = Location.parse(tmp_path / "file")
    location.write(b"old")
    with pytest.raises(TypeError):
        location.write("no bytes")
    assert location.read().to_pybytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_existing_data_set_is_kept_unless_it_is_to_be_overwritten(tmp_path):
    before = write_dataset(tmp_path, parts=3)
    with pytest.raises(DatasetError, match="must not hold a data set yet"):
        write_dataset(tmp_path)
    assert_same_episodes(DatasetStore.open(tmp_path).episodes(0), before[0])
    header = make_header(train=(5,), test=())
    with DatasetWriter(tmp_path, header, overwrite=True) as writer:
        writer.add(5, make_episodes(1))
    assert DatasetStore.open(tmp_path, strict=True).task_ids(None) == (5,)
    parquet = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")]
    assert parquet == ["task=5/part-00000.parquet"]


def test_many_episodes_are_cut_into_parts_at_episode_boundaries(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_PART_BYTES", 13 * LAYOUT.width * 4)
    episodes = make_episodes(7)
    with DatasetWriter(tmp_path, make_header(train=(0,), test=())) as writer:
        writer.add(0, episodes)
    store = DatasetStore.open(tmp_path, strict=True)
    assert [part.rows for part in store.parts(0)] == [12, 12, 12, 6]
    assert_same_episodes(store.episodes(0), episodes)


def test_a_header_task_without_episodes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must have episodes, \[1\] have none"):
        write_task(tmp_path, make_episodes(1), make_header(train=(0, 1), test=()))
    assert not (tmp_path / "manifest.json").exists()


def test_a_task_that_is_not_in_the_header_is_refused(tmp_path):
    with DatasetWriter(tmp_path, make_header(train=(0,), test=())) as writer:
        with pytest.raises(ValueError, match=r"task 4 must be one of the header's tasks, \[0\]"):
            writer.add(4, make_episodes(1))
        writer.add(0, make_episodes(1))


def spoiled(name, value, at):
    array = getattr(make_episode(), name).copy()
    array[at] = value
    return replace(make_episode(), **{name: array})


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (spoiled("reward", np.nan, 3), "column reward, row 9: must be finite, got nan"),
        (
            spoiled("observation", np.inf, (2, 1)),
            "column observation, row 8: must be finite, got inf in feature 1",
        ),
        (
            spoiled("action", 1.5, (5, 0)),
            r"column action, row 11: must lie in \[-1, 1\], got 1.5 in feature 0",
        ),
        (
            spoiled("terminated", True, 2),
            "column terminated, row 8: must be false before an episode's last row",
        ),
        (
            replace(make_episode(), action=np.zeros((6, 4), np.float32)),
            r"column action: must have shape \(6, 2\) in episode 1, got \(6, 4\)",
        ),
        (make_episode(steps=7), "at most the header's horizon of 6 steps, got 7"),
    ],
)
def test_wrong_values_are_refused_before_they_are_written(tmp_path, episode, message):
    with pytest.raises(ValueError, match=f"^data of task 0.*{message}"):
        DatasetWriter(tmp_path, make_header(train=(0,), test=())).add(0, [make_episode(), episode])
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_shard_is_read_back_without_rewards(tmp_path):
    episodes = make_episodes(5)
    shard = write_shard(tmp_path / "a" / "shard.parquet", episodes, task=3)
    assert shard.rows == 30
    assert shard.bytes == (tmp_path / "a" / "shard.parquet").stat().st_size
    read = read_shard(shard.path, shard.sha256, LAYOUT)
    assert not hasattr(read[0], "reward")
    relabelled = [t.labelled(e.reward) for t, e in zip(read, episodes, strict=True)]
    assert_same_episodes(relabelled, episodes)


def test_a_labelled_part_is_read_back(tmp_path):
    episodes = make_episodes(5)
    part = write_part(tmp_path / "part.parquet", episodes, task=3, label_version=12)
    assert_same_episodes(read_part(part.path, part.sha256, LAYOUT), episodes)


def test_a_shard_with_another_checksum_is_refused(tmp_path):
    shard = write_shard(tmp_path / "shard", make_episodes(1), task=0)
    with pytest.raises(DatasetError, match="shard: sha256 must be 00, got") as caught:
        read_shard(shard.path, "00", LAYOUT)
    assert caught.value.fault.file == shard.path


def test_an_unlabelled_trajectory_is_not_written_as_labelled(tmp_path):
    shard = write_shard(tmp_path / "shard", make_episodes(1), task=0)
    trajectories = read_shard(shard.path, shard.sha256, LAYOUT)
    with pytest.raises(ValueError, match="must have rewards"):
        write_part(tmp_path / "part", trajectories, task=0, label_version=1)


def test_a_uri_names_the_same_place_as_a_path(tmp_path):
    write_dataset(f"file://{tmp_path}/set")
    assert DatasetStore.open(tmp_path / "set", strict=True).task_ids() == (0, 1)


def test_a_file_system_that_is_not_local_holds_a_data_set_too(tmp_path):
    from pyarrow import fs

    remote = Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "set")
    remote.filesystem.create_dir("set")
    for task in (0, 1, 2):
        remote.filesystem.create_dir(f"set/task={task}")  # object stores need no folders
    written = write_dataset(remote)
    assert_same_episodes(DatasetStore.open(remote, strict=True).episodes(1), written[1])


def test_the_manifest_is_plain_json(tmp_path):
    write_dataset(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["tasks"][0]["parts"][0]["path"] == "task=0/part-00000.parquet"
