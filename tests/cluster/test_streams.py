"""Task streams: what is drawn, handed out and taken in, and that it can be continued."""

import dataclasses
import shutil

import numpy as np
import pytest

from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.labelling import LabelledRollout
from causeway.cluster.launch import existing_run
from causeway.cluster.streams import TaskStream, open_data
from causeway.datasets.faults import DatasetError
from causeway.datasets.shards import read_part
from tests.tiny_runs import online_parts, serial_run, tiny_config

TRAIN = find_split(load_family("point-robot"), "standard").train


@pytest.fixture
def config(tmp_path, tiny_data):
    return tiny_config(tmp_path, tiny_data)


@pytest.fixture
def make_stream(config):
    """Makes streams that are closed with the test."""
    streams = []

    def make(given=config, folder=config.folder):
        streams.append(TaskStream(given, TRAIN, folder))
        return streams[-1]

    yield make
    for stream in streams:
        stream.close()


def labelled(config, task, sequence):
    """A labelled rollout: a task's logged episodes, their rewards made unmistakable."""
    episodes = open_data(config).episodes(task)
    marked = [dataclasses.replace(e, reward=np.full_like(e.reward, 77.0)) for e in episodes]
    return LabelledRollout(task_id=task, sequence=sequence, label_version=1, episodes=marked)


def rows_of(config, task):
    """A task's logged rows."""
    store = open_data(config)
    return np.concatenate([store.layout.pack(episode) for episode in store.episodes(task)])


def as_set(rows):
    return {row.tobytes() for row in rows.reshape(-1, rows.shape[-1])}


def equal_blocks(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("task", "context", "transitions")
    )


def test_it_finds_every_training_task_and_no_held_out_one(make_stream):
    info = make_stream().info()
    assert info.tasks == tuple(task.id for task in TRAIN)
    assert (info.rows, info.mode, info.faults) == (40 * 2 * 20, "mapped", ())


def test_blocks_hold_rows_of_their_tasks_alone(make_stream, config):
    block, state = make_stream().sample_block(5, with_state=False)
    assert state is None
    assert set(block.task.flat) <= {task.id for task in TRAIN}
    for update, place in np.ndindex(block.task.shape):
        logged = as_set(rows_of(config, int(block.task[update, place])))
        assert as_set(block.transitions[update, place]) <= logged
        assert as_set(block.context[update, place]) <= logged


def test_an_assignment_depends_on_seed_and_number_alone(make_stream, config):
    stream = make_stream()
    before = {n: stream.assign(n)[0] for n in range(6)}
    stream.sample_block(3, with_state=False)
    stream.append(labelled(config, before[0].task_id, 0))
    later = make_stream(folder=config.folder / "other")
    for number, assignment in reversed(before.items()):
        for source in (stream, later):
            (again,) = source.assign(number)
            assert again.task_id == assignment.task_id
            assert np.array_equal(again.labelling_context, assignment.labelling_context)
    assert len({assignment.task_id for assignment in before.values()}) > 1


def test_an_assignment_carries_old_labels_and_nothing_else_of_the_reward(make_stream, config):
    (assignment,) = make_stream().assign(3)
    assert {field.name for field in dataclasses.fields(assignment)} == {
        "task_id",
        "dynamics",
        "labelling_context",
        "sequence",
    }
    assert dict(assignment.dynamics) == {}
    assert as_set(assignment.labelling_context) <= as_set(rows_of(config, assignment.task_id))


def test_labels_are_inferred_from_logged_rows_alone_however_much_was_taken_in(make_stream, config):
    stream = make_stream()
    for sequence in range(5):
        stream.append(labelled(config, 7, sequence))
    contexts = stream.labelling_contexts(7, 9, 30)
    assert len(contexts) == 30
    assert all(context.shape == contexts[0].shape for context in contexts)
    assert as_set(np.stack(contexts)) <= as_set(rows_of(config, 7))
    assert len({context.tobytes() for context in contexts}) > 1


