"""RLlib's episodes: put together from their pieces, and never unpickled."""

import os
import pickle

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from causeway.datasets.faults import DatasetError
from tests.datasets.factories import assert_same_episodes

from .layouts import (
    LENGTHS,
    load,
    make_walk,
    make_walks,
    rllib_state,
    shortened,
    write_items,
    write_rllib,
)


@pytest.mark.parametrize("as_lists", [True, False])
def test_whole_episodes_are_read_in_their_order(tmp_path, as_lists):
    episodes = make_walks(LENGTHS)
    states = [rllib_state(e, id_=str(i), as_lists=as_lists) for i, e in enumerate(episodes)]
    write_items(tmp_path / "point" / "run-1-00001" / "0.parquet", states[:4])
    write_items(tmp_path / "point" / "run-1-00002" / "0.parquet", states[4:])
    found, notes = load("rllib", tmp_path)
    assert_same_episodes(found[0], episodes)
    assert notes == {"cast.reward": "float64 to float32"}


def test_pieces_are_put_together_without_what_they_look_back_at(tmp_path):
    one, other = make_walks((6, 5))
    states = [
        rllib_state(one, id_="a", end=2),
        rllib_state(other, id_="b", end=3),
        rllib_state(other, id_="b", begin=3, lookback=2),
        rllib_state(one, id_="a", begin=2, end=4, lookback=1),
    ]
    write_items(tmp_path / "run-1-00001.parquet", states)
    write_items(tmp_path / "run-1-00002.parquet", [rllib_state(one, id_="a", begin=4, lookback=4)])
    found, notes = load("rllib", tmp_path)
    assert_same_episodes(found[0], [other, one])
    assert "episodes_cut_off" not in notes


def test_an_episode_whose_end_was_not_recorded_is_cut_off(tmp_path):
    one, other = make_walks((6, 6))
    states = [rllib_state(one, id_="a", end=4), rllib_state(other, id_="b")]
    write_items(tmp_path / "x.parquet", states)
    found, notes = load("rllib", tmp_path / "x.parquet")
    cut = shortened(one, 4)
    assert_same_episodes(found[0], [other, cut])
    assert notes["episodes_cut_off"] == 1


def test_a_missing_piece_is_named(tmp_path):
    (one,) = make_walks((6,))
    states = [rllib_state(one, end=2), rllib_state(one, begin=4)]
    write_items(tmp_path / "x.parquet", states)
    with pytest.raises(
        DatasetError, match=r"column item, row 1: must go on at step 2 .* got step 4"
    ):
        load("rllib", tmp_path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_an_array_of_objects_does_not_go_off(tmp_path):
    (episode,) = make_walks((6,))
    bomb = {
        b"nd": True, b"type": "|O", b"kind": b"O", b"shape": [1],
        b"data": pickle.dumps(Bomb(tmp_path / "off")),
    }  # fmt: skip
    state = rllib_state(episode)
    state["infos"] = {"data": bomb, "lookback": 0}
    write_items(tmp_path / "x.parquet", [state])
    found, _ = load("rllib", tmp_path)
    assert_same_episodes(found[0], [episode])
    state["rewards"]["data"] = bomb
    write_items(tmp_path / "x.parquet", [state])
    with pytest.raises(DatasetError, match="row 0: must be an episode as RLlib packs it"):
        load("rllib", tmp_path)
    assert not (tmp_path / "off").exists()


def without(name):
    def change(state):
        del state[name]
        return state

    return change


def changed(name, **values):
    def change(state):
        state[name].update(values)
        return state

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("rewards"), "must be an episode as RLlib packs it, but 'rewards'"),
        (without("is_truncated"), "must be an episode as RLlib packs it, but 'is_truncated'"),
        (changed("rewards", lookback=1), r"rewards must hold 7 values, got shape \(6,\)"),
        (changed("rewards", lookback="1"), "rewards must be a buffer with a look-back"),
        (changed("observations", data={"far": []}), "must be arrays, composite ones are not read"),
        (changed("actions", data=[3, 1, 0, 2, 1, 0]), r"column actions, row 0: must have shape"),
        (changed("rewards", data=[None] * 6), "column rewards: must hold numbers, got object"),
        (changed("rewards", data=[[1.0], [2.0, 3.0]] * 3), "must be an episode as RLlib packs it"),
        (lambda s: {**s, "t": 3}, r"observations must hold 4 values, got shape \(7, 3\)"),
        (lambda s: {**s, "t_started": -1}, "must run from t_started to t"),
        (lambda s: {**s, "is_terminated": 1}, "is_terminated must be true or false"),
        (lambda s: [1, 2], "it is a list"),
        (lambda s: b"\xc1", "must be an episode as RLlib packs it"),
        (lambda s: msgpack.packb(s)[:-9], "must be an episode as RLlib packs it"),
        (lambda s: msgpack.packb(s) + b"\0", "must be an episode as RLlib packs it"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_item(tmp_path, change, told):
    good, bad = make_walks((6, 6))
    states = [rllib_state(good, id_="a"), change(rllib_state(bad, id_="b"))]
    path = write_items(tmp_path / "x.parquet", states)
    with pytest.raises(DatasetError, match=told) as caught:
        load("rllib", tmp_path)
    assert str(path) in str(caught.value)


def test_a_piece_without_steps_is_nothing(tmp_path):
    (episode,) = make_walks((6,))
    states = [rllib_state(episode, end=3), rllib_state(episode, begin=3, end=3, lookback=2)]
    states.append(rllib_state(episode, begin=3, lookback=1))
    write_items(tmp_path / "x.parquet", states)
    found, _ = load("rllib", tmp_path)
    assert_same_episodes(found[0], [episode])


def test_columns_in_place_of_episodes_are_refused_with_the_setting(tmp_path):
    pq.write_table(pa.table({"obs": [[1.0]], "actions": [[1.0]]}), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match="the file has obs, actions: record with output_write"):
        load("rllib", tmp_path)
    pq.write_table(pa.table({"item": ["text"]}), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match="must be a column of bytes"):
        load("rllib", tmp_path)
    pq.write_table(pa.table({"item": pa.array([None], pa.binary())}), tmp_path / "x.parquet")
    with pytest.raises(DatasetError, match=r"row 0: must be at most .* and no null"):
        load("rllib", tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    path = write_rllib(tmp_path, make_walks(LENGTHS)) / "run-000001-00001" / "0.parquet"
    contents = path.read_bytes()
    path.write_bytes(contents[:-20])
    with pytest.raises(DatasetError, match=r"0\.parquet: must be a complete Parquet file"):
        load("rllib", tmp_path)
    flipped = bytearray(contents)
    flipped[300] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(DatasetError, match=r"0\.parquet: must be a complete Parquet file.*CRC"):
        load("rllib", tmp_path)


def test_each_folder_of_a_pattern_is_a_task(tmp_path):
    for task in (1, 4):
        write_rllib(tmp_path / f"task-{task}", [make_walk(6, seed=task)])
    (tmp_path / "task-9").mkdir()
    found, _ = load("rllib", tmp_path / "task-{task}")
    assert list(found) == [1, 4]


def test_numbers_may_be_packed_by_numpys_scalars(tmp_path):
    (episode,) = make_walks((6,))
    state = rllib_state(episode)
    state["is_truncated"] = {b"nd": False, b"type": "|b1", b"data": b"\1"}
    write_items(tmp_path / "x.parquet", [state])
    found, _ = load("rllib", tmp_path)
    assert found[0][0].truncated[-1]
    assert np.isfinite(found[0][0].reward).all()
