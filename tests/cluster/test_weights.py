import os
import signal
import time

import numpy as np
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.cluster import weights
from causeway.cluster.weights import (
    DTYPES,
    FlatWeights,
    WeightPublisher,
    WeightReader,
    WeightStore,
    decode,
    encode,
    start_weight_store,
)


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert actual[name].shape == tensor.shape
        assert torch.equal(actual[name], tensor)


@settings(derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=6,
    )
)
def test_any_tensors_come_back_as_they_were(kinds):
    generator = torch.Generator().manual_seed(0)
    state = {
        f"layer.{i}": torch.randint(0, 2, tuple(shape), generator=generator).to(DTYPES[dtype])
        for i, (dtype, shape) in enumerate(kinds)
    }
    assert_same(decode(encode(state)), state)


def test_a_modules_weights_come_back_and_can_be_written_to():
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    state = decode(encode(module.state_dict()))
    assert_same(state, module.state_dict())
    for tensor in state.values():
        tensor.zero_()


def test_arrays_and_strided_views_are_taken_too():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    strided = torch.arange(6).reshape(2, 3).T
    state = decode(encode({"array": array, "strided": strided}))
    assert_same(state, {"array": torch.tensor(array), "strided": strided.contiguous()})


def test_a_copy_is_published_and_not_the_tensors_themselves():
    tensor = torch.ones(3)
    flat = encode({"a": tensor})
    tensor.zero_()
    assert decode(flat)["a"].sum() == 3.0


def test_a_type_that_is_not_for_weights_is_refused_by_name():
    with pytest.raises(ValueError, match="complex64 for 'bad'"):
        encode({"bad": torch.zeros(1, dtype=torch.complex64)})


def test_a_buffer_of_the_wrong_size_is_refused():
    flat = encode({"a": torch.ones(100)})
    cut = FlatWeights(
        names=flat.names, dtypes=flat.dtypes, shapes=flat.shapes, buffer=flat.buffer[:-1]
    )
    with pytest.raises(ValueError, match="a buffer of weights must have the 448 bytes"):
        decode(cut)


def test_the_store_hands_out_only_what_is_newer():
    store = WeightStore("run")
    assert store.latest() is None
    assert store.latest_after(*weights.BEFORE_ANY) is None
    store.publish(1, 5, ["five"])
    assert store.latest_after(*weights.BEFORE_ANY) == (1, 5, ["five"])
    assert store.latest_after(1, 4) == (1, 5, ["five"])
    assert store.latest_after(1, 5) is None
    assert store.latest_after(1, 9) is None
    assert store.latest() == (1, 5, ["five"])


def test_a_new_generation_supersedes_every_version_of_the_one_before():
    store = WeightStore("run")
    store.publish(1, 900, ["discarded"])
    store.publish(2, 500, ["restored"])
    assert store.latest_after(1, 900) == (2, 500, ["restored"])
    with pytest.raises(ValueError, match=r"weights \(1, 901\)"):
        store.publish(1, 901, ["zombie"])


def test_the_same_version_again_replaces_the_reference():
    store = WeightStore("run")
    store.publish(1, 5, ["lost"])
    store.publish(1, 5, ["again"])
    assert store.latest() == (1, 5, ["again"])


class Learner:
    """A process that publishes, so that a test can let it die."""

    def __init__(self, store):
        self.publisher = WeightPublisher(store)

    def publish(self, generation, version, value):
        self.publisher.publish(generation, version, {"w": torch.full((50_000,), value)})

    def pid(self):
        return os.getpid()


@pytest.fixture
def store(local_ray, request):
    handle = start_weight_store(f"run-{request.node.name[:20]}")
    yield handle
    ray.kill(handle)


def pull_until(reader, condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while True:
        state = reader.pull()
        if condition(state):
            return state
        assert time.monotonic() < deadline, "the reader did not see it in time"
        time.sleep(0.05)


@pytest.mark.ray
def test_a_reader_gets_what_a_publisher_published_once(store):
    publisher, reader = WeightPublisher(store), WeightReader(store, 5.0)
    assert reader.pull() is None
    for version in (1, 2):
        publisher.publish(1, version, {"w": torch.full((1000,), float(version))})
    assert reader.pull()["w"].eq(2.0).all()
    assert reader.key == (1, 2)
    assert reader.pull() is None
    assert reader.num_failures == 0


@pytest.mark.ray
def test_a_learner_that_was_replaced_is_told_so(store):
    zombie, learner = WeightPublisher(store), WeightPublisher(store)
    learner.publish(2, 0, {"w": torch.zeros(3)})
    zombie.publish(1, 7, {"w": torch.ones(3)})
    ray.get(store.latest.remote())
    with pytest.raises(ValueError, match="published after"):
        zombie.publish(1, 8, {"w": torch.ones(3)})
    assert WeightReader(store, 5.0).pull()["w"].eq(0.0).all()


@pytest.mark.ray
def test_readers_go_on_after_the_store_was_killed_and_refilled(store):
    publisher, reader = WeightPublisher(store), WeightReader(store, 5.0)
    publisher.publish(1, 1, {"w": torch.ones(3)})
    assert reader.pull() is not None
    ray.kill(store, no_restart=False)
    newcomer = WeightReader(store, 5.0)

    def found_after_refreshing(state):
        publisher.refresh()
        return state is not None

    assert pull_until(newcomer, found_after_refreshing)["w"].eq(1.0).all()
    publisher.publish(1, 2, {"w": torch.full((3,), 2.0)})
    assert pull_until(reader, found_after_refreshing)["w"].eq(2.0).all()


@pytest.mark.ray
def test_a_reader_keeps_what_it_has_when_the_learner_dies(store):
    learner = ray.remote(num_cpus=0)(Learner).remote(store)
    ray.get(learner.publish.remote(1, 1, 1.0))
    reader = WeightReader(store, 5.0)
    assert pull_until(reader, lambda state: state is not None)["w"].eq(1.0).all()
    ray.get(learner.publish.remote(1, 2, 2.0))
    os.kill(ray.get(learner.pid.remote()), signal.SIGKILL)
    while WeightReader(store, 5.0).pull() is not None:  # until the object store gives them up
        time.sleep(0.1)
    assert reader.pull() is None
    assert (reader.key, reader.num_failures) == ((1, 1), 1)
    successor = ray.remote(num_cpus=0)(Learner).remote(store)
    ray.get(successor.publish.remote(2, 1, 3.0))
    assert pull_until(reader, lambda state: state is not None)["w"].eq(3.0).all()
    ray.kill(successor)


@pytest.mark.ray
def test_the_store_is_an_actor_with_the_runs_name(store, request):
    name = f"causeway:run-{request.node.name[:20]}:weights"
    assert ray.get(ray.get_actor(name).latest.remote()) is None