def test_a_streams_coverage_of_its_data_grows_to_the_whole(make_stream, config):
    sampler = dataclasses.replace(
        config.sampler, mode="streamed", row_group_rows=8, pool_row_groups=3, reuse=1.0
    )
    streamed = make_stream(config.replace(sampler=sampler))
    covered = [streamed.share().data_coverage]
    while covered[-1] < 1.0:
        streamed.sample_block(5, with_state=False)
        covered.append(streamed.share().data_coverage)
    assert 0.0 < covered[0] < 1.0
    assert covered == sorted(covered)
    assert make_stream().share().data_coverage == 1.0  # mapped


def test_what_is_taken_in_is_on_the_disk_and_is_drawn_from(make_stream, config):
    stream = make_stream()
    assert stream.share().online_share == 0.0
    rollout = labelled(config, 7, 4)
    share = stream.append(rollout)
    assert (share.online_rows, 0.0 < share.online_share < 1.0) == (40, True)
    (entry,) = stream.state()["online"]
    layout = open_data(config).layout
    part = read_part(config.folder / "online" / "part-00000004.parquet", entry["sha256"], layout)
    assert [len(episode) for episode in part] == [20, 20]
    assert all((episode.reward == 77.0).all() for episode in part)
    block, _ = stream.sample_block(200, with_state=False)
    drawn = as_set(block.transitions[block.task == 7])
    assert drawn & as_set(np.concatenate([layout.pack(episode) for episode in part]))


def test_a_loaded_state_goes_on_bit_for_bit_online_rows_included(make_stream, config):
    stream = make_stream()
    stream.sample_block(3, with_state=False)
    for sequence, task in enumerate((7, 2, 7)):
        stream.append(labelled(config, task, sequence))
    _, state = stream.sample_block(2, with_state=True)
    again = make_stream()
    again.load_state(state)
    assert again.share() == stream.share()
    for size in (1, 20):
        one, _ = stream.sample_block(size, with_state=False)
        other, _ = again.sample_block(size, with_state=False)
        assert equal_blocks(one, other)


def test_a_state_is_only_for_a_stream_that_has_taken_nothing_in(make_stream, config):
    stream = make_stream()
    state = stream.state()
    stream.append(labelled(config, 7, 0))
    with pytest.raises(ValueError, match="only before anything is appended"):
        stream.load_state(state)


def test_a_damaged_online_part_is_named_and_the_others_are_taken(make_stream, config):
    stream = make_stream()
    stream.append(labelled(config, 7, 0))
    rows = stream.append(labelled(config, 7, 1)).online_rows
    path = config.folder / "online" / "part-00000000.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    again = make_stream()
    again.load_state(stream.state())
    assert "part-00000000.parquet" in again.info().lost[0]
    assert [entry["sequence"] for entry in again.state()["online"]] == [1]
    assert again.share().online_rows == rows // 2


def test_a_serial_run_is_refused_for_a_damaged_online_part(tmp_path, tiny_data):
    """It has no shard to label anew; going on without it would be another run."""
    config = tiny_config(tmp_path, tiny_data)
    with serial_run(config) as run:
        while not online_parts(config.folder):
            run.step()
        run.save()
    path = config.folder / "online" / "part-00000000.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    _, checkpoint, _ = existing_run(config.folder)
    with (
        pytest.raises(DatasetError, match=r"part-00000000\.parquet"),
        serial_run(config, checkpoint),
    ):
        pass


def test_data_of_another_family_are_refused_with_what_they_are(tmp_path, tiny_data):
    config = tiny_config(tmp_path, tiny_data, "--data.family", "sparse-point-robot")
    with pytest.raises(DatasetError, match="'sparse-point-robot standard', it holds 'point-robot"):
        open_data(config)


def test_damage_within_the_limit_costs_its_tasks_and_beyond_it_the_run(tmp_path, tiny_data):
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    for task in (0, 1):
        for part in open_data(tiny_config(tmp_path, data)).parts(task):
            (data / part.path).write_bytes(b"PAR1 and nothing else")
    tolerant = tiny_config(tmp_path, data)
    stream = TaskStream(tolerant, TRAIN, tolerant.folder)
    assert stream.info().tasks == tuple(task.id for task in TRAIN[2:])
    assert len(stream.info().faults) == 2
    stream.close()
    strict = tiny_config(tmp_path, data, "--data.max_fault_share", "0.01")
    with pytest.raises(DatasetError, match=r"4% of its parts are damaged, more than .* \(1%\)"):
        TaskStream(strict, TRAIN, strict.folder)
