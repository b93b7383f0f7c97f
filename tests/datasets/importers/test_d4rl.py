"""D4RL's files: time limits and ends told apart, next observations that are not in the file."""

import h5py
import numpy as np
import pytest

from causeway.datasets.faults import DatasetError
from causeway.datasets.importers import tables
from tests.datasets.factories import assert_same_episodes

from .layouts import (
    LENGTHS,
    d4rl_arrays,
    load,
    make_walk,
    make_walks,
    shortened,
    with_ends,
    write_hdf5,
)


def test_terminals_and_timeouts_are_told_apart(tmp_path):
    episodes = [*make_walks(LENGTHS), make_walk(4, seed=9)]  # the last one: truncated early
    path = write_hdf5(tmp_path / "x.hdf5", d4rl_arrays(episodes))
    found, notes = load("d4rl", path)
    assert_same_episodes(found[0], episodes)
    assert notes == {}


def test_without_next_observations_a_truncated_episode_loses_the_step_that_lacks_one(tmp_path):
    episodes = [*make_walks((6, 3)), make_walk(1, seed=8), make_walk(6, seed=9)]
    path = write_hdf5(tmp_path / "x.hdf5", d4rl_arrays(episodes, following=False))
    found, notes = load("d4rl", path)
    first, second, last = found[0]
    assert_same_episodes([first, last], [shortened(episodes[i], 5) for i in (0, 3)])
    assert (len(second), second.terminated[-1], second.truncated[-1]) == (3, True, False)
    np.testing.assert_array_equal(second.next_observation[-1], second.observation[-1])
    np.testing.assert_array_equal(second.next_observation[:-1], second.observation[1:])
    assert notes["last_steps_dropped"] == 3
    assert notes["last_next_observations_repeated"] == 1


def test_without_timeouts_the_horizon_ends_an_episode(tmp_path):
    episodes = [
        make_walk(6),
        make_walk(6, seed=1),
        make_walk(2, terminated=True, seed=2),
        make_walk(6, terminated=True, seed=3),
        make_walk(6, seed=4),
        make_walk(5, seed=5),
    ]
    path = write_hdf5(tmp_path / "x.hdf5", d4rl_arrays(episodes, timeouts=False))
    found, notes = load("d4rl", path)
    assert_same_episodes(found[0], episodes)
    assert notes == {"episodes_cut_off": 1}


def test_rows_behind_the_last_mark_are_an_episode_cut_off(tmp_path):
    episodes = [make_walk(6), with_ends(make_walk(4, seed=1), terminated=False, truncated=False)]
    found, notes = load("d4rl", write_hdf5(tmp_path / "x.hdf5", d4rl_arrays(episodes)))
    assert_same_episodes(found[0], [episodes[0], make_walk(4, seed=1)])
    assert notes == {"episodes_cut_off": 1}


def test_what_is_not_read_may_have_any_name(tmp_path):
    path = write_hdf5(tmp_path / "x.hdf5", d4rl_arrays(make_walks((6, 6)), following=False))
    with h5py.File(path, "a") as file:
        file["infos/qpos"] = np.zeros(12)
        file["metadata/algorithm"] = "SAC"
        file["more/of/this"] = np.zeros(3)
    assert len(load("d4rl", path)[0][0]) == 2
    path = write_hdf5(tmp_path / "y.hdf5", d4rl_arrays(make_walks((6, 6))) | {"mine": np.ones(3)})
    assert len(load("d4rl", path)[0][0]) == 2


def test_steps_that_do_not_connect_are_counted(tmp_path):
    arrays = d4rl_arrays(make_walks((6, 6)))
    arrays["next_observations"][3] += 1.0
    found, notes = load("d4rl", write_hdf5(tmp_path / "x.hdf5", arrays))
    assert (len(found[0]), notes) == (2, {"gaps": 1})


def test_a_block_of_rows_may_end_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_ROWS", 4)
    episodes = make_walks(LENGTHS * 3)
    found, _ = load("d4rl", write_hdf5(tmp_path / "x.hdf5", d4rl_arrays(episodes)))
    assert_same_episodes(found[0], episodes)


