"""Locations beyond the local disk: the whole way of a data set on an S3-compatible store."""

import json
import pickle

import numpy as np
import pytest

from causeway.cluster.cli.main import run
from causeway.datasets.buffers import open_buffers
from causeway.datasets.cache import RowCache
from causeway.datasets.faults import DatasetError
from causeway.datasets.locations import Location
from causeway.datasets.sampler import MetaSampler, SamplerConfig
from causeway.datasets.schema import MANIFEST_NAME
from causeway.datasets.shards import read_part, read_shard, write_part, write_shard
from causeway.datasets.store import QUARANTINE_NAME, DatasetStore
from causeway.datasets.writer import DatasetWriter

from .factories import LAYOUT, assert_same_episodes, make_episodes, make_header, write_dataset
from .object_store import object_store


@pytest.fixture(scope="module")
def server():
    with object_store() as store:
        yield store


@pytest.fixture
def place(server, request, monkeypatch):
    """A folder of this test's own on the object store, as a URI."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return lambda path: server.uri(f"{request.node.name}/{path}")


def test_a_data_set_on_an_object_store_is_written_opened_verified_and_drawn_from(place, tmp_path):
    uri = place("set")
    written = write_dataset(uri)
    store = DatasetStore.open(uri, strict=True)
    assert store.verify() == []
    for task, episodes in written.items():
        assert_same_episodes(store.episodes(task), episodes)
    known = {
        row.tobytes() for task in (0, 1) for each in written[task] for row in LAYOUT.pack(each)
    }
    cache = RowCache(tmp_path / "cache", 1 << 30)
    for mode in ("mapped", "streamed"):
        config = SamplerConfig(
            tasks_per_batch=2, transitions_per_task=8, context_per_task=4, mode=mode
        )
        with open_buffers(store, cache, store.task_ids(), config, seed=0) as opened:
            assert opened.mode == mode
            block = MetaSampler(opened.buffers, config, seed=0).sample_block(4)
        drawn = np.concatenate([block.context, block.transitions], axis=2)
        assert {row.tobytes() for row in drawn.reshape(-1, LAYOUT.width)} <= known


def test_the_commands_take_an_address_on_an_object_store(place, capsys):
    write_dataset(place("set"))
    assert run(["data", "verify", place("set")]) == 0
    assert run(["data", "inspect", place("set"), "--json"]) == 0
    Location.parse(place("set")).child("task=0/part-00000.parquet").delete()
    assert run(["data", "verify", place("set")]) == 1
    assert "must be there" in capsys.readouterr().out


def test_a_block_that_fails_leaves_no_data_set_on_an_object_store(place):
    def fail():
        with DatasetWriter(place("set"), make_header()) as writer:
            writer.add(0, make_episodes(2))
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(DatasetError, match=r"it has no manifest\.json"):
        DatasetStore.open(place("set"))


def test_a_data_set_on_an_object_store_is_replaced_only_if_asked_to(place):
    write_dataset(place("set"), parts=3)
    with pytest.raises(DatasetError, match="must not hold a data set yet"):
        write_dataset(place("set"))
    with DatasetWriter(place("set"), make_header(), overwrite=True) as writer:
        for task in (0, 1, 2):
            writer.add(task, make_episodes(1, seed=50 + task))
    store = DatasetStore.open(place("set"), strict=True)
    assert_same_episodes(store.episodes(1), make_episodes(1, seed=51))
    assert not Location.parse(place("set")).child("task=0/part-00002.parquet").exists()


def test_faulty_files_on_an_object_store_are_named_and_recorded(place):
    written = write_dataset(place("set"))
    folder = Location.parse(place("set"))
    damaged, lost, cut = (
        folder.child(f"task={task}/part-0000{part}.parquet")
        for task, part in ((0, 0), (1, 0), (2, 1))
    )
    contents = bytearray(damaged.read().to_pybytes())
    contents[len(contents) // 2] ^= 1
    damaged.write(bytes(contents))
    lost.delete()
    cut.write(cut.read().to_pybytes()[:-10])
    store = DatasetStore.open(place("set"))
    assert_same_episodes(store.episodes(0), written[0][4:])
    whats = {fault.file: fault.what for fault in store.faults}
    assert "sha256" in whats[str(damaged)]
    assert "must be there" in whats[str(lost)]
    assert "cut off or changed" in whats[str(cut)]
    record = json.loads(folder.child(QUARANTINE_NAME).read().to_pybytes())
    assert len(record["faults"]) == 3


def test_online_shards_and_parts_lie_on_an_object_store_as_well(place):
    episodes = make_episodes(3)
    shard = write_shard(place("run/shards/0.parquet"), episodes, task=0)
    part = write_part(place("run/online/0.parquet"), episodes, task=0, label_version=7)
    assert_same_episodes(read_part(place("run/online/0.parquet"), part.sha256, LAYOUT), episodes)
    read = read_shard(place("run/shards/0.parquet"), shard.sha256, LAYOUT)
    assert [len(trajectory) for trajectory in read] == [len(episode) for episode in episodes]
    with pytest.raises(DatasetError, match="sha256 must be"):
        read_part(place("run/online/0.parquet"), "0" * 64, LAYOUT)
    with pytest.raises(DatasetError, match="must be readable"):
        read_shard(place("run/shards/1.parquet"), None, LAYOUT)


def test_what_an_interrupted_upload_left_is_taken_away(place):
    location = Location.parse(place("file"))
    with pytest.raises(TypeError):
        location.write("not bytes")
    assert not location.exists()
    location.write(b"whole")
    assert location.read().to_pybytes() == b"whole"


def test_large_objects_arrive_whole(place):
    contents = np.random.default_rng(0).bytes(25_000_000)  # in several pieces
    Location.parse(place("large")).write(contents)
    assert Location.parse(place("large")).read().to_pybytes() == contents
    assert Location.parse(place("")).file_sizes(["large", "other"]) == [len(contents), None]


def test_a_location_goes_to_another_process(place):
    location = Location.parse(place("set"))
    location.child("file").write(b"here")
    assert pickle.loads(pickle.dumps(location)).child("file").read().to_pybytes() == b"here"


def test_a_file_uri_is_a_local_path(tmp_path):
    folder = tmp_path / "a folder"
    uri = folder.as_uri()
    assert "%20" in uri
    written = write_dataset(uri)
    assert (folder / MANIFEST_NAME).is_file()
    assert Location.parse(uri) == Location.parse(folder)
    assert_same_episodes(DatasetStore.open(uri, strict=True).episodes(0), written[0])
    shard = write_shard((folder / "shard.parquet").as_uri(), make_episodes(1), task=0)
    assert read_shard(folder / "shard.parquet", shard.sha256, LAYOUT)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s4://bucket/set", r"must be a path, or a URI such as s3://bucket/folder, got 's4://"),
        ("s3://", "must name a folder"),
        ("s4://key:secret@bucket/set", "got 's4://bucket/set'"),
    ],
)
def test_a_uri_that_names_no_place_is_refused_without_repeating_a_secret(uri, message):
    with pytest.raises(ValueError, match=message) as caught:
        Location.parse(uri)
    assert "secret" not in str(caught.value)
