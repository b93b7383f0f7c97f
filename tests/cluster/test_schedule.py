"""The schedule: stages in their order, blocks that end with them, and what is due when."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway.cluster.config import CollectionSection, ScheduleSection
from causeway.cluster.schedule import Position, Schedule
from causeway.learners.algorithm import Stage

OFFLINE = Stage(name="offline", trains=("actor",), frozen=(), collects=False)
ONLINE = Stage(name="online", trains=("actor",), frozen=(), collects=True)


def schedule(position=None, **given):
    section = ScheduleSection(**{"updates": {"offline": 20, "online": 30}, **given})
    collection = CollectionSection(env_steps_per_update=4.0, warmup_env_steps=100)
    return Schedule([OFFLINE, ONLINE], section, collection, position or Position())


def run_through(plan):
    """Every block as (stage, size, updates after it), to the end of all stages."""
    blocks = []
    while not plan.finished:
        while (size := plan.block_after(plan.position.stage_updates)) > 0:
            plan.advance(size)
            blocks.append((plan.stage.name, size, plan.position.updates))
        plan.next_stage()
    return blocks


def test_blocks_fill_each_stage_exactly_the_last_one_shorter():
    assert run_through(schedule(updates_per_block=12)) == [
        ("offline", 12, 12),
        ("offline", 8, 20),
        ("online", 12, 32),
        ("online", 12, 44),
        ("online", 6, 50),
    ]


@given(
    offline=st.integers(0, 60),
    online=st.integers(0, 60),
    block=st.integers(1, 25),
    every=st.integers(1, 25),
)
def test_whatever_the_numbers_every_mark_is_due_once_and_so_is_each_stages_end(
    offline, online, block, every
):
    plan = schedule(
        updates={"offline": offline, "online": online},
        updates_per_block=block,
        evaluate_every=every,
        checkpoint_every=every,
    )
    for total in (offline, online):
        due, updates = [], 0
        while (size := plan.block_after(updates)) > 0:
            is_due = plan.is_evaluation_due(updates, updates + size)
            assert plan.is_checkpoint_due(updates, updates + size) == is_due
            updates += size
            if is_due:
                due.append(updates)
        # Each mark at the end of the block that it lies in, and the stage's own end.
        marks = {min(-(-mark // block) * block, total) for mark in range(every, total, every)}
        assert updates == total
        assert due == sorted(marks | ({total} if total else set()))
        plan.next_stage()
    assert plan.finished


def test_collectors_get_the_warm_up_and_their_share_of_updates_only_while_a_stage_collects():
    plan = schedule()
    assert plan.env_steps_allowed(20) == 0.0
    assert plan.will_collect
    plan.next_stage()
    assert plan.env_steps_allowed(0) == 100
    assert plan.env_steps_allowed(30) == 220
    plan.next_stage()
    assert plan.finished
    assert not plan.will_collect


def test_a_new_stage_counts_its_own_updates_and_steps_from_zero():
    plan = schedule()
    plan.advance(20)
    plan.take_in(60)
    plan.next_stage()
    plan.advance(5)
    plan.take_in(40)
    assert plan.position == Position(
        stage_index=1, stage_updates=5, updates=25, env_steps=100, stage_env_steps=40
    )


def test_a_stage_ends_at_its_last_update_and_until_the_next_ones_first():
    plan = schedule(updates={"offline": 20, "online": 0})
    assert plan.ended_stage is None
    plan.advance(19)
    assert plan.ended_stage is None
    plan.advance(1)
    assert plan.ended_stage == OFFLINE
    plan.next_stage()
    assert plan.ended_stage == OFFLINE
    plan.next_stage()
    assert plan.finished
    assert plan.ended_stage == OFFLINE


def test_a_position_survives_json():
    position = Position(stage_index=1, stage_updates=5, updates=25, env_steps=60)
    again = Position(**json.loads(json.dumps(position.to_json())))
    assert again == position
    assert set(position.to_json()) == {field.name for field in dataclasses.fields(Position)}


@pytest.mark.parametrize("name", ["updates_per_block", "evaluate_every", "keep_checkpoints"])
def test_a_section_refuses_an_interval_of_nothing(name):
    with pytest.raises(ValueError, match=rf"ScheduleSection\.{name} must be at least 1, got 0"):
        ScheduleSection(**{name: 0})


def test_a_section_refuses_a_stage_of_less_than_nothing():
    with pytest.raises(ValueError, match="stage 'online' must be at least 0, got -1"):
        ScheduleSection(updates={"offline": 1, "online": -1})
