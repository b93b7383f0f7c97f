"""Several learners are one: the same parameters, to rounding, as one learner on all the tasks."""

import contextlib

import numpy as np
import pytest
import ray
import torch

from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.config import load_run_config
from causeway.cluster.config_io import ConfigError
from causeway.cluster.learner import LearnerService
from causeway.cluster.learner_group import Membership, meeting_point
from causeway.cluster.remote import LearnerActor
from causeway.cluster.run_error import LostError
from causeway.cluster.streams import TaskStream, open_data
from causeway.cluster.supervise import SupervisedRun
from causeway.cluster.weights import decode, start_weight_store
from causeway.datasets.batches import MetaBlock
from tests.tiny_runs import advance, distributed_run, results_of, tiny_config, write_yaml

SMALL = {
    "macaw": {"policy_hidden": [8, 8], "value_hidden": [8, 8], "head_hidden": 4},
    "meta-bc": {},
}


def config_of(algorithm, folder, data):
    """The tiny run of another algorithm, one learner, four tasks in a meta-batch."""
    text = write_yaml(folder, data).read_text()
    start, end = text.index("hyperparameters:"), text.index("data:")
    text = text[:start] + text[end:]
    path = folder / "other.yaml"
    path.write_text(text.replace("updates: {offline: 20, online: 20}", "updates: {offline: 20}"))
    words = ["--run.algorithm", algorithm, "--sampler.tasks_per_batch", "4"]
    return load_run_config(path, words)


def test_learners_take_parts_of_the_tasks_that_make_up_the_whole():
    rng = np.random.default_rng(0)
    block = MetaBlock(
        task=rng.integers(0, 9, (3, 4)),
        context=rng.normal(size=(3, 4, 5, 6)).astype(np.float32),
        transitions=rng.normal(size=(3, 4, 7, 6)).astype(np.float32),
    )
    parts = [
        Membership(rank=rank, size=2, meeting_point="", timeout_s=1.0).part_of(block)
        for rank in range(2)
    ]
    for name in ("task", "context", "transitions"):
        whole = np.concatenate([getattr(part, name) for part in parts], axis=1)
        np.testing.assert_array_equal(whole, getattr(block, name))


def test_tasks_that_cannot_be_shared_out_evenly_are_refused(tmp_path, tiny_data):
    words = ["--run.learners", "2", "--sampler.tasks_per_batch", "3"]
    with pytest.raises(ConfigError, match=r"must be a multiple of run\.learners \(2\), got 3"):
        load_run_config(write_yaml(tmp_path, tiny_data), words)
    with pytest.raises(ConfigError, match="must be 1 where serial is true"):
        load_run_config(
            write_yaml(tmp_path, tiny_data), ["--run.learners", "2", "--run.serial", "true"]
        )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("algorithm", ["macaw", "meta-bc"])
def test_two_learners_equal_one_with_twice_the_tasks(local_ray, tmp_path, tiny_data, algorithm):
    """MACAW's losses go through its inner steps: their gradients are of second order."""
    config = config_of(algorithm, tmp_path, tiny_data)
    layout = open_data(config).layout
    split = find_split(load_family(config.data.family), config.data.split)
    with contextlib.closing(TaskStream(config, split.train, config.folder)) as stream:
        blocks = [stream.sample_block(4, with_state=False)[0] for _ in range(3)]
    alone = LearnerService(config, layout)
    alone.enter("offline")
    expected = [alone.run_block(block) for block in blocks]
    store = start_weight_store(f"group-{algorithm}")
    learner = ray.remote(num_cpus=0)(LearnerActor)
    actors = [learner.remote(config, layout, store, 1, None) for _ in range(2)]
    point = meeting_point("127.0.0.1")
    ray.get(
        [
            actor.join.remote(Membership(rank=rank, size=2, meeting_point=point, timeout_s=60.0))
            for rank, actor in enumerate(actors)
        ]
    )
    ray.get([actor.enter.remote("offline") for actor in actors])
    for block, one in zip(blocks, expected, strict=True):
        first, second = ray.get([actor.run_block.remote(block) for actor in actors])
        assert first.means == second.means
        for name, value in one.means.losses.items():
            assert first.means.losses[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    mine, _ = alone._trainer.state()
    theirs = [decode(ray.get(actor.snapshot.remote())[0]) for actor in actors]
    trained = [name for name in mine if name.startswith("model.")]
    assert trained
    for name in trained:
        assert torch.equal(theirs[0][name], theirs[1][name]), name
        torch.testing.assert_close(theirs[0][name], mine[name], rtol=1e-4, atol=1e-5)
    for actor in (*actors, store):
        ray.kill(actor)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_with_two_learners_ends_and_survives_the_loss_of_one(local_ray, tmp_path, tiny_data):
    words = ("--run.learners", "2", "--run.name", "pair", "--schedule.updates.online", "200")
    config = tiny_config(tmp_path, tiny_data, *words)
    with distributed_run(config, kind=SupervisedRun) as run:
        advance(run.current, lambda: run.current.schedule.position.updates >= 30)
        (peer,) = run.current._parts.peers
        ray.kill(peer)
        with pytest.raises(LostError, match="was lost"):
            advance(run.current, lambda: False)
        run._recover(LostError("as the test made it", ""))
        assert run.run(lambda: False)
    assert results_of(config.folder)["updates"] == 220
