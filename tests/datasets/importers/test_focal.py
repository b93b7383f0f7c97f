"""FOCAL's trajectories: objects that are read and never unpickled."""

import io
import os
import pickle
import pickletools

import numpy as np
import pytest

from causeway.datasets.faults import DatasetError
from causeway.datasets.importers.object_arrays import read_object_rows
from tests.datasets.factories import assert_same_episodes

from .layouts import LENGTHS, load, make_walks, object_rows, write_focal


def test_episodes_come_in_the_order_of_training_and_end_as_their_length_says(tmp_path):
    tasks = {0: make_walks(LENGTHS * 2), 13: make_walks((6, 4), 1)}
    found, notes = load("focal", write_focal(tmp_path, tasks))
    assert list(found) == [0, 13]
    for task, episodes in tasks.items():
        assert_same_episodes(found[task], episodes)
    assert notes["cast.observation"] == "float64 to float32"
    assert "files_not_read" not in notes


def test_files_of_other_names_are_not_read_but_counted(tmp_path):
    write_focal(tmp_path, {0: make_walks((6,))})
    (tmp_path / "goal_idx0" / "trj_eval0_step0.npy").write_bytes(b"deterministic")
    (tmp_path / "goal_idx0" / "progress.csv").write_text("x")
    found, notes = load("focal", tmp_path)
    assert (len(found[0]), notes["files_not_read"]) == (1, 2)


def save_with(path, rows, protocol, names):
    """As `np.save` does, with another protocol of pickle and another release's names."""
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=True)
    header = buffer.getvalue()[:128]
    program = pickle.dumps(rows, protocol=protocol)
    if names == "old":
        program = program.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(header + program)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("names", ["old", "new"])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_what_each_release_of_numpy_writes_is_read(tmp_path, protocol, names, kind):
    (episode,) = make_walks((6,))
    if protocol == 4 and names == "old":  # its names carry their length: rewrite by hand
        old = b"\x8c\x15numpy.core.multiarray"
        program = pickle.dumps(object_rows(episode, kind), protocol=4)
        program = program.replace(b"\x8c\x16numpy._core.multiarray", old)
        frame = len(program) - 11
        program = program[:3] + frame.to_bytes(8, "little") + program[11:]
        buffer = io.BytesIO()
        np.save(buffer, object_rows(episode, kind), allow_pickle=True)
        (tmp_path / "goal_idx0").mkdir()
        path = tmp_path / "goal_idx0" / "trj_evalsample0_step0.npy"
        path.write_bytes(buffer.getvalue()[:128] + program)
        assert len(np.load(path, allow_pickle=True)) == 6
    else:
        write_focal(tmp_path, {0: [episode]})
        path = tmp_path / "goal_idx0" / "trj_evalsample0_step0.npy"
        save_with(path, object_rows(episode, kind), protocol, names)
    found, _ = load("focal", tmp_path)
    assert_same_episodes(found[0], [episode])


