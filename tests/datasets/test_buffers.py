"""From a data set to meta-batches: mapped or streamed, within the memory budget."""

import json
import tracemalloc

import numpy as np
import pytest

from causeway.datasets.buffers import open_buffers
from causeway.datasets.cache import RowCache
from causeway.datasets.faults import DatasetError
from causeway.datasets.sampler import MetaSampler, SamplerConfig
from causeway.datasets.store import DatasetStore

from .factories import LAYOUT, make_header, write_dataset

SMALL = {"tasks_per_batch": 2, "transitions_per_task": 10, "context_per_task": 5}


@pytest.fixture
def cache(tmp_path):
    return RowCache(tmp_path / "cache", 1 << 30)


def open_dataset(folder, **options):
    written = write_dataset(folder, **options)
    return DatasetStore.open(folder), written


def test_a_small_set_is_mapped_and_gives_its_own_rows(tmp_path, cache):
    store, written = open_dataset(tmp_path / "set")
    config = SamplerConfig(**SMALL)
    with open_buffers(store, cache, store.task_ids(), config, seed=0) as opened:
        assert opened.mode == "mapped"
        assert opened.coverage == 1.0
        block = MetaSampler(opened.buffers, config, seed=0).sample_block(3)
    known = {
        task: {row.tobytes() for episode in episodes for row in LAYOUT.pack(episode)}
        for task, episodes in written.items()
    }
    for place in np.ndindex(block.task.shape):
        for rows in (block.context[place], block.transitions[place]):
            assert {row.tobytes() for row in rows} <= known[int(block.task[place])]


def test_test_tasks_are_never_drawn(tmp_path, cache):
    store, _ = open_dataset(tmp_path / "set")
    config = SamplerConfig(**SMALL)
    with open_buffers(store, cache, store.task_ids("train"), config, seed=0) as opened:
        block = MetaSampler(opened.buffers, config, seed=0).sample_block(50)
    assert set(block.task.ravel()) == {0, 1}


def test_a_set_beyond_the_budget_is_streamed_within_it(tmp_path, cache):
    header = make_header(train=(0, 1), test=(), horizon=2000)
    store, _ = open_dataset(tmp_path / "set", header=header, parts=1, episodes=100)
    total_bytes = sum(cache.path(store, task).stat().st_size for task in store.task_ids())
    budget = total_bytes // 10
    config = SamplerConfig(
        tasks_per_batch=2,
        transitions_per_task=256,
        context_per_task=64,
        memory_budget_bytes=budget,
        reuse=1.0,
    )
    tracemalloc.start()
    with open_buffers(store, cache, store.task_ids(), config, seed=0) as opened:
        assert opened.mode == "streamed"
        sampler = MetaSampler(opened.buffers, config, seed=0)
        while opened.coverage < 1.0:
            sampler.sample_block(1)
        _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1.2 * budget  # the rest: a block's rows, threads, Python's objects


def test_a_streamed_set_gives_equal_blocks_from_equal_seeds_and_continues(tmp_path, cache):
    header = make_header(train=(0, 1, 2), test=())
    store, _ = open_dataset(tmp_path / "set", header=header, parts=2, episodes=50)
    config = SamplerConfig(**SMALL, mode="streamed", row_group_rows=32, reuse=1.0)

    def sampled(seed, blocks, state=None):
        with open_buffers(store, cache, store.task_ids(), config, seed) as opened:
            sampler = MetaSampler(opened.buffers, config, seed)
            if state is not None:
                sampler.load_state_dict(state)
            drawn = [sampler.sample_block(5).transitions for _ in range(blocks)]
            return drawn, json.loads(json.dumps(sampler.state_dict()))

    whole, _ = sampled(0, 20)
    again, _ = sampled(0, 20)
    np.testing.assert_array_equal(whole, again)
    _, state = sampled(0, 8)
    rest, _ = sampled(1, 12, state)  # the state, not the seed, says how it goes on
    np.testing.assert_array_equal(whole[8:], rest)


def test_the_mode_can_be_chosen(tmp_path, cache):
    store, _ = open_dataset(tmp_path / "set")
    for mode in ("mapped", "streamed"):
        config = SamplerConfig(**SMALL, mode=mode)
        with open_buffers(store, cache, store.task_ids(), config, seed=0) as opened:
            assert opened.mode == mode


def test_a_task_without_readable_parts_is_skipped(tmp_path, cache):
    write_dataset(tmp_path / "set")
    for part in (tmp_path / "set" / "task=0").iterdir():
        part.write_bytes(b"\0" * part.stat().st_size)
    store = DatasetStore.open(tmp_path / "set")
    with open_buffers(store, cache, store.task_ids(), SamplerConfig(**SMALL), seed=0) as opened:
        assert list(opened.buffers) == [1]
        assert opened.skipped == (0,)
    assert len(store.faults) == 2
    with pytest.raises(DatasetError, match="must have rows of at least one of the tasks"):
        open_buffers(store, cache, [0], SamplerConfig(**SMALL), seed=0)


def test_a_cache_that_is_too_small_is_not_taken_for_bad_data(tmp_path):
    store, _ = open_dataset(tmp_path / "set")
    cache = RowCache(tmp_path / "cache", 100)
    with pytest.raises(DatasetError, match="raise its max_bytes"):
        open_buffers(store, cache, store.task_ids(), SamplerConfig(**SMALL), seed=0)


def test_a_budget_below_the_smallest_pool_says_what_would_do(tmp_path, cache):
    store, _ = open_dataset(tmp_path / "set")
    config = SamplerConfig(**SMALL, memory_budget_bytes=1000)
    with pytest.raises(DatasetError, match=r"memory_budget_bytes must be at least (\d+)") as caught:
        open_buffers(store, cache, store.task_ids(), config, seed=0)
    enough = int(str(caught.value).split("at least ")[1].split()[0])
    config = SamplerConfig(**SMALL, memory_budget_bytes=enough)
    with open_buffers(store, cache, store.task_ids(), config, seed=0) as opened:
        assert opened.mode == "streamed"
