import numpy as np
import pytest
import torch

from causeway.actors.contexts import (
    Moment,
    find_protocol,
    offline,
    online_prior,
    protocols,
    stack_contexts,
    subsample,
)
from causeway.datasets.batches import RowLayout

LAYOUT = RowLayout(2, 1)


def rows(count, first=0):
    """Rows that no other has: counted up from `first`."""
    width = LAYOUT.width
    return np.arange(first, first + count * width, dtype=np.float32).reshape(count, width)


def moment(episode, *, logs=None, gathered=None):
    gathered = rows(0) if gathered is None else gathered
    return Moment(episode=episode, prior_episodes=2, offline=logs, gathered=gathered)


def test_protocols_are_found_by_name():
    assert protocols() == ("offline", "online_prior")
    assert find_protocol("offline") is offline
    assert find_protocol("online_prior") is online_prior
    with pytest.raises(ValueError, match="must be one of offline, online_prior, got 'onlin'"):
        find_protocol("onlin")


def test_offline_gives_the_logs_for_every_episode():
    logs = rows(5)
    for episode in range(3):
        assert offline(moment(episode, logs=logs, gathered=rows(3))) is logs


@pytest.mark.parametrize("logs", [None, rows(0)])
def test_offline_without_logs_is_refused(logs):
    with pytest.raises(ValueError, match="'offline' needs labelled transitions of every task"):
        offline(moment(0, logs=logs))


def test_online_prior_gives_nothing_and_then_everything_gathered():
    gathered = rows(4)
    assert online_prior(moment(0)) is None
    assert online_prior(moment(1, gathered=gathered, logs=rows(9))) is None
    assert online_prior(moment(2, gathered=gathered, logs=rows(9))) is gathered
    assert online_prior(moment(3, gathered=gathered)) is gathered


def test_a_subsample_holds_different_rows_of_the_whole():
    chosen = subsample(rows(50), 20, np.random.default_rng(0))
    assert len(np.unique(chosen[:, 0])) == 20
    assert set(chosen[:, 0]) <= set(rows(50)[:, 0])


def test_a_subsample_prefers_no_row():
    generator = np.random.default_rng(0)
    counts = sum(
        np.isin(np.arange(10), subsample(rows(10), 3, generator)[:, 0] / LAYOUT.width)
        for _ in range(3000)
    )
    np.testing.assert_allclose(counts / 3000, 0.3, atol=0.03)


@pytest.mark.parametrize("size", [None, 7, 8])
def test_what_is_small_enough_is_taken_whole_and_in_order(size):
    np.testing.assert_array_equal(subsample(rows(7), size, np.random.default_rng(0)), rows(7))


def test_contexts_of_different_lengths_are_padded_behind_a_mask():
    batch = stack_contexts([rows(2), rows(4, first=1000)], LAYOUT)
    assert batch.mask.tolist() == [[True, True, False, False], [True] * 4]
    np.testing.assert_array_equal(batch.observation[0, :2].numpy(), rows(2)[:, :2])
    np.testing.assert_array_equal(batch.action[1].numpy(), rows(4, first=1000)[:, 2:3])
    np.testing.assert_array_equal(batch.reward[1].numpy(), rows(4, first=1000)[:, 3])
    np.testing.assert_array_equal(batch.next_observation[0, :2].numpy(), rows(2)[:, 4:6])
    assert batch.reward.dtype == torch.float32


@pytest.mark.parametrize("bad", [rows(0), np.zeros((3, 5), np.float32)])
def test_an_empty_context_and_one_of_the_wrong_width_are_refused(bad):
    with pytest.raises(ValueError, match=r"rows of width 8 .* at index 1"):
        stack_contexts([rows(2), bad], LAYOUT)