def test_cells_may_be_plain_numbers_shared_arrays_and_arrays_in_fortrans_order(tmp_path):
    shared = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    rows = np.empty((2, 4), object)
    rows[0] = [shared, 3, 2.5, True]
    rows[1] = [shared, np.float32(1.5), np.array(7, ">i8"), np.array([False, True])]
    np.save(tmp_path / "x.npy", rows, allow_pickle=True)
    found = read_object_rows(tmp_path / "x.npy", 4)
    for ours, theirs in zip(found, rows, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    np.save(tmp_path / "f.npy", np.asfortranarray(rows), allow_pickle=True)
    for ours, theirs in zip(read_object_rows(tmp_path / "f.npy", 4), rows, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[2] == theirs[2]


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class SlowBomb(Bomb):
    """The same through `eval`, as exploits do."""

    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({str(self.path)!r})",)


class StateBomb:
    """Harmless to make; its state is the bomb."""

    def __init__(self, path):
        self.bomb = Bomb(path)


@pytest.mark.parametrize("kind", [Bomb, SlowBomb, StateBomb])
def test_a_pickle_bomb_is_named_and_does_not_go_off(tmp_path, kind):
    write_focal(tmp_path, {0: make_walks((6, 6))})
    target, path = tmp_path / "gone-off", tmp_path / "goal_idx0" / "trj_evalsample1_step0.npy"
    rows = object_rows(make_walks((6,))[0])
    rows[3, 1] = kind(target)
    np.save(path, rows, allow_pickle=True)
    with pytest.raises(DatasetError, match="which is not looked up") as caught:
        load("focal", tmp_path)
    assert str(path) in str(caught.value)
    assert not target.exists()
    np.load(path, allow_pickle=True)
    assert target.exists()  # it was one


@pytest.mark.parametrize("protocol", [0, 1, 2, 5])
def test_a_bomb_that_is_the_whole_program_does_not_go_off(tmp_path, protocol):
    path = tmp_path / "x.npy"
    np.save(path, object_rows(make_walks((6,))[0]), allow_pickle=True)
    path.write_bytes(path.read_bytes()[:128] + pickle.dumps(Bomb(tmp_path / "off"), protocol))
    with pytest.raises(DatasetError, match=r"x\.npy: must be an array as numpy writes it"):
        read_object_rows(path, 4)
    assert not (tmp_path / "off").exists()


def test_numpys_own_names_cannot_be_called_with_other_things(tmp_path):
    """An array whose bytes would be taken for addresses of objects must never be made."""
    forged = pickle.dumps(np.empty(2, object), protocol=4).replace(b"O8", b"V8")
    path = tmp_path / "x.npy"
    np.save(path, np.empty((1, 2), object), allow_pickle=True)
    path.write_bytes(path.read_bytes()[:128] + forged)
    with pytest.raises(DatasetError, match="must be an array as numpy writes it"):
        read_object_rows(path, 2)


def test_no_instruction_is_carried_out_that_numpys_arrays_do_not_need(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, object_rows(make_walks((6,))[0]), allow_pickle=True)
    header = path.read_bytes()[:128]
    for opcode in pickletools.opcodes:
        path.write_bytes(header + b"\x80\x04]" + opcode.code.encode("latin1") + b"\x00" * 8 + b".")
        with pytest.raises(DatasetError, match=r"x\.npy"):
            read_object_rows(path, 4)


def test_missing_and_ragged_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match="there is no folder"):
        load("focal", tmp_path / "absent")
    (tmp_path / "goal_idx0").mkdir()
    with pytest.raises(DatasetError, match=r"goal_idx0: must hold files trj_evalsample<n>"):
        load("focal", tmp_path)
    rows = object_rows(make_walks((6,))[0])
    rows[4, 0] = rows[4, 0][:2]
    path = tmp_path / "goal_idx0" / "trj_evalsample0_step0.npy"
    np.save(path, rows, allow_pickle=True)
    with pytest.raises(DatasetError, match=r"column 0 \(observation\), row 4: .* got \(2,\)"):
        load("focal", tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: b[:-40], "must be an array as numpy writes it, but"),
        (lambda b: b + b"\0", "1 bytes follow its end"),
        (lambda b: b.replace(b"(6, 4)", b"(5, 4)"), r"header says shape \(5, 4\), its array has"),
        (lambda b: b.replace(b"(6, 4)", b"(4, 6)"), r"must have shape \[steps, 4\], got \(4, 6\)"),
        (lambda b: b.replace(b"|O", b"|V"), "must hold real numbers, got dtype"),
        (lambda b: b.replace(b"|O'", b"<f8"), "its header must be a literal"),
        (lambda b: b"\x92" + b[1:], "must be a .npy file"),
        (lambda b: b[:8] + b"\xff\xff" + b[10:], "its header must have at most"),
        (lambda b: b"", "must be a .npy file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change, told):
    write_focal(tmp_path, {0: make_walks((6,))})
    path = tmp_path / "goal_idx0" / "trj_evalsample0_step0.npy"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match=told) as caught:
        load("focal", tmp_path)
    assert str(path) in str(caught.value)


def test_plain_numbers_in_place_of_objects_are_named(tmp_path):
    write_focal(tmp_path, {0: make_walks((6,))})
    np.save(tmp_path / "goal_idx0" / "trj_evalsample0_step0.npy", np.zeros((6, 9)))
    with pytest.raises(DatasetError, match=r"must be an array of objects \[steps, 4\], got <f8"):
        load("focal", tmp_path)


def test_an_episode_longer_than_the_horizon_asks_for_it(tmp_path):
    write_focal(tmp_path, {0: make_walks((6,))})
    with pytest.raises(DatasetError, match="at most the horizon of 5 steps, got 6: give the time"):
        load("focal", tmp_path, horizon=5)
