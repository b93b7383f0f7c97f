"""MACAW's buffers: rows turned round, time limits told from ends, damage found."""

import h5py
import numpy as np
import pytest

from causeway.datasets.faults import DatasetError
from causeway.datasets.importers import tables
from causeway.datasets.importers.foreign import ReadOptions
from causeway.datasets.importers.hdf5 import Hdf5Table
from causeway.datasets.importers.macaw import MACAW
from tests.datasets.factories import assert_same_episodes

from .layouts import (
    LENGTHS,
    load,
    macaw_arrays,
    make_walk,
    make_walks,
    with_ends,
    write_hdf5,
    write_macaw,
)


def test_rows_that_run_backwards_come_out_forwards_and_time_limits_are_no_ends(tmp_path):
    episodes = make_walks(LENGTHS)
    found, notes = load("macaw", write_macaw(tmp_path / "task.hdf5", episodes))
    assert_same_episodes(found[0], episodes)
    assert [bool(e.truncated[-1]) for e in found[0]] == [n == 6 for n in LENGTHS]
    assert [bool(e.terminated[-1]) for e in found[0]] == [n < 6 for n in LENGTHS]
    assert notes == {"file.discount_factor": 0.9}


def test_a_block_of_rows_may_end_within_an_episode(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_ROWS", 4)
    episodes = make_walks(LENGTHS * 3)
    found, _ = load("macaw", write_macaw(tmp_path / "task.hdf5", episodes))
    assert_same_episodes(found[0], episodes)


def test_each_file_of_a_pattern_is_the_task_of_its_number(tmp_path):
    for task in (3, 12):
        write_macaw(tmp_path / f"buffers_vel_train_{task}_sub_task_0.hdf5", make_walks((6,), task))
    write_macaw(tmp_path / "buffers_vel_test_5_sub_task_0.hdf5", make_walks((6,)))
    found, _ = load("macaw", tmp_path / "buffers_vel_train_{task}_sub_task_0.hdf5")
    assert list(found) == [3, 12]
    assert_same_episodes(found[12], make_walks((6,), 12))


def test_an_unmarked_early_end_is_a_recording_cut_off(tmp_path):
    arrays = macaw_arrays(make_walks((6, 3)))
    arrays["terminals"][6] = False
    found, _ = load("macaw", write_hdf5(tmp_path / "task.hdf5", arrays))
    assert_same_episodes(
        found[0],
        [make_walks((6,))[0], with_ends(make_walks((6, 3))[1], terminated=False, truncated=True)],
    )


def test_float64_is_cast_and_the_cast_noted(tmp_path):
    arrays = macaw_arrays(make_walks((6, 6)))
    arrays["obs"], arrays["next_obs"] = (arrays[n].astype(np.float64) for n in ("obs", "next_obs"))
    found, notes = load("macaw", write_hdf5(tmp_path / "task.hdf5", arrays))
    assert found[0][0].observation.dtype == np.float32
    assert notes["cast.observation"] == notes["cast.next_observation"] == "float64 to float32"
    assert "cast.action" not in notes


@pytest.mark.parametrize("missing", ["obs", "mc_rewards", "terminal_discounts", "discount_factor"])
def test_a_missing_array_is_named(tmp_path, missing):
    arrays = macaw_arrays(make_walks((6,)))
    del arrays[missing]
    path = write_hdf5(tmp_path / "task.hdf5", arrays)
    with pytest.raises(DatasetError, match=f"task.hdf5, column {missing}: must be there"):
        load("macaw", path)


def forwards(arrays):
    return {name: v[::-1] if np.ndim(v) else v for name, v in arrays.items()}


def changed(name, row, value):
    def change(arrays):
        arrays[name][row] = value
        return arrays

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (forwards, "column terminal_discounts, row 0: must be discount_factor.1 .*backwards in"),
        (changed("terminal_discounts", 7, 0.5), "column terminal_discounts, row 7: .* got 0.5"),
        (changed("terminal_discounts", 2, np.nan), "column terminal_discounts, row 2: .* finite"),
        (changed("rewards", 3, 9.0), "column mc_rewards, row 3: .* damaged"),
        (changed("mc_rewards", 8, 5.0), "column mc_rewards, row 8: .* damaged"),
        (changed("terminal_obs", 8, 5.0), "column terminal_obs, row 8: .* damaged"),
        (changed("obs", 4, 0.25), "column next_obs, row 5: must be the observation of row 4"),
        (changed("obs", (4, 1), np.inf), "column obs, row 4: must be finite .* got inf in feature"),
        (changed("next_obs", 9, 0.25), "column next_obs, row 9: must be the observation of row 8"),
        (changed("terminals", 2, True), "column terminals, row 2: must be 0 but at"),
        (changed("actions", (10, 1), 1.5), r"column actions, row 10: .*\[-1, 1\], got 1.5 .*clip"),
        (lambda a: {**a, "actions": a["actions"][:-1]}, "must have equally many rows"),
        (lambda a: {**a, "obs": a["obs"][:, :2]}, r"column obs, .* shape \(6, 3\).* got \(6, 2\)"),
        (lambda a: {**a, "discount_factor": 1.0}, r"must lie in \(0, 1\), got 1.0"),
        (lambda a: {**a, "rewards": np.hstack([a["rewards"]] * 2)}, "must hold one number a row"),
        (lambda a: {**a, "obs": a["obs"].astype("S4")}, "column obs: must hold numbers, got"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_column_and_row(tmp_path, change, told):
    path = write_hdf5(tmp_path / "task.hdf5", change(macaw_arrays(make_walks((6, 5, 6)))))
    with pytest.raises(DatasetError, match=told) as caught:
        load("macaw", path)
    assert str(path) in str(caught.value)


def test_an_episode_beyond_the_horizon_is_refused_before_any_is_read(tmp_path):
    path = write_macaw(tmp_path / "task.hdf5", [make_walk(6), make_walk(9)])
    (task,) = MACAW.find_tasks(str(path))
    episodes = MACAW.read(task, ReadOptions(horizon=6), {})
    with pytest.raises(DatasetError, match=r"row 6: .* horizon of 6 steps, got 9: .*--horizon"):
        next(episodes)


def test_gaps_are_taken_where_they_are_allowed_and_counted(tmp_path):
    arrays = changed("next_obs", 9, 0.25)(macaw_arrays(make_walks((6, 6))))
    found, notes = load("macaw", write_hdf5(tmp_path / "t.hdf5", arrays), allow_gaps=True)
    assert (len(found[0]), notes["gaps"]) == (2, 1)


def test_actions_are_cut_off_where_that_is_asked_for_and_counted(tmp_path):
    arrays = changed("actions", (10, 1), 1.5)(macaw_arrays(make_walks((6, 6))))
    found, notes = load("macaw", write_hdf5(tmp_path / "t.hdf5", arrays), clip_actions=True)
    assert notes["clipped_action_values"] == 1
    assert found[0][1].action[1, 1] == 1.0


def test_actions_are_divided_by_the_environments_largest(tmp_path):
    episodes = make_walks((6,))
    arrays = macaw_arrays(episodes)
    arrays["actions"] = arrays["actions"] * np.float32(0.4)
    found, _ = load("macaw", write_hdf5(tmp_path / "t.hdf5", arrays), action_bound=0.4)
    np.testing.assert_allclose(found[0][0].action, episodes[0].action, rtol=1e-6)


def test_chunks_that_were_never_written_are_no_zeros(tmp_path):
    arrays = macaw_arrays(make_walks((6, 6)))
    path = tmp_path / "task.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if name != "rewards":
                file.create_dataset(name, data=values)
        rewards = file.create_dataset("rewards", (12, 1), "f4", chunks=(4, 1))
        rewards[:4] = arrays["rewards"][:4]
    with pytest.raises(DatasetError, match=r"column rewards: must have all its 3 chunks, got 1"):
        load("macaw", path)


def test_values_that_were_never_written_are_no_zeros(tmp_path):
    arrays = macaw_arrays(make_walks((6, 6)))
    path = tmp_path / "task.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if name != "rewards":
                file.create_dataset(name, data=values)
        file.create_dataset("rewards", (12, 1), "f4")
    with pytest.raises(
        DatasetError, match=r"column rewards: must be stored whole, 48 bytes, got 0"
    ):
        load("macaw", path)


def test_a_filter_of_a_plugin_is_not_looked_for(tmp_path):
    """HDF5 would load a library of that number from the folders of the environment."""
    arrays = macaw_arrays(make_walks((6, 6)))
    path = tmp_path / "task.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if name != "rewards":
                file.create_dataset(name, data=values)
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((12, 1))
        plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # zstd
        space = h5py.h5s.create_simple((12, 1))
        made = h5py.h5d.create(file.id, b"rewards", h5py.h5t.IEEE_F32LE, space, plan)
        h5py.Dataset(made)[:] = arrays["rewards"]
    with pytest.raises(
        DatasetError, match=r"column rewards: .* one of gzip, .* got filter \[32015"
    ):
        load("macaw", path)


@pytest.mark.parametrize("storage", [{"fletcher32": True}, {"scaleoffset": 9, "shuffle": True}])
def test_hdf5s_own_filters_are_read(tmp_path, storage):
    arrays = macaw_arrays(make_walks((6, 6)))
    rewards = arrays["rewards"].round(2)
    path = write_hdf5(tmp_path / "task.hdf5", {n: v for n, v in arrays.items() if n != "rewards"})
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", data=arrays["rewards"], chunks=(12, 1), **storage)
        stored = file["rewards"][:, 0]
    found, _ = load("macaw", path)
    read = np.concatenate([episode.reward[::-1] for episode in found[0]])
    np.testing.assert_array_equal(read, stored)
    np.testing.assert_allclose(stored, rewards[:, 0], atol=0.01)


def test_a_flipped_bit_under_hdf5s_checksum_is_found(tmp_path):
    arrays = macaw_arrays(make_walks((6, 6)))
    path = write_hdf5(tmp_path / "x.hdf5", {"actions": arrays["actions"]}, fletcher32=True)
    contents = bytearray(path.read_bytes())
    where = contents.index(arrays["actions"].tobytes()[:16])
    contents[where + 5] ^= 1
    path.write_bytes(contents)
    with h5py.File(path) as file, pytest.raises(DatasetError, match=r"column actions: .* failed"):
        Hdf5Table(file, path, ["actions"]).read("actions", 0, 12)


def link_elsewhere(file, path):
    file["rewards"] = h5py.ExternalLink(str(path), "rewards")


def store_elsewhere(file, path):
    external = [(str(path), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("rewards", (12, 1), "f4", external=external)


def view_elsewhere(file, path):
    layout = h5py.VirtualLayout((12, 1), "f4")
    layout[:] = h5py.VirtualSource(str(path), "rewards", (12, 1))
    file.create_virtual_dataset("rewards", layout)


def link_within(file, path):
    file["rewards"] = h5py.SoftLink("/mc_rewards")


@pytest.mark.parametrize("refer", [link_elsewhere, store_elsewhere, view_elsewhere, link_within])
def test_a_file_cannot_lead_out_of_itself(tmp_path, refer):
    arrays = macaw_arrays(make_walks((6, 6)))
    write_hdf5(tmp_path / "other.hdf5", arrays)
    path = tmp_path / "task.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if name != "rewards":
                file.create_dataset(name, data=values)
        refer(file, tmp_path / "other.hdf5")
    with pytest.raises(DatasetError, match="column rewards: must lie in this file, it"):
        load("macaw", path)
