"""How transitions lie in rows: fields as views, flags as bytes, rows as long as cache lines."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.datasets.batches import MetaBlock, RowLayout

from .factories import make_episode

LAYOUT = RowLayout(3, 2)
CPU = torch.device("cpu")


@given(observation=st.integers(1, 60), action=st.integers(1, 20), discount=st.none() | st.just(0.9))
@settings(derandomize=True, deadline=None)
def test_rows_are_whole_cache_lines_where_that_takes_a_fifth_more_at_most(
    observation, action, discount
):
    needed = 2 * observation + action + 2 + (0 if discount is None else 2 + observation)
    lines = -(-needed // 16) * 16
    expected = lines if lines - needed <= 0.2 * needed else needed
    assert RowLayout(observation, action, discount).width == expected


@pytest.mark.parametrize(("observation", "width"), [(2, 8), (3, 10), (17, 48), (20, 48), (27, 64)])
def test_widths_of_some_robots(observation, width):
    action = {2: 2, 3: 2, 17: 6, 20: 6, 27: 8}[observation]
    assert RowLayout(observation, action).width == width


def test_every_field_of_a_batch_is_a_view_of_its_rows():
    episode = make_episode(steps=5)
    rows = torch.from_numpy(RowLayout(3, 2, 0.9).pack(episode))[None]
    batch = RowLayout(3, 2, 0.9).transitions(rows)
    fields = {**vars_of(batch), **vars_of(batch.outcomes)}
    del fields["outcomes"]
    inside = range(rows.data_ptr(), rows.data_ptr() + rows.nbytes)
    for name, field in fields.items():
        assert field.data_ptr() in inside, name


def vars_of(batch):
    return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}


def test_flags_are_told_apart():
    ends = np.array([[False, False], [True, False], [False, True], [True, True]])
    nothing = np.zeros((4, 3))
    rows = LAYOUT.rows(
        observation=nothing,
        action=np.zeros((4, 2)),
        reward=np.zeros(4),
        next_observation=nothing,
        terminated=ends[:, 0],
        truncated=ends[:, 1],
    )
    batch = LAYOUT.transitions(torch.from_numpy(rows)[None])
    assert batch.terminated.dtype == torch.bool
    assert batch.terminated[0].tolist() == ends[:, 0].tolist()
    assert batch.truncated[0].tolist() == ends[:, 1].tolist()
    assert (~batch.terminated)[0].tolist() == (~ends[:, 0]).tolist()
    assert batch.truncated.float().sum() == 2.0


def test_updates_without_context_have_empty_ones():
    block = MetaBlock(
        task=np.zeros((3, 2), np.int64),
        context=np.zeros((3, 2, 0, LAYOUT.width), np.float32),
        transitions=np.zeros((3, 2, 4, LAYOUT.width), np.float32),
    )
    batches = list(block.meta_batches(LAYOUT, CPU))
    assert [batch.context.observation.shape for batch in batches] == [(2, 0, 3)] * 3
    assert [batch.context.mask.shape for batch in batches] == [(2, 0)] * 3
    assert [batch.transitions.reward.shape for batch in batches] == [(2, 4)] * 3


def test_no_rows_are_a_batch_without_transitions():
    batch = LAYOUT.transitions(torch.from_numpy(np.zeros((2, 0, LAYOUT.width), np.float32)))
    assert batch.terminated.shape == (2, 0)
    assert batch.terminated.dtype == torch.bool
