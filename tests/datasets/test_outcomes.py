"""Outcomes in rows: what each transition's episode came to, whichever rows are drawn."""

import dataclasses

import numpy as np
import pytest
import torch

from causeway.datasets.batches import Episode, MetaBlock, RowLayout
from causeway.datasets.buffers import open_buffers
from causeway.datasets.cache import RowCache
from causeway.datasets.rows import MappedRows
from causeway.datasets.sampler import MetaSampler, SamplerConfig
from causeway.datasets.store import DatasetStore
from causeway.datasets.task_buffer import TaskBuffer
from tests.datasets.factories import HORIZON, make_episode, write_dataset

DISCOUNT = 0.9
LAYOUT = RowLayout(3, 2, outcome_discount=DISCOUNT)
BARE = RowLayout(3, 2)


@pytest.fixture
def store(tmp_path):
    write_dataset(tmp_path / "set", episodes=6)
    return DatasetStore.open(tmp_path / "set", outcome_discount=DISCOUNT)


@pytest.mark.parametrize("terminated", [True, False])
def test_a_row_tells_what_its_episode_came_to(terminated):
    episode = make_episode(steps=5)
    episode.terminated[-1], episode.truncated[-1] = terminated, not terminated
    rows = LAYOUT.pack(episode)
    assert rows.shape == (5, LAYOUT.width)
    batch = LAYOUT.transitions(torch.from_numpy(rows)[None])
    outcomes = batch.outcomes
    for step in range(5):
        later = [DISCOUNT**k * r for k, r in enumerate(episode.reward[step:].tolist())]
        assert outcomes.return_to_go[0, step].item() == pytest.approx(sum(later), rel=1e-6)
        assert outcomes.steps_to_go[0, step] == 5 - step
        final = outcomes.final_observation[0, step].numpy()
        np.testing.assert_array_equal(final, episode.next_observation[-1])
        assert bool(outcomes.final_terminated[0, step]) == terminated
    np.testing.assert_array_equal(batch.reward[0], episode.reward)
    np.testing.assert_array_equal(batch.terminated[0], episode.terminated)
    np.testing.assert_array_equal(batch.truncated[0], episode.truncated)
    context = LAYOUT.context(torch.from_numpy(rows)[None])
    torch.testing.assert_close(context.outcomes.return_to_go, outcomes.return_to_go)


def test_without_a_discount_rows_hold_no_outcome_and_all_else_alike():
    episode, bare = make_episode(), RowLayout(3, 2)
    without, within = (
        layout.transitions(torch.from_numpy(layout.pack(episode))[None])
        for layout in (bare, LAYOUT)
    )
    assert without.outcomes is None
    assert bare.width == 10
    assert LAYOUT.width == 16  # five columns more, and one to fill a cache line
    for field in dataclasses.fields(without):
        if field.name != "outcomes":
            assert torch.equal(getattr(without, field.name), getattr(within, field.name))


def test_an_episode_without_steps_packs_to_no_rows():
    nothing = {f.name: getattr(make_episode(), f.name) for f in dataclasses.fields(Episode)}
    nothing = {name: value[:0] for name, value in nothing.items() if value is not None}
    assert LAYOUT.pack(Episode(**nothing)).shape == (0, LAYOUT.width)


def test_drawn_rows_bring_the_outcomes_of_whole_episodes_mapped_or_streamed(store, tmp_path):
    cache = RowCache(tmp_path / "cache", 1 << 30)
    known = {row.tobytes() for e in store.episodes(0) for row in LAYOUT.pack(e)}
    for mode in ("mapped", "streamed"):
        config = SamplerConfig(
            tasks_per_batch=2,
            context_per_task=4,
            transitions_per_task=4,
            mode=mode,
            row_group_rows=8,  # so that most episodes of 6 rows lie in two groups
        )
        with open_buffers(store, cache, [0], config, seed=0) as opened:
            block = MetaSampler(opened.buffers, config, seed=0).sample_block(9)
            drawn = block.transitions.reshape(-1, LAYOUT.width)
            assert {row.tobytes() for row in drawn} <= known


