import numpy as np
import pytest
import torch

from causeway.actors.contexts import (
    Moment,
    find_protocol,
    offline,
    offline_shifted,
    online_filtered,
    online_prior,
    protocols,
    stack_contexts,
)
from causeway.datasets.batches import RowLayout

LAYOUT = RowLayout(2, 1)


def rows(count, first=0):
    """Rows that no other has: counted up from `first`."""
    width = LAYOUT.width
    return np.arange(first, first + count * width, dtype=np.float32).reshape(count, width)


def moment(episode, *, logs=None, gathered=(), returns=(), shifted=None, kept_share=0.5):
    return Moment(
        episode=episode,
        prior_episodes=2,
        offline=logs,
        shifted=shifted,
        gathered=tuple(gathered),
        returns=tuple(returns),
        kept_share=kept_share,
    )


def test_protocols_are_found_by_name():
    names = ("offline", "offline_shifted", "online_prior", "online_random", "online_filtered")
    assert protocols() == names
    assert find_protocol("offline").context is offline
    assert find_protocol("online_prior").context is online_prior
    with pytest.raises(ValueError, match=r"must be one of offline, .*, got 'onlin'"):
        find_protocol("onlin")


def test_offline_gives_the_logs_for_every_episode():
    logs = rows(5)
    for episode in range(3):
        assert offline(moment(episode, logs=logs, gathered=[rows(3)])) is logs


@pytest.mark.parametrize("logs", [None, rows(0)])
def test_offline_without_logs_is_refused(logs):
    with pytest.raises(ValueError, match="'offline' needs labelled transitions of every task"):
        offline(moment(0, logs=logs))


def test_online_prior_gives_nothing_and_then_everything_gathered():
    gathered = [rows(4), rows(2, first=900)]
    assert online_prior(moment(0)) is None
    assert online_prior(moment(1, gathered=gathered[:1], logs=rows(9))) is None
    for episode in (2, 3):
        context = online_prior(moment(episode, gathered=gathered, logs=rows(9)))
        np.testing.assert_array_equal(context, np.concatenate(gathered))


def test_offline_shifted_gives_anothers_behaviour_for_every_episode():
    shifted = rows(5)
    for episode in range(3):
        assert offline_shifted(moment(episode, logs=rows(3), shifted=shifted)) is shifted
    with pytest.raises(ValueError, match="'offline_shifted' needs transitions by another task's"):
        offline_shifted(moment(0, logs=rows(3)))


@pytest.mark.parametrize(("share", "kept"), [(0.5, [0, 2]), (0.1, [2]), (1.0, [0, 1, 2, 3])])
def test_online_filtered_keeps_the_best_episodes_in_their_order(share, kept):
    gathered = [rows(2, first=100 * n) for n in range(4)]
    given = {"gathered": gathered, "returns": [5.0, -1.0, 7.0, 0.0], "kept_share": share}
    assert online_filtered(moment(1, **given)) is None
    context = online_filtered(moment(2, **given))
    np.testing.assert_array_equal(context, np.concatenate([gathered[n] for n in kept]))


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
    with pytest.raises(ValueError, match=r"rows of width 7 .* at index 1"):
        stack_contexts([rows(2), bad], LAYOUT)
