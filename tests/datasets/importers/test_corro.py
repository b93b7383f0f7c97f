"""CORRO's buffers: episodes found again in rows that do not say where they end."""

import numpy as np
import pytest

from causeway.datasets.faults import DatasetError
from causeway.datasets.importers import tables
from tests.datasets.factories import assert_same_episodes

from .layouts import (
    LENGTHS,
    corro_arrays,
    load,
    make_walk,
    make_walks,
    write_arrays,
    write_corro,
)


def test_episodes_are_told_apart_by_their_steps_and_the_names_give_the_parameters(tmp_path):
    tasks = {1: make_walks(LENGTHS * 4), 40: make_walks((6, 6), 2)}
    write_corro(tmp_path, tasks)
    (tmp_path / "notes.txt").write_text("x")
    found, notes = load("corro", tmp_path)
    assert list(found) == [1, 40]
    for task, episodes in tasks.items():
        assert_same_episodes(found[task], episodes)
    assert notes["cast.observation"] == "float64 to float32"


def test_parameters_are_the_numbers_in_a_folders_name(tmp_path):
    from causeway.datasets.importers.corro import find_tasks

    write_corro(tmp_path, {1: make_walks((6,))})
    write_arrays(tmp_path / "seed_2", corro_arrays(make_walks((6,))))
    one, other = find_tasks(str(tmp_path))
    assert one.parameters == {"goal_0": 0.25, "goal_1": -0.5}
    assert other.parameters is None
    write_arrays(tmp_path / "seed_3_goal_left", corro_arrays(make_walks((6,))))
    with pytest.raises(
        DatasetError, match="must have numbers behind goal_ in its name, got 'left'"
    ):
        find_tasks(str(tmp_path))


def test_episodes_that_cannot_be_told_apart_are_not_cut_at_a_guess(tmp_path):
    """Those that begin where the last one ended look like one that is too long."""
    arrays = corro_arrays([make_walk(18)])
    write_arrays(tmp_path / "flat" / "seed_1", arrays)
    with pytest.raises(DatasetError, match=r"row 0: .* at most the horizon of 6 steps, got 18"):
        load("corro", tmp_path / "flat")
    trajectories = {n: v.reshape(3, 6, -1).transpose(1, 0, 2) for n, v in arrays.items()}
    write_arrays(tmp_path / "parted" / "seed_1", trajectories)
    found, _ = load("corro", tmp_path / "parted")
    assert [len(e) for e in found[1]] == [6, 6, 6]
    joined = np.concatenate([e.observation for e in found[1]])
    np.testing.assert_array_equal(joined, make_walk(18).observation)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_block_of_rows_may_end_anywhere(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(tables, "BLOCK_ROWS", rows)
    episodes = make_walks(LENGTHS * 3)
    found, _ = load("corro", write_corro(tmp_path, {1: episodes}))
    assert_same_episodes(found[1], episodes)


def test_trajectories_side_by_side_are_read_one_after_the_other(tmp_path):
    episodes = make_walks((6,) * 5)
    arrays = {
        name: values.reshape(5, 6, -1).transpose(1, 0, 2)
        for name, values in corro_arrays(episodes).items()
    }
    write_arrays(tmp_path / "seed_1", arrays)
    assert np.load(tmp_path / "seed_1" / "obs.npy").shape == (6, 5, 3)
    found, _ = load("corro", tmp_path)
    assert_same_episodes(found[1], episodes)


def test_an_end_that_nothing_explains_is_asked_for(tmp_path):
    episodes = [make_walk(6), make_walk(3, seed=1), make_walk(6, seed=2)]
    write_corro(tmp_path, {1: episodes})
    with pytest.raises(DatasetError, match=r"row 6: .* stops after 3: say with --early-end"):
        load("corro", tmp_path)
    found, notes = load("corro", tmp_path, early_end="truncated")
    assert_same_episodes(found[1], episodes)
    assert notes["episodes_ended_early"] == 1
    found, _ = load("corro", tmp_path, early_end="terminated")
    assert [bool(e.terminated[-1]) for e in found[1]] == [False, True, False]


def test_a_goal_that_is_reached_is_no_end_where_that_is_said(tmp_path):
    arrays = corro_arrays(make_walks((6, 6)))
    arrays["terminals"][[2, 3, 8]] = 1
    write_arrays(tmp_path / "seed_1", arrays)
    with pytest.raises(DatasetError, match=r"column terminals.npy, row 2: .* --ignore-terminals"):
        load("corro", tmp_path)
    found, notes = load("corro", tmp_path, ignore_terminals=True)
    assert_same_episodes(found[1], make_walks((6, 6)))
    assert notes["terminals_not_read"] == 3


def without(name):
    def change(arrays):
        del arrays[name]
        return arrays

    return change


def changed(name, row, value):
    def change(arrays):
        arrays[name][row] = value
        return arrays

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("rewards"), r"\['rewards.npy'\] are missing"),
        (changed("terminals", 5, 2), "column terminals.npy, row 5: must be 0 or 1, got 2"),
        (changed("rewards", 9, np.nan), "column rewards.npy, row 9: must be finite .* got nan"),
        (changed("obs", 0, np.inf), "column obs.npy, row 0: must be finite .* got inf"),
        (changed("rewards", 9, 1e39), "column rewards.npy, row 9: must be finite in float32, got"),
        (changed("actions", 9, 7), r"column actions.npy, row 9: must lie in \[-1, 1\], got 7"),
        (lambda a: {**a, "rewards": a["rewards"][1:]}, "must have equally many rows"),
        (lambda a: {**a, "obs": a["obs"][:, 1:]}, "must have 3 features like next_obs.npy, got 2"),
        (lambda a: {**a, "actions": a["actions"].astype("c8")}, "must hold real numbers"),
        (lambda a: {**a, "obs": np.empty((12, 3), object)}, "holds pickled objects, which are not"),
        (lambda a: {n: v[:0] for n, v in a.items()}, r"at least one value, its shape is \(0, 3\)"),
        (lambda a: {n: v[:, None, None] for n, v in a.items()}, r"must have shape \[rows, F\] or"),
        (lambda a: {**a, "obs": np.float64(3.0)}, r"must have shape \[rows, F\] or"),
    ],
)
def test_what_is_wrong_is_told_with_file_column_and_row(tmp_path, change, told):
    folder = write_arrays(tmp_path / "seed_1", change(corro_arrays(make_walks((6, 6)))))
    with pytest.raises(DatasetError, match=told) as caught:
        load("corro", tmp_path)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("change", [lambda b: b[:-8], lambda b: b + b"\0" * 8, lambda b: b[:5]])
def test_a_file_of_the_wrong_size_is_named(tmp_path, change):
    path = write_corro(tmp_path, {1: make_walks((6, 6))}) / "seed_1_goal_0.25_-0.5" / "actions.npy"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match="must ") as caught:
        load("corro", tmp_path)
    assert str(path) in str(caught.value)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"must hold folders seed_<i>\.\.\., there is none"):
        load("corro", tmp_path)
    with pytest.raises(DatasetError, match="there is no such folder"):
        load("corro", tmp_path / "absent")
    for name in ("seed_1_goal_0.5", "seed_01"):
        write_arrays(tmp_path / name, corro_arrays(make_walks((6,))))
    with pytest.raises(DatasetError, match="both number 1"):
        load("corro", tmp_path)