@pytest.mark.parametrize("storage", [{"compression": "gzip", "shuffle": True}, {"chunks": (5,)}])
def test_files_may_be_stored_in_chunks(tmp_path, storage):
    arrays = {n: v for n, v in d4rl_arrays(make_walks(LENGTHS)).items() if v.ndim == 1}
    path = write_hdf5(tmp_path / "x.hdf5", arrays, **storage)
    with h5py.File(path, "a") as file:
        for name, values in d4rl_arrays(make_walks(LENGTHS)).items():
            if values.ndim > 1:
                file[name] = values
    found, _ = load("d4rl", path)
    assert_same_episodes(found[0], make_walks(LENGTHS))


def changed(name, row, value):
    def change(arrays):
        arrays[name] = arrays[name].astype(np.result_type(arrays[name], type(value)))
        arrays[name][row] = value
        return arrays

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: {n: v for n, v in a.items() if n != "rewards"}, "column rewards: must be there"),
        (lambda a: {**a, "terminals": a["terminals"][:-1]}, "must have equally many rows"),
        (lambda a: {**a, "actions": a["actions"][:, 0]}, r"column actions, .* got \(6,\)"),
        (lambda a: {**a, "observations": a["observations"][..., None]}, "column observations, row"),
        (
            lambda a: {n.replace("next_", "mext_"): v for n, v in a.items()},
            "column mext_observations: is no array of D4RL's, while next_observations may",
        ),
        (
            lambda a: {n.replace("outs", "out"): v for n, v in a.items()},
            "column timeout: is no array of D4RL's, while timeouts may be missing",
        ),
        (changed("terminals", 7, 3), "column terminals, row 7: must be 0 or 1, got 3"),
        (changed("timeouts", 5, False), r"at most the horizon of 6 steps, got 12"),
        (changed("rewards", 7, np.nan), "column rewards, row 7: must be finite"),
        (lambda a: {n: v[:0] for n, v in a.items()}, "must hold at least one row"),
        (lambda a: {**a, "rewards": np.float32(2.0)}, "must have equally many rows"),
    ],
)
def test_what_is_wrong_is_told_with_file_column_and_row(tmp_path, change, told):
    path = write_hdf5(tmp_path / "x.hdf5", change(d4rl_arrays(make_walks((6, 6)))))
    with pytest.raises(DatasetError, match=told) as caught:
        load("d4rl", path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("contents", [b"", b"\x89HDF\r\n\x1a\n", b"PAR1" * 200])
def test_a_file_that_is_none_is_named(tmp_path, contents):
    path = tmp_path / "x.hdf5"
    path.write_bytes(contents)
    with pytest.raises(DatasetError, match=r"x\.hdf5: must be a complete HDF5 file, reading it"):
        load("d4rl", path)


def test_a_file_cut_off_is_named(tmp_path):
    path = write_hdf5(tmp_path / "x.hdf5", d4rl_arrays(make_walks((6,) * 100)))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DatasetError, match=r"must be a complete HDF5 file, .*truncated file"):
        load("d4rl", path)


def test_a_place_without_files_says_how_to_name_them(tmp_path):
    with pytest.raises(DatasetError, match=r"several tasks are named as .*\{task\}"):
        load("d4rl", tmp_path)
    with pytest.raises(DatasetError, match="there is no such file"):
        load("d4rl", tmp_path / "x.hdf5")
    with pytest.raises(DatasetError, match=r"a number for \{task\}, but there is none"):
        load("d4rl", tmp_path / "x-{task}.hdf5")
    with pytest.raises(DatasetError, match="exactly once, got it 2 times"):
        load("d4rl", tmp_path / "{task}" / "x-{task}.hdf5")
    with pytest.raises(DatasetError, match="there is no folder"):
        load("d4rl", tmp_path / "absent" / "x-{task}.hdf5")
    with pytest.raises(DatasetError, match="must be on this machine"):
        load("d4rl", "s3://bucket/x.hdf5")


def test_the_number_may_stand_in_a_folders_name(tmp_path):
    for task in (2, 10):
        (tmp_path / f"task-{task}").mkdir()
        write_hdf5(tmp_path / f"task-{task}" / "x.hdf5", d4rl_arrays(make_walks((6,), task)))
    found, _ = load("d4rl", tmp_path / "task-{task}" / "x.hdf5")
    assert list(found) == [2, 10]
    for name in ("task-2", "task-02"):
        (tmp_path / name).mkdir(exist_ok=True)
        write_hdf5(tmp_path / name / "x.hdf5", d4rl_arrays(make_walks((6,))))
    with pytest.raises(DatasetError, match="both number 2"):
        load("d4rl", tmp_path / "task-{task}" / "x.hdf5")
