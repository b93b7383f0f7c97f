"""Minari's data sets, read without its package."""

import json

import h5py
import numpy as np
import pytest

from causeway.datasets.faults import DatasetError
from tests.datasets.factories import assert_same_episodes

from .layouts import LENGTHS, load, make_walk, make_walks, with_ends, write_minari

EPISODES = [*make_walks(LENGTHS * 2), make_walk(4, seed=9)]


@pytest.fixture
def data_set(tmp_path):
    return write_minari(tmp_path / "three-v0", EPISODES)


def edit(data_set, change):
    with h5py.File(data_set / "data" / "main_data.hdf5", "a") as file:
        change(file)


def restate(data_set, **facts):
    path = data_set / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_episodes_come_by_number_with_their_own_ends(data_set):
    found, notes = load("minari", data_set)
    assert_same_episodes(found[0], EPISODES)  # episode_10 comes after episode_2
    assert notes["file.dataset_id"] == "walks/three-v0"
    assert notes["cast.reward"] == "float64 to float32"
    again, _ = load("minari", data_set / "data")
    assert_same_episodes(again[0], EPISODES)


def test_each_data_set_of_a_pattern_is_a_task(tmp_path):
    for task in (0, 7):
        write_minari(tmp_path / f"vel-{task}-v0", make_walks((6,), task))
    found, _ = load("minari", tmp_path / "vel-{task}-v0")
    assert list(found) == [0, 7]


def test_an_episode_without_an_end_is_cut_off(tmp_path):
    open_end = with_ends(make_walk(4), terminated=False, truncated=False)
    found, notes = load("minari", write_minari(tmp_path / "x", [open_end, make_walk(6)]))
    assert_same_episodes(found[0], [make_walk(4), make_walk(6)])
    assert notes["episodes_cut_off"] == 1


def test_of_a_composite_observation_the_named_parts_are_taken_in_order(tmp_path):
    folder = write_minari(tmp_path / "x", EPISODES, composite=True)
    with pytest.raises(
        DatasetError, match="name those to take, of far, near, as --observation-keys"
    ):
        load("minari", folder)
    found, _ = load("minari", folder, observation_keys=("far", "near"))
    assert_same_episodes(found[0], EPISODES)
    turned, _ = load("minari", folder, observation_keys=("near", "far"))
    np.testing.assert_array_equal(turned[0][0].observation[:, 0], EPISODES[0].observation[:, 2])
    with pytest.raises(
        DatasetError,
        match="column episode_0/observations/high: must be there, beside it are far, near",
    ):
        load("minari", folder, observation_keys=("high",))


def test_keys_for_a_plain_observation_are_refused(data_set):
    with pytest.raises(DatasetError, match="must be a group to take far from"):
        load("minari", data_set, observation_keys=("far",))


def replaced(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.pop("episode_3"), "must hold groups episode_0, episode_1"),
        (lambda f: f.pop("episode_12"), "must hold the 13 episodes that metadata.json states"),
        (lambda f: f["episode_2"].pop("rewards"), "column episode_2/rewards: must be there"),
        (
            lambda f: f["episode_2"].pop("observations"),
            "column episode_2/observations: must be there",
        ),
        (lambda f: f["episode_2"]["rewards"].resize((5,)), "must have equally many rows"),
        (
            lambda f: f["episode_2"]["observations"].resize((6, 3)),
            r"column episode_2/observations: must have shape \[7, size\]",
        ),
        (lambda f: f["episode_2"].attrs.update({"total_steps": 5}), "must have the 5 steps"),
        (lambda f: f["episode_2"].attrs.update({"total_steps": "x"}), "must be a whole number"),
        (
            lambda f: f["episode_2"]["terminations"].__setitem__(1, True),
            "column episode_2/terminations, row 1: must be false before",
        ),
        (
            lambda f: f["episode_2"]["actions"].__setitem__((4, 1), np.nan),
            "column episode_2/actions, row 4: must be finite .* feature 1",
        ),
        (replaced("episode_2/actions", np.zeros(6, int)), "column episode_2/actions, row 0: must"),
        (replaced("episode_2/actions", ["a"] * 6), "column episode_2/actions: must hold numbers"),
        (replaced("episode_2", np.zeros(3)), "column episode_2/actions: must be in a group"),
    ],
)
def test_what_is_wrong_is_told_with_file_column_and_row(data_set, change, told):
    edit(data_set, change)
    with pytest.raises(DatasetError, match=told) as caught:
        load("minari", data_set)
    assert "main_data.hdf5" in str(caught.value)


def test_steps_that_are_missing_are_noticed(data_set):
    restate(data_set, total_steps=99)
    with pytest.raises(DatasetError, match=r"must hold the 99 steps that metadata.json states"):
        load("minari", data_set)


def test_other_storage_is_refused(data_set):
    restate(data_set, data_format="arrow")
    with pytest.raises(DatasetError, match="data_format must be hdf5, got 'arrow'"):
        load("minari", data_set)
    (data_set / "data" / "metadata.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match=r"metadata\.json: must be JSON"):
        load("minari", data_set)
    (data_set / "data" / "metadata.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"metadata\.json: must be an object"):
        load("minari", data_set)
    (data_set / "data" / "metadata.json").unlink()
    with pytest.raises(DatasetError, match="must be a Minari data set"):
        load("minari", data_set)


def test_a_missing_main_file_is_named(data_set):
    (data_set / "data" / "main_data.hdf5").unlink()
    with pytest.raises(DatasetError, match=r"main_data\.hdf5: must be there"):
        load("minari", data_set)