def test_the_batches_of_a_block_are_the_rows_of_its_updates(store, tmp_path):
    config = SamplerConfig(tasks_per_batch=2, context_per_task=5, transitions_per_task=7)
    cache = RowCache(tmp_path / "cache", 1 << 30)
    with open_buffers(store, cache, [0, 1], config, seed=0) as opened:
        block = MetaSampler(opened.buffers, config, seed=0).sample_block(3)
    batches = list(block.meta_batches(LAYOUT, torch.device("cpu")))
    assert len(batches) == 3
    for update, batch in enumerate(batches):
        assert batch.task.tolist() == block.task[update].tolist()
        transitions = LAYOUT.transitions(torch.from_numpy(block.transitions[update]))
        context = LAYOUT.context(torch.from_numpy(block.context[update]))
        for given, expected in ((batch.transitions, transitions), (batch.context, context)):
            assert type(given) is type(expected)
            torch.testing.assert_close(
                dataclasses.asdict(given), dataclasses.asdict(expected), rtol=0.0, atol=0.0
            )
    block.transitions[1, 0, 0, 0] = 4242.0  # not copied
    assert batches[1].transitions.observation[0, 0, 0] == 4242.0


def test_the_batches_of_a_block_without_outcomes_have_none():
    block = MetaBlock(
        task=np.zeros((2, 1), np.int64),
        context=np.zeros((2, 1, 4, BARE.width), np.float32),
        transitions=np.zeros((2, 1, 3, BARE.width), np.float32),
    )
    batches = list(block.meta_batches(BARE, torch.device("cpu")))
    assert [batch.transitions.outcomes for batch in batches] == [None, None]
    assert all(batch.context.mask.all() for batch in batches)


def test_a_cache_keeps_rows_of_each_discount_apart(store, tmp_path):
    cache = RowCache(tmp_path / "cache", 1 << 30)
    other = DatasetStore.open(store.folder, outcome_discount=0.5)
    bare = DatasetStore.open(store.folder)
    widths = [cache.rows(one, 0).shape[1] for one in (store, other, bare, store)]
    assert widths == [LAYOUT.width, LAYOUT.width, bare.layout.width, LAYOUT.width]
    assert len(list((tmp_path / "cache").glob("*.rows"))) == 3
    assert not np.array_equal(cache.rows(store, 0), cache.rows(other, 0))


def stretches(buffers, *, context, transitions, updates=200):
    config = SamplerConfig(
        tasks_per_batch=1,
        context_per_task=context,
        transitions_per_task=transitions,
        stretches=True,
    )
    block = MetaSampler(buffers, config, seed=0).sample_block(updates)
    return block.context[:, 0, :, 0].astype(int), block.transitions[:, 0, :, 0].astype(int)


def numbered_buffer(rows):
    """A task's rows, each of which tells its position."""
    table = np.zeros((rows, LAYOUT.width), np.float32)
    table[:, 0] = np.arange(rows)
    return TaskBuffer(MappedRows(table))


def test_stretches_are_in_time_order_apart_and_from_everywhere_alike():
    size = 20
    context, transitions = stretches({0: numbered_buffer(size)}, context=5, transitions=8)
    for drawn in (context, transitions):
        assert (np.diff(drawn, axis=1) % size == 1).all()
        counts = np.bincount(drawn.ravel(), minlength=size)
        assert (counts > 0.5 * counts.mean()).all()
    for first, second in zip(context, transitions, strict=True):
        assert not set(first) & set(second)
    apart = (transitions[:, 0] - context[:, 0]) % size
    assert set(apart) == set(range(5, 13))


def test_stretches_of_too_few_rows_go_around_and_may_overlap():
    context, transitions = stretches({0: numbered_buffer(6)}, context=5, transitions=8)
    for drawn in (context, transitions):
        assert (np.diff(drawn, axis=1) % 6 == 1).all()
    assert len(set((transitions[:, 0] - context[:, 0]) % 6)) == 6


def test_stretches_reach_online_rows():
    buffer = numbered_buffer(10)
    online = np.zeros((HORIZON, LAYOUT.width), np.float32)
    online[:, 0] = 100 + np.arange(HORIZON)
    buffer.append(online)
    context, _ = stretches({0: buffer}, context=3, transitions=3)
    assert {100, 105} <= set(context.ravel())


@pytest.mark.parametrize("other", [{"context_episodes": 2}, {"online_share": 0.5}])
def test_stretches_and_what_contradicts_them_are_refused(other):
    with pytest.raises(ValueError, match="stretches must be false with"):
        SamplerConfig(stretches=True, **other)
