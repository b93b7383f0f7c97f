"""Copies of checkpoints: on a local folder or an object store, whole or not taken for one."""

import shutil

import pytest
import torch

from causeway.cluster.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)
from causeway.cluster.checkpoint_copies import copy_out, fetch_latest, has_copies
from causeway.cluster.launch import existing_run
from causeway.datasets.locations import Location
from tests.datasets.object_store import object_store
from tests.tiny_runs import results_of, serial_run, tiny_config


@pytest.fixture(scope="module")
def store():
    with object_store() as running:
        yield running


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    if request.param == "folder":
        return Location.parse(tmp_path / "copies" / "run")
    return Location.parse(request.getfixturevalue("store").uri(f"copies/{tmp_path.name}"))


def save(folder, updates):
    return save_checkpoint(
        folder, updates, {"x": torch.full((3,), float(updates))}, {"run": updates}, keep=9
    )


def test_the_newest_copy_comes_back_bit_for_bit(place, tmp_path):
    assert not has_copies(place)
    for updates in (10, 20, 30):
        copy_out(save(tmp_path / "run", updates), place, keep=2)
    shutil.rmtree(tmp_path / "run")
    assert fetch_latest(place, tmp_path / "run") == []
    checkpoint, faults = load_latest(tmp_path / "run")
    assert (checkpoint.path.name, checkpoint.state, faults) == ("update-00000030", {"run": 30}, [])
    assert torch.equal(checkpoint.tensors["x"], torch.full((3,), 30.0))


def test_only_the_newest_copies_are_kept(place, tmp_path):
    for updates in (10, 20, 30):
        copy_out(save(tmp_path / "run", updates), place, keep=2)
    assert not place.child("update-00000010").child("manifest.json").exists()
    assert place.child("update-00000020").child("manifest.json").exists()


def test_a_copy_that_was_broken_off_is_passed_over_and_told(place, tmp_path):
    for updates in (10, 20):
        copy_out(save(tmp_path / "run", updates), place, keep=2)
    place.child("update-00000020").child("manifest.json").delete()
    (fault,) = fetch_latest(place, tmp_path / "other")
    assert "update-00000020" in fault
    assert load_latest(tmp_path / "other")[0].path.name == "update-00000010"


def test_no_whole_copy_is_told_in_words(place, tmp_path):
    with pytest.raises(CheckpointError, match="there is nothing"):
        fetch_latest(place, tmp_path)
    copy_out(save(tmp_path / "run", 10), place, keep=2)
    place.child("update-00000010").child("state.json").write(b"{}")
    with pytest.raises(CheckpointError, match="must have sha256"):
        fetch_latest(place, tmp_path / "other")


def test_a_run_whose_checkpoints_are_gone_goes_on_from_their_copy(tmp_path, tiny_data):
    words = ("--schedule.checkpoint_copies", str(tmp_path / "copies"), "--run.name", "copied")
    config = tiny_config(tmp_path, tiny_data, *words)
    with serial_run(config) as run:
        while run.schedule.position.updates < 20:
            run.step()
    shutil.rmtree(config.folder / "checkpoints")
    resumed, checkpoint, faults = existing_run(config.folder)
    assert (checkpoint.state["trainer"]["updates"], faults) == (20, [])
    assert load_checkpoint(checkpoint.path).tensors.keys() == checkpoint.tensors.keys()
    with serial_run(resumed, checkpoint) as run:
        assert run.run(lambda: False)
    assert results_of(config.folder)["updates"] == 40
