"""Positions of a meta-batch: distinct, apart, and each as likely as any other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.datasets.draws import draw_contexts, draw_free, draw_rows, subsample
from causeway.datasets.episodes import TRUNCATED, flags_of
from causeway.datasets.rows import MappedRows
from causeway.datasets.task_buffer import TaskBuffer

WIDTH = 4


def make_reach(offline, online=0, steps=1):
    """What can be drawn from a buffer with episodes of so many steps."""
    rows = np.zeros((offline + online, WIDTH), np.float32)
    flags_of(rows)[steps - 1 :: steps, TRUNCATED] = True
    buffer = TaskBuffer(MappedRows(rows[:offline]))
    if online:
        buffer.append(rows[:online])
    return buffer.reach()


def frequencies(drawn, size):
    return np.bincount(drawn.ravel(), minlength=size) / drawn.size


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(1, 80), st.integers(0, 80)), min_size=1, max_size=5),
    count=st.integers(1, 30),
    share=st.none() | st.floats(0.0, 1.0),
    data=st.data(),
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_rows_are_distinct_and_none_is_a_taken_one_if_there_are_enough(
    seed, sizes, count, share, data
):
    generator = np.random.default_rng(seed)
    drawable = [offline + online * (share != 0.0) for offline, online in sizes]
    num_taken = data.draw(st.integers(0, min(drawable)))
    taken = np.stack([generator.choice(size, num_taken) for size in drawable])  # may repeat
    reaches = [make_reach(*size) for size in sizes]
    drawn = draw_rows(generator, reaches, count, online_share=share, taken=taken)
    assert drawn.shape == (len(sizes), count)
    for place, size in enumerate(drawable):
        mine, gone = drawn[place].tolist(), set(taken[place].tolist())
        assert set(mine) <= set(range(size))
        if count <= size - len(gone):
            assert len(set(mine)) == count
            assert not set(mine) & gone


@pytest.mark.parametrize("size", [6, 3])  # few of the positions are drawn, and most of them
def test_every_ordered_pair_of_rows_is_as_likely(size):
    generator = np.random.default_rng(0)
    drawn = np.concatenate(
        [draw_rows(generator, [make_reach(size)] * 50, 2, online_share=None) for _ in range(600)]
    )
    pairs = frequencies(drawn[:, 0] * size + drawn[:, 1], size * size).reshape(size, size)
    assert np.diagonal(pairs).sum() == 0.0
    apart = pairs[~np.eye(size, dtype=bool)]
    np.testing.assert_allclose(apart, 1 / (size * (size - 1)), rtol=0.13)


def test_rows_that_are_not_taken_are_alike_wherever_they_stand():
    generator = np.random.default_rng(1)
    taken = np.array([[0, 1, 1, 17]] * 40)
    drawn = np.stack(
        [
            draw_rows(generator, [make_reach(20)] * 40, 4, online_share=None, taken=taken)
            for _ in range(500)
        ]
    )
    assert frequencies(drawn, 20)[[0, 1, 17]].sum() == 0.0
    for column in range(4):
        free = np.delete(frequencies(drawn[..., column], 20), [0, 1, 17])
        np.testing.assert_allclose(free, 1 / 17, rtol=0.13)


def test_each_place_is_drawn_from_its_own_buffer():
    generator = np.random.default_rng(2)
    sizes = [10, 1000, 50]
    drawn = draw_rows(generator, [make_reach(n) for n in sizes], 5, online_share=None)
    assert (drawn.max(axis=1) < sizes).all()
    many = np.concatenate(
        [
            draw_rows(generator, [make_reach(n) for n in sizes], 5, online_share=None)
            for _ in range(2000)
        ]
    )
    for place, size in enumerate(sizes):
        assert many[place::3].mean() == pytest.approx((size - 1) / 2, rel=0.03)


def test_with_an_online_share_online_rows_stand_anywhere():
    generator = np.random.default_rng(3)
    reaches = [make_reach(100, 60), make_reach(200, 40)]
    drawn = np.stack([draw_rows(generator, reaches, 8, online_share=0.25) for _ in range(3000)])
    is_online = drawn >= np.array([100, 200])[:, None]
    assert (is_online.sum(axis=-1) == 2).all()
    np.testing.assert_allclose(is_online.mean(axis=0), 0.25, atol=0.03)


def test_positions_beyond_32_bits_are_drawn_as_well():
    rows = np.broadcast_to(np.zeros((1, WIDTH), np.float32), (2**34, WIDTH))
    reach = TaskBuffer(MappedRows(rows)).reach()
    drawn = draw_rows(np.random.default_rng(0), [reach] * 100, 50, online_share=None)
    assert drawn.min() >= 0
    assert drawn.max() < 2**34
    assert drawn.mean() == pytest.approx(2**33, rel=0.03)
    assert (drawn >> 31 > 0).mean() == pytest.approx(7 / 8, abs=0.03)


# Few rows of the episodes are drawn, most of them, all, and some of them twice.
@pytest.mark.parametrize(("steps", "count"), [(40, 7), (5, 7), (4, 8), (3, 7)])
def test_rows_of_a_contexts_episodes_are_alike_wherever_they_stand(steps, count):
    generator = np.random.default_rng(4)
    reaches = [make_reach(10 * steps, steps=steps)] * 30
    drawn = np.concatenate(
        [
            draw_contexts(
                generator, reaches, count, num_episodes=2, online_share=None, in_order=False
            )
            for _ in range(400)
        ]
    )
    for place in drawn[:100]:
        assert len(set(place // steps)) <= 2
        assert len(set(place.tolist())) == min(count, 2 * steps)
    for column in range(count):
        episodes = frequencies(drawn[:, column] // steps, 10)
        np.testing.assert_allclose(episodes, 0.1, rtol=0.13)
    np.testing.assert_allclose(frequencies(drawn % steps, steps), 1 / steps, rtol=0.2)


def test_other_positions_are_found_among_the_free_ones():
    drawn = draw_free(np.random.default_rng(0), 6, 3, np.array([0, 2, 5]))
    assert sorted(drawn.tolist()) == [1, 3, 4]


def counted(count):
    """Rows that no other has."""
    return np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH)


def test_a_subsample_holds_different_rows_of_the_whole():
    chosen = subsample(counted(50), 20, np.random.default_rng(0), in_order=False)
    assert len(np.unique(chosen[:, 0])) == 20
    assert set(chosen[:, 0]) <= set(counted(50)[:, 0])


def test_a_subsample_prefers_no_row():
    generator = np.random.default_rng(0)
    counts = sum(
        np.isin(np.arange(10), subsample(counted(10), 3, generator, in_order=False)[:, 0] / WIDTH)
        for _ in range(3000)
    )
    np.testing.assert_allclose(counts / 3000, 0.3, atol=0.03)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("size", [None, 7, 8])
def test_what_is_small_enough_is_taken_whole_and_in_order(size, in_order):
    chosen = subsample(counted(7), size, np.random.default_rng(0), in_order=in_order)
    np.testing.assert_array_equal(chosen, counted(7))


def test_a_subsample_in_order_is_a_stretch_from_anywhere():
    generator, firsts = np.random.default_rng(0), set()
    for _ in range(200):
        chosen = subsample(counted(10), 4, generator, in_order=True)[:, 0] / WIDTH
        np.testing.assert_array_equal(chosen, chosen[0] + np.arange(4))
        firsts.add(int(chosen[0]))
    assert firsts == set(range(7))
