"""The sampler: distinct rows, balanced tasks, equal blocks from equal seeds."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.datasets.rows import MappedRows
from causeway.datasets.sampler import MetaSampler, SamplerConfig
from causeway.datasets.streaming import RowFile, StreamedRows, pool_shape
from causeway.datasets.task_buffer import TaskBuffer

WIDTH = 7


def numbered_rows(count, task=0, source=0):
    """Rows that say who they are: task, offline (0) or online (1), number."""
    rows = np.zeros((count, WIDTH), np.float32)
    rows[:, 0], rows[:, 1], rows[:, 2] = task, source, np.arange(count)
    return rows


def make_buffers(sizes, online=0):
    buffers = {}
    for task, size in sizes.items():
        buffers[task] = TaskBuffer(MappedRows(numbered_rows(size, task)))
        if online:
            buffers[task].append(numbered_rows(online, task, source=1))
    return buffers


def small_config(**changes):
    settings = {"tasks_per_batch": 3, "transitions_per_task": 16, "context_per_task": 8}
    return SamplerConfig(**{**settings, **changes})


@pytest.fixture
def reader():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def streamed(tmp_path, reader, *, num_rows, group_rows=10, pool=3, reuse=2.0, seed=0):
    path = tmp_path / f"rows-{num_rows}"
    if not path.exists():  # another stream may be reading it
        numbered_rows(num_rows).tofile(path)
    file = RowFile(path.open("rb", buffering=0), width=WIDTH, group_rows=group_rows)
    rows = np.empty(pool_shape(file, pool), np.float32)
    return StreamedRows(file, pool=rows, reuse=reuse, seed=seed, reader=reader)


def draw(source, generator, count):
    return TaskBuffer(source).draw(generator, count)


def test_equal_seeds_give_bit_equal_blocks_whatever_the_global_random_state():
    sizes = {4: 100, 7: 60, 9: 30}
    np.random.seed(1)  # noqa: NPY002 - the state that must not matter
    first = MetaSampler(make_buffers(sizes, online=20), small_config(), seed=5).sample_block(6)
    np.random.seed(2)  # noqa: NPY002
    second = MetaSampler(make_buffers(sizes, online=20), small_config(), seed=5).sample_block(6)
    other = MetaSampler(make_buffers(sizes, online=20), small_config(), seed=6).sample_block(6)
    assert first.context.tobytes() == second.context.tobytes()
    assert first.transitions.tobytes() == second.transitions.tobytes()
    np.testing.assert_array_equal(first.task, second.task)
    assert first.context.tobytes() != other.context.tobytes()


def test_a_block_has_one_entry_per_update_and_task_and_is_contiguous():
    block = MetaSampler(make_buffers({0: 50, 1: 50}), small_config(), seed=0).sample_block(5)
    assert block.task.shape == (5, 3)
    assert block.context.shape == (5, 3, 8, WIDTH)
    assert block.transitions.shape == (5, 3, 16, WIDTH)
    assert block.context.flags.c_contiguous
    assert block.transitions.flags.c_contiguous
    assert block.context.dtype == block.transitions.dtype == np.float32


@pytest.mark.parametrize("in_stretches", [False, True])
def test_what_reads_no_context_is_given_none(in_stretches):
    config = small_config(context_per_task=0, stretches=in_stretches)
    block = MetaSampler(make_buffers({0: 50, 1: 20}), config, seed=0).sample_block(5)
    assert block.context.shape == (5, 3, 0, WIDTH)
    for place in np.ndindex(block.task.shape):
        rows = block.transitions[place]
        assert (rows[:, 0] == block.task[place]).all()
        assert len(np.unique(rows, axis=0)) == 16


@given(
    seed=st.integers(0, 2**32 - 1),
    offline=st.integers(1, 60),
    online=st.integers(0, 60),
    share=st.none() | st.floats(0.0, 1.0),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_every_row_is_its_tasks_own_and_never_in_both_context_and_transitions(
    seed, offline, online, share
):
    config = small_config(online_share=share)
    buffers = make_buffers({3: offline, 5: offline}, online)
    block = MetaSampler(buffers, config, seed).sample_block(2)
    for place in np.ndindex(block.task.shape):
        rows = np.concatenate([block.context[place], block.transitions[place]])
        assert (rows[:, 0] == block.task[place]).all()
        available = offline if share == 0.0 else offline + online
        if available >= len(rows):
            assert len(np.unique(rows, axis=0)) == len(rows)


def test_a_buffer_smaller_than_context_and_transitions_is_still_drawn_from():
    block = MetaSampler(make_buffers({0: 10}), small_config(), seed=0).sample_block(1)
    assert len(np.unique(block.context[0, 0], axis=0)) == 8  # fits: distinct within itself
    assert set(block.transitions[0, 0][:, 2]) <= set(range(10))


def test_tasks_are_drawn_uniformly_whatever_the_size_of_their_buffers():
    sampler = MetaSampler(make_buffers({0: 30, 1: 3000, 2: 300}), small_config(), seed=0)
    counts = np.bincount(sampler.sample_block(1000).task.ravel(), minlength=3)
    np.testing.assert_allclose(counts / 3000, 1 / 3, atol=0.03)


def test_tasks_may_repeat_within_a_meta_batch_unless_distinct_tasks_are_asked_for():
    buffers = make_buffers(dict.fromkeys(range(4), 30))
    repeated = MetaSampler(buffers, small_config(), seed=0).sample_block(50).task
    distinct = MetaSampler(buffers, small_config(distinct_tasks=True), seed=0).sample_block(50).task
    assert any(len(set(tasks)) < 3 for tasks in repeated.tolist())
    assert all(len(set(tasks)) == 3 for tasks in distinct.tolist())


def test_a_grown_buffer_is_drawn_from_uniformly():
    buffers = make_buffers({0: 100}, online=300)
    sampler = MetaSampler(buffers, small_config(), seed=0)
    assert sampler.online_share == pytest.approx(0.75)
    block = sampler.sample_block(400)
    for rows in (block.context, block.transitions):
        assert rows[..., 1].mean() == pytest.approx(0.75, abs=0.02)
    counts = np.bincount(
        (block.transitions[..., 2] + 100 * block.transitions[..., 1]).astype(int).ravel()
    )
    expected = 400 * 3 * 16 / 400
    assert counts.min() > 0.4 * expected
    assert counts.max() < 1.8 * expected


def test_online_rows_stand_anywhere_in_a_context():
    block = MetaSampler(make_buffers({0: 100}, online=100), small_config(), seed=0)
    by_place = block.sample_block(400).context[..., 1].mean(axis=(0, 1))
    np.testing.assert_allclose(by_place, 0.5, atol=0.06)


def test_a_set_online_share_is_kept_as_far_as_there_are_online_rows():
    config = small_config(online_share=0.5)
    full = MetaSampler(make_buffers({0: 1000}, online=50), config, seed=0)
    assert full.online_share == 0.5
    block = full.sample_block(3)
    drawn = np.concatenate([block.context, block.transitions], axis=2)
    assert (drawn[..., 1].sum(axis=-1) == 12).all()  # half of 8 + 16
    few = MetaSampler(make_buffers({0: 1000}, online=5), config, seed=0).sample_block(3)
    drawn = np.concatenate([few.context, few.transitions], axis=2)
    assert (drawn[..., 1].sum(axis=-1) == 5).all()
    assert MetaSampler(make_buffers({0: 10}), config, seed=0).online_share == 0.0


def test_appending_leaves_the_offline_part_and_the_callers_array_alone():
    offline = numbered_rows(50)
    buffer = TaskBuffer(MappedRows(offline))
    chunk = numbered_rows(4, source=1)
    for _ in range(100):
        buffer.append(chunk)
    chunk[:] = -1.0
    assert (buffer.num_rows, buffer.num_online_rows) == (450, 400)
    np.testing.assert_array_equal(offline, numbered_rows(50))
    np.testing.assert_array_equal(buffer.online_rows()[:, 1], 1.0)
    drawn = buffer.draw_offline(np.random.default_rng(0), 50)
    assert sorted(drawn[:, 2]) == list(range(50))
    assert (drawn[:, 1] == 0).all()


def test_rows_of_another_width_are_refused():
    buffer = TaskBuffer(MappedRows(numbered_rows(5)))
    with pytest.raises(ValueError, match=r"must have shape \[n, 7\], got \(2, 6\)"):
        buffer.append(np.zeros((2, 6), np.float32))


def test_a_sampler_continues_from_its_saved_state_as_if_never_interrupted():
    buffers = make_buffers({0: 100, 1: 100}, online=10)
    sampler = MetaSampler(buffers, small_config(), seed=3)
    sampler.sample_block(7)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = sampler.sample_block(4)
    restored = MetaSampler(buffers, small_config(), seed=99)
    restored.load_state_dict(state)
    actual = restored.sample_block(4)
    assert actual.context.tobytes() == expected.context.tobytes()
    assert actual.transitions.tobytes() == expected.transitions.tobytes()


def test_a_saved_state_of_other_tasks_is_refused():
    state = MetaSampler(make_buffers({0: 9}), small_config(), seed=0).state_dict()
    with pytest.raises(ValueError, match="saved tasks must be the buffers'"):
        MetaSampler(make_buffers({1: 9}), small_config(), seed=0).load_state_dict(state)


@pytest.mark.parametrize(
    ("buffers", "config", "message"),
    [
        ({}, {}, "at least one task"),
        ({0: 0, 1: 5}, {}, r"those of \[0\] are empty"),
        ({0: 50}, {"distinct_tasks": True}, "tasks_per_batch must be at most the number of tasks"),
    ],
)
def test_a_sampler_refuses_what_it_cannot_draw_from(buffers, config, message):
    with pytest.raises(ValueError, match=message):
        MetaSampler(make_buffers(buffers), small_config(**config), seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tasks_per_batch", 0),
        ("context_per_task", -1),
        ("online_share", 1.5),
        ("mode", "fast"),
        ("reuse", 0.0),
        ("memory_budget_bytes", 0),
    ],
)
def test_a_configuration_out_of_range_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(ValueError, match=f"SamplerConfig.{field} must"):
        SamplerConfig(**{field: value})


def test_a_stream_gives_every_row_equally_often_over_whole_passes(tmp_path, reader):
    source = streamed(tmp_path, reader, num_rows=95)  # the last group is short
    generator = np.random.default_rng(0)
    counts = np.zeros(95)
    for _ in range(2000):
        counts += np.bincount(draw(source, generator, 10)[:, 2].astype(int), minlength=95)
    assert source.coverage == 1.0
    assert counts[:90].min() > 0.75 * counts[:90].mean()
    assert counts[:90].max() < 1.25 * counts[:90].mean()
    # A short group stays as long as a full one, so its rows come more often, never less.
    assert counts[90:].min() > 0.75 * counts[:90].mean()
    source.close()


def test_a_stream_holds_only_its_pool_and_gives_distinct_rows(tmp_path, reader):
    source = streamed(tmp_path, reader, num_rows=50)  # two groups more than the pool holds
    generator = np.random.default_rng(0)
    for _ in range(200):
        assert source.num_reachable == 30
        rows = draw(source, generator, 30)
        assert len(set(rows[:, 2])) == 30
    source.close()


def test_the_streams_of_all_tasks_move_on(tmp_path, reader):
    streams = {n: streamed(tmp_path, reader, num_rows=100 + n, seed=n) for n in range(3)}
    buffers = {n: TaskBuffer(stream) for n, stream in streams.items()}
    MetaSampler(buffers, small_config(transitions_per_task=10), seed=0).sample_block(200)
    for stream in streams.values():
        assert stream.coverage == 1.0
        stream.close()


def test_a_file_of_one_group_more_than_the_pool_has_is_in_memory_whole(tmp_path, reader):
    source = streamed(tmp_path, reader, num_rows=38)
    rows = draw(source, np.random.default_rng(0), 38)
    assert sorted(rows[:, 2]) == list(range(38))
    assert source.coverage == 1.0
    source.close()


def test_a_row_of_a_stream_is_drawn_about_reuse_times_per_pass(tmp_path, reader):
    source = streamed(tmp_path, reader, num_rows=200, reuse=4.0)
    generator = np.random.default_rng(0)
    draws_until_covered = 0
    while source.coverage < 1.0:
        draw(source, generator, 7)
        draws_until_covered += 7
    # 20 groups of 10 rows, of which 3 are there from the start and one is read ahead.
    assert draws_until_covered == pytest.approx(16 * 4 * 10, abs=7)
    source.close()


def test_a_file_that_fits_the_pool_is_read_once_and_drawn_from_whole(tmp_path, reader):
    source = streamed(tmp_path, reader, num_rows=25)
    rows = draw(source, np.random.default_rng(0), 25)
    assert sorted(rows[:, 2]) == list(range(25))
    source.close()


def test_a_stream_continues_from_its_saved_state_as_if_never_interrupted(tmp_path, reader):
    source = streamed(tmp_path, reader, num_rows=200)
    generator = np.random.default_rng(0)
    for _ in range(37):
        draw(source, generator, 9)
    state = json.loads(json.dumps(source.state_dict()))
    expected = [draw(source, np.random.default_rng(i), 9) for i in range(60)]
    restored = streamed(tmp_path, reader, num_rows=200, seed=8)
    restored.load_state_dict(state)
    actual = [draw(restored, np.random.default_rng(i), 9) for i in range(60)]
    np.testing.assert_array_equal(actual, expected)
    source.close()
    restored.close()


def test_a_stream_refuses_the_state_of_another_file(tmp_path, reader):
    source = streamed(tmp_path, reader, num_rows=200)
    state = source.state_dict()
    source.close()
    smaller = streamed(tmp_path, reader, num_rows=10)
    with pytest.raises(ValueError, match="saved pool must be 1 of the 1 row groups"):
        smaller.load_state_dict(state)
    smaller.close()


def test_a_row_file_of_another_layout_is_named(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"\0" * 30)
    with (
        path.open("rb", buffering=0) as file,
        pytest.raises(ValueError, match=r"rows must hold one or more rows of 28 bytes, it has 30"),
    ):
        RowFile(file, width=WIDTH, group_rows=4)


def test_mapped_rows_must_be_float32():
    with pytest.raises(ValueError, match="must be a float32 array"):
        MappedRows(np.zeros((3, 2)))
