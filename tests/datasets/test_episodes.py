"""Contexts of whole episodes: which episodes, which rows of them, and what transitions are left."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.datasets.buffers import open_buffers
from causeway.datasets.cache import RowCache
from causeway.datasets.draws import draw_free
from causeway.datasets.episodes import (
    TERMINATED,
    TRUNCATED,
    find_bounds,
    find_ends,
    flags_of,
)
from causeway.datasets.faults import DatasetError
from causeway.datasets.rows import MappedRows
from causeway.datasets.sampler import MetaSampler, SamplerConfig
from causeway.datasets.store import DatasetStore
from causeway.datasets.streaming import RowFile, StreamedRows, pool_shape
from causeway.datasets.task_buffer import TaskBuffer

from .factories import make_header, write_dataset

WIDTH = 7  # task, source, row, episode, nothing, nothing, flags
SOURCE, ROW, EPISODE = 1, 2, 3


def episode_rows(lengths, task=0, source=0, unfinished=0):
    """Rows that say who they are, in episodes of these lengths and then one that has not ended."""
    every = [*lengths, unfinished] if unfinished else list(lengths)
    rows = np.zeros((sum(every), WIDTH), np.float32)
    rows[:, 0], rows[:, SOURCE], rows[:, ROW] = task, source, np.arange(len(rows))
    rows[:, EPISODE] = np.repeat(np.arange(len(every)), every)
    ends = np.cumsum(lengths, dtype=int) - 1
    flags_of(rows)[ends[::2], TERMINATED] = True  # and truncated by turns
    flags_of(rows)[ends[1::2], TRUNCATED] = True
    return rows


def make_buffer(offline, online=(), task=0, unfinished=0):
    buffer = TaskBuffer(MappedRows(episode_rows(offline, task, unfinished=unfinished)))
    if len(online):
        buffer.append(episode_rows(online, task, source=1, unfinished=unfinished))
    return buffer


def make_sampler(buffers, seed=0, **changes):
    options = {"tasks_per_batch": 3, "transitions_per_task": 16, "context_per_task": 8}
    if not isinstance(buffers, dict):
        buffers = {0: buffers}
    return MetaSampler(buffers, SamplerConfig(**{**options, **changes}), seed)


def contexts_of(block):
    return block.context.reshape(-1, *block.context.shape[2:])


def pairs_of(block):
    transitions = block.transitions.reshape(-1, *block.transitions.shape[2:])
    return zip(contexts_of(block), transitions, strict=True)


def keys(rows, *columns):
    return {tuple(row) for row in rows[:, columns].astype(int).tolist()}


def test_an_episode_ends_where_either_flag_is_set():
    rows = episode_rows([3, 1, 4], unfinished=2)
    assert find_ends(rows).tolist() == [3, 4, 8]
    assert find_bounds(rows, begins_episode=True).tolist() == [0, 3, 4, 8]
    assert find_bounds(rows, begins_episode=False).tolist() == [3, 4, 8]
    episodes = MappedRows(rows).episodes
    assert list(zip(episodes.begin, episodes.end, strict=True)) == [(0, 3), (3, 4), (4, 8)]


def test_a_context_is_of_exactly_as_many_episodes_as_configured():
    buffer = make_buffer([20] * 30)
    for num_episodes in (1, 2, 5):
        sampler = make_sampler(buffer, context_episodes=num_episodes, context_per_task=90)
        for context in contexts_of(sampler.sample_block(20)):
            assert len(keys(context, EPISODE)) == num_episodes


def test_episodes_are_drawn_uniformly_whatever_their_length():
    lengths = [5, 50] * 5
    block = make_sampler(make_buffer(lengths), context_episodes=1).sample_block(1000)
    first = contexts_of(block)[:, 0, EPISODE].astype(int)
    np.testing.assert_allclose(np.bincount(first) / 3000, 0.1, atol=0.025)


def test_rows_are_drawn_uniformly_from_the_episodes_of_a_context():
    block = make_sampler(make_buffer([10, 30]), context_episodes=2).sample_block(1500)
    rows = contexts_of(block)[..., ROW].astype(int)
    np.testing.assert_allclose(np.bincount(rows.ravel()) / rows.size, 1 / 40, rtol=0.15)
    by_place = (rows < 10).mean(axis=0)  # in random order, too
    np.testing.assert_allclose(by_place, 0.25, atol=0.04)


def test_rows_of_a_context_are_distinct_if_its_episodes_have_enough():
    sampler = make_sampler(make_buffer([10] * 9), context_episodes=2, context_per_task=20)
    for context in contexts_of(sampler.sample_block(20)):
        assert len(keys(context, ROW)) == 20


def test_a_context_of_short_episodes_has_all_their_rows_and_repeats_some():
    sampler = make_sampler(make_buffer([3, 4] * 8), context_episodes=2, context_per_task=25)
    for context in contexts_of(sampler.sample_block(30)):
        episodes = keys(context, EPISODE)
        assert len(episodes) == 2
        assert len(keys(context, ROW)) == sum(3 + episode % 2 for (episode,) in episodes)


def test_a_context_in_order_is_a_stretch_of_its_episodes():
    sampler = make_sampler(
        make_buffer([10] * 4), context_episodes=2, context_per_task=12, context_in_order=True
    )
    starts = set()
    for context in contexts_of(sampler.sample_block(100)):
        rows = context[:, ROW].astype(int)
        same = context[1:, EPISODE] == context[:-1, EPISODE]
        assert (np.diff(rows)[same] == 1).all()
        assert (~same).sum() == 1
        starts.add(int(rows[0]) % 10)
    assert starts == set(range(9))  # the last start leaves 12 of 20 rows


def test_a_context_in_order_of_too_few_rows_begins_again():
    sampler = make_sampler(
        make_buffer([3] * 4), context_episodes=1, context_per_task=8, context_in_order=True
    )
    for context in contexts_of(sampler.sample_block(10)):
        assert (context[:, ROW] % 3 == np.arange(8) % 3).all()
        assert len(keys(context, EPISODE)) == 1


def test_offline_rows_in_order_are_of_offline_episodes_alone():
    buffer = make_buffer([10] * 4, [10] * 4)
    for seed in range(20):
        rows = buffer.draw_offline_in_order(np.random.default_rng(seed), 10, num_episodes=1)
        assert (rows[:, SOURCE] == 0).all()
        assert (np.diff(rows[:, ROW]) == 1).all()


def test_an_order_without_episodes_is_refused():
    with pytest.raises(ValueError, match="context_in_order must be false where context_episodes"):
        SamplerConfig(context_in_order=True)


def test_a_buffer_of_fewer_episodes_gives_all_of_them():
    sampler = make_sampler(make_buffer([6, 6]), context_episodes=5, context_per_task=12)
    for context in contexts_of(sampler.sample_block(5)):
        assert keys(context, EPISODE) == {(0,), (1,)}


def test_an_episode_that_has_not_ended_is_in_no_context_but_among_the_transitions():
    buffer = make_buffer([5] * 4, [5] * 4, unfinished=30)
    block = make_sampler(buffer, context_episodes=2).sample_block(100)
    assert contexts_of(block)[..., EPISODE].max() == 3
    assert (block.transitions[..., EPISODE] == 4).mean() > 0.4


def test_an_episode_may_come_in_several_appends():
    buffer = make_buffer([5] * 4)
    rows = episode_rows([7, 6, 5], source=1)
    for begin in range(0, len(rows), 4):
        buffer.append(rows[begin : begin + 4])
    episodes = buffer.online_episodes()
    assert list(zip(episodes.begin, episodes.end, strict=True)) == [(0, 7), (7, 13), (13, 18)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_with_an_online_share_a_context_is_wholly_online_with_that_probability(share):
    buffer = make_buffer([9] * 40, [9] * 10)
    sampler = make_sampler(buffer, context_episodes=3, online_share=share)
    block = sampler.sample_block(700)
    source = contexts_of(block)[..., SOURCE]
    assert (source == source[:, :1]).all()
    assert source[:, 0].mean() == pytest.approx(share, abs=0.03)
    drawn_online = block.transitions[..., SOURCE].sum(axis=-1)
    assert (drawn_online == round(16 * share)).all()


def test_without_an_online_share_every_episode_of_a_grown_buffer_is_as_likely():
    buffer = make_buffer([10] * 20, [10] * 60)
    block = make_sampler(buffer, context_episodes=4).sample_block(700)
    source = contexts_of(block)[..., SOURCE]
    assert source.mean() == pytest.approx(0.75, abs=0.02)
    assert (source != source[:, :1]).any()  # both in one context
    np.testing.assert_allclose(source.mean(axis=0), 0.75, atol=0.04)  # anywhere in it
    assert block.transitions[..., SOURCE].mean() == pytest.approx(0.75, abs=0.02)


def test_without_online_episodes_contexts_are_offline_whatever_the_share():
    buffer = make_buffer([9] * 10)
    buffer.append(episode_rows([], source=1, unfinished=5))
    for share in (None, 1.0):
        block = make_sampler(buffer, context_episodes=2, online_share=share).sample_block(20)
        assert (block.context[..., SOURCE] == 0).all()
        assert (block.transitions[..., SOURCE] == 1).any()


@given(
    seed=st.integers(0, 2**32 - 1),
    offline=st.lists(st.integers(1, 15), min_size=1, max_size=12),
    online=st.lists(st.integers(1, 15), max_size=12),
    unfinished=st.integers(0, 5),
    num_episodes=st.integers(1, 6),
    share=st.none() | st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_contexts_are_of_whole_episodes_and_transitions_are_never_in_them(
    seed, offline, online, unfinished, num_episodes, share
):
    buffers = {task: make_buffer(offline, online, task, unfinished) for task in (3, 5)}
    sampler = make_sampler(buffers, seed, context_episodes=num_episodes, online_share=share)
    block = sampler.sample_block(2)
    by_source = {0: offline, 1: online}
    for place, (context, transitions) in enumerate(pairs_of(block)):
        for rows in (context, transitions):
            assert (rows[:, 0] == block.task.flat[place]).all()
            for source, row, episode in rows[:, [SOURCE, ROW, EPISODE]].astype(int):
                lengths = [*by_source[source], unfinished]
                assert sum(lengths[:episode]) <= row < sum(lengths[: episode + 1])
        episodes = keys(context, SOURCE, EPISODE)
        assert len(episodes) <= num_episodes
        assert all(episode < len(by_source[source]) for source, episode in episodes)
        if share is not None:
            assert len(keys(context, SOURCE)) == 1
        in_context = keys(context, SOURCE, ROW)
        drawable = [buffers[3].offline.num_rows, buffers[3].num_online_rows * (share != 0.0)]
        num_left = sum(drawable) - len(in_context)
        drawn = keys(transitions, SOURCE, ROW)
        if num_left >= len(transitions):
            assert not drawn & in_context
            assert len(drawn) == len(transitions)


@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 40),
    count=st.integers(0, 40),
    data=st.data(),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_other_positions_are_free_and_distinct_if_there_are_enough(seed, num_rows, count, data):
    taken = np.array(sorted(data.draw(st.sets(st.integers(0, num_rows - 1)))), np.int64)
    drawn = draw_free(np.random.default_rng(seed), num_rows, count, taken)
    assert len(drawn) == count
    assert set(drawn.tolist()) <= set(range(num_rows))
    if count <= num_rows - len(taken):
        assert len(set(drawn.tolist()) - set(taken.tolist())) == count


def test_other_positions_are_uniform_over_the_free_ones():
    generator, taken = np.random.default_rng(0), np.array([0, 1, 5, 9])
    drawn = np.concatenate([draw_free(generator, 10, 2, taken) for _ in range(6000)])
    counts = np.bincount(drawn, minlength=10)
    assert (counts[taken] == 0).all()
    np.testing.assert_allclose(np.delete(counts, taken) / 12000, 1 / 6, atol=0.012)


@pytest.mark.parametrize("share", [None, 0.4])
def test_equal_seeds_give_bit_equal_blocks_and_a_saved_state_continues_equally(share):
    options = {"context_episodes": 2, "online_share": share}

    def make(seed):
        buffers = {task: make_buffer([7, 8, 9] * 6, [6, 7] * 5, task) for task in (1, 2)}
        return make_sampler(buffers, seed, **options)

    first, second = make(3), make(3)
    assert first.sample_block(9).context.tobytes() == second.sample_block(9).context.tobytes()
    state = json.loads(json.dumps(first.state_dict()))
    restored = make(4)
    restored.load_state_dict(state)
    expected = second.sample_block(5)
    for sampler in (first, restored):
        actual = sampler.sample_block(5)
        assert actual.context.tobytes() == expected.context.tobytes()
        assert actual.transitions.tobytes() == expected.transitions.tobytes()


def test_a_thread_may_append_while_another_draws():
    buffer = make_buffer([10] * 5)
    sampler = make_sampler(buffer, context_episodes=3, context_per_task=24)
    chunk = episode_rows([4, 5, 6], source=1)

    def append():
        for _ in range(3000):
            buffer.append(chunk)

    thread = threading.Thread(target=append)
    thread.start()
    contexts = []
    while thread.is_alive():
        contexts.append(contexts_of(sampler.sample_block(2)))
    thread.join()
    assert len(buffer.online_episodes()) == 9000
    rows = np.concatenate(contexts)
    known = {row.tobytes() for row in np.concatenate([chunk, episode_rows([10] * 5)])}
    assert {row.tobytes() for row in rows.reshape(-1, WIDTH)} <= known


def test_tasks_without_a_complete_offline_episode_are_named():
    buffers = {1: make_buffer([5]), 2: make_buffer([], [5], unfinished=40)}
    with pytest.raises(ValueError, match=r"complete offline episode .* those of \[2\] hold none"):
        make_sampler(buffers, context_episodes=1)
    make_sampler(buffers)  # only contexts of whole episodes need them


@pytest.mark.parametrize("value", [0, 9])
def test_a_number_of_episodes_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match=r"context_episodes must lie between 1 and context_per"):
        SamplerConfig(context_per_task=8, context_episodes=value)


@pytest.fixture
def open_stream(tmp_path):
    """Opens streams of the given episodes; closes them and their thread at the end."""
    with ThreadPoolExecutor(1) as reader:
        opened = []

        def open_file(lengths, *, group_rows, pool=3, reuse=1.0, seed=0):
            path = tmp_path / f"rows-{len(opened)}"
            episode_rows(lengths).tofile(path)
            file = RowFile(path.open("rb", buffering=0), width=WIDTH, group_rows=group_rows)
            slots = np.empty(pool_shape(file, pool), np.float32)
            opened.append(StreamedRows(file, pool=slots, reuse=reuse, seed=seed, reader=reader))
            return opened[-1]

        yield open_file
        for stream in opened:
            stream.close()


def test_a_stream_gives_contexts_of_the_episodes_within_its_row_groups(open_stream):
    lengths = [3, 5, 4, 6, 2] * 40
    ends = np.cumsum(lengths)
    begins = ends - lengths
    within = set(np.flatnonzero(begins // 32 == (ends - 1) // 32).tolist())
    sampler = make_sampler(
        TaskBuffer(open_stream(lengths, group_rows=32)), context_episodes=2, context_per_task=12
    )
    seen = set()
    for context, transitions in pairs_of(sampler.sample_block(400)):
        episodes = {episode for (episode,) in keys(context, EPISODE)}
        assert len(episodes) == 2
        assert not keys(context, ROW) & keys(transitions, ROW)
        whole = {row for e in episodes for row in range(begins[e], ends[e])}
        assert {row for (row,) in keys(context, ROW)} <= whole
        assert len(keys(context, ROW)) == min(12, len(whole))
        seen |= episodes
    assert seen == within


def test_an_episode_that_begins_with_its_row_group_is_whole(open_stream):
    stream = open_stream([10] * 12, group_rows=10)
    assert len(stream.episodes) == 3  # one in each group of the pool
    assert stream.num_episodes == 12
    sampler = make_sampler(
        TaskBuffer(stream), context_episodes=1, context_per_task=5, transitions_per_task=10
    )
    seen = keys(sampler.sample_block(100).context.reshape(-1, WIDTH), EPISODE)
    assert seen == {(episode,) for episode in range(12)}


def test_a_stream_and_online_episodes_are_drawn_in_proportion(open_stream):
    buffer = TaskBuffer(open_stream([4] * 300, group_rows=32))
    buffer.append(episode_rows([4] * 100, source=1))
    block = make_sampler(buffer, context_episodes=2).sample_block(500)
    assert contexts_of(block)[..., SOURCE].mean() == pytest.approx(0.25, abs=0.03)
    for context, transitions in pairs_of(block):
        assert not keys(context, SOURCE, ROW) & keys(transitions, SOURCE, ROW)


def test_a_stream_whose_episodes_outgrow_its_row_groups_says_so(open_stream):
    without = TaskBuffer(open_stream([90] * 4, group_rows=12))
    with pytest.raises(ValueError, match=r"lie within a row group; raise row_group_rows"):
        make_sampler(without, context_episodes=1)
    later_without = TaskBuffer(open_stream([4] * 60 + [90] * 4, group_rows=12, pool=2))
    sampler = make_sampler(later_without, context_episodes=1)
    with pytest.raises(ValueError, match=r"within reach: .* raise SamplerConfig.row_group_rows"):
        sampler.sample_block(200)


def test_a_streamed_data_set_gives_equal_contexts_from_equal_seeds_and_continues(tmp_path):
    header = make_header(train=(0, 1), test=(), horizon=6)
    write_dataset(tmp_path / "set", header=header, parts=2, episodes=50)
    store, cache = DatasetStore.open(tmp_path / "set"), RowCache(tmp_path / "cache", 1 << 30)
    config = SamplerConfig(
        tasks_per_batch=2,
        transitions_per_task=10,
        context_per_task=8,
        context_episodes=2,
        mode="streamed",
        row_group_rows=32,
        reuse=1.0,
    )

    def sampled(seed, blocks, state=None):
        with open_buffers(store, cache, store.task_ids(), config, seed) as opened:
            sampler = MetaSampler(opened.buffers, config, seed)
            if state is not None:
                sampler.load_state_dict(state)
            drawn = [sampler.sample_block(5) for _ in range(blocks)]
            both = [np.concatenate([b.context, b.transitions], axis=2) for b in drawn]
            return both, json.loads(json.dumps(sampler.state_dict()))

    whole, _ = sampled(0, 20)
    again, _ = sampled(0, 20)
    np.testing.assert_array_equal(whole, again)
    _, state = sampled(0, 8)
    rest, _ = sampled(1, 12, state)
    np.testing.assert_array_equal(whole[8:], rest)


def test_row_groups_too_small_for_a_whole_episode_are_refused_before_training(tmp_path):
    write_dataset(tmp_path / "set", header=make_header(horizon=30))
    store, cache = DatasetStore.open(tmp_path / "set"), RowCache(tmp_path / "cache", 1 << 30)
    options = {"transitions_per_task": 10, "context_per_task": 8, "mode": "streamed"}
    small = SamplerConfig(**options, context_episodes=2, row_group_rows=58)
    with pytest.raises(DatasetError, match=r"row_group_rows must be at least 59 .* got 58"):
        open_buffers(store, cache, [0, 1], small, seed=0)
    poor = SamplerConfig(**options, context_episodes=2, memory_budget_bytes=10_000)
    with pytest.raises(DatasetError, match=r"memory_budget_bytes must be at least \d+ .* of 59"):
        open_buffers(store, cache, [0, 1], poor, seed=0)
    plain = SamplerConfig(**options, row_group_rows=58)
    open_buffers(store, cache, [0, 1], plain, seed=0).close()
