import os
import signal
import time

import numpy as np
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from causeway.cluster.naming import actor_name
from causeway.cluster.pool import (
    ActorPool,
    ActorPoolError,
    Call,
    Done,
    Failed,
    PoolConfig,
    actor_options,
)

PATIENCE_S = 60.0  # of a test, on a machine that is busy with others


class Worker:
    """An actor that does as the test says."""

    def __init__(self, index, construction_error):
        if construction_error:
            raise RuntimeError(construction_error)
        self.index = index

    def work(self, order):
        if order.get("error"):
            raise KeyError(order["error"])
        time.sleep(order.get("seconds", 0.0))
        payload = np.full(200_000, self.index)  # large enough for the object store
        return payload, {"pid": os.getpid(), "index": self.index}


class Foreman:
    """Makes workers and gives them orders; records what a test wants to know."""

    def __init__(self, run):
        self.run = run
        self.orders = {}  # by index; others work at once
        self.construction_error = ""
        self.resources = None
        self.sent = 0

    def make_actor(self, index):
        options = actor_options(
            actor_name(self.run, "worker", index), num_cpus=0.1, resources=self.resources
        )
        return ray.remote(Worker).options(**options).remote(index, self.construction_error)

    def start_call(self, index, handle):
        order = self.orders.get(index, {})
        if order is None:
            return None
        self.sent += 1
        work = handle.work.options(num_returns=2)
        return Call(*work.remote(order), tag=(index, self.sent))


@pytest.fixture
def foreman(local_ray, request):
    return Foreman(f"run-{abs(hash(request.node.name))}")


@pytest.fixture
def start(foreman):
    """Starts pools that end with the test."""
    pools = []

    def start_one(size, **patience):
        pools.append(
            ActorPool(
                foreman.make_actor,
                foreman.start_call,
                size,
                PoolConfig(**{"backoff_s": 0.05, **patience}),
            )
        )
        return pools[-1]

    yield start_one
    for pool in pools:
        pool.close(0.0)


def poll_until(pool, condition):
    """Polls until the events so far meet the condition, and gives them."""
    events = []
    deadline = time.monotonic() + PATIENCE_S
    while not condition(events):
        assert time.monotonic() < deadline, f"not met by {len(events)} events: {events[-3:]}"
        events += pool.poll(0.2)
    return events


def finished(events):
    return [event for event in events if isinstance(event, Done)]


def failures(events):
    return [event for event in events if isinstance(event, Failed)]


def pids(events):
    return {event.index: event.metadata["pid"] for event in finished(events)}


def rest(foreman, pool, indices):
    """Lets the actors finish and gives them nothing more to do."""
    foreman.orders.update(dict.fromkeys(indices))
    poll_until(pool, lambda _: pool.states() == {"idle": pool.size})


@pytest.mark.ray
def test_every_actor_delivers_its_payload_metadata_and_tag(start):
    pool = start(2)
    events = poll_until(pool, lambda events: set(pids(events)) == {0, 1})
    for event in finished(events):
        assert event.tag[0] == event.metadata["index"] == event.index
        assert ray.get(event.payload)[0] == event.index
    assert (pool.deaths, pool.restarts) == (0, 0)


@pytest.mark.ray
def test_a_killed_actor_is_replaced_and_the_others_do_not_notice(foreman, start):
    pool = start(2)
    before = pids(poll_until(pool, lambda events: set(pids(events)) == {0, 1}))
    foreman.orders[0] = {"seconds": 60.0}
    poll_until(pool, lambda _: pool.states() == {"busy": 2})
    time.sleep(0.2)
    foreman.orders[0] = {}
    os.kill(before[0], signal.SIGKILL)
    events = poll_until(
        pool, lambda events: before[0] != pids(events).get(0, before[0]) and 1 in pids(events)
    )
    (failure,) = failures(events)
    assert (failure.index, failure.kind, failure.tag[0]) == (0, "crash", 0)
    assert "worker process has died" in failure.cause
    assert {pid for i, pid in pids(events).items() if i == 1} == {before[1]}
    assert (pool.deaths, pool.restarts) == (1, 1)


@pytest.mark.ray
def test_a_hung_actor_is_killed_and_replaced_while_polls_stay_short(foreman, start):
    pool = start(2, call_timeout_s=3.0)
    before = pids(poll_until(pool, lambda events: set(pids(events)) == {0, 1}))
    os.kill(before[0], signal.SIGSTOP)
    events, longest_s = [], 0.0
    deadline = time.monotonic() + PATIENCE_S
    while before[0] == pids(events).get(0, before[0]):
        assert time.monotonic() < deadline
        started = time.monotonic()
        events += pool.poll(0.2)
        longest_s = max(longest_s, time.monotonic() - started)
    (failure,) = failures(events)
    assert (failure.index, failure.kind) == (0, "hang")
    assert "no answer in 3 s" in failure.cause
    assert len([e for e in finished(events) if e.index == 1]) > 10  # the other one went on
    assert longest_s < 2.0


@pytest.mark.ray
def test_an_error_in_a_call_is_given_with_its_traceback_and_the_actor_replaced(foreman, start):
    foreman.orders[0] = {"error": "no such task"}
    pool = start(1)
    (failure,) = failures(poll_until(pool, failures))
    assert failure.kind == "error"
    assert "in work" in failure.cause
    assert "KeyError: 'no such task'" in failure.cause
    assert "\x1b" not in failure.cause
    foreman.orders[0] = {}
    poll_until(pool, finished)


@pytest.mark.ray
def test_an_error_that_repeats_ends_the_pool_with_its_cause(foreman, start):
    foreman.orders[0] = {"error": "always"}
    pool = start(1, crash_budget=3)
    assert len(poll_until(pool, lambda events: len(failures(events)) == 3)) == 3
    for _ in range(2):
        with pytest.raises(
            ActorPoolError, match=r"(?s)failed 3 times in a row.*KeyError: 'always'"
        ):
            pool.poll(0.0)


@pytest.mark.ray
def test_a_constructor_that_raises_ends_the_pool_with_its_cause(foreman, start):
    foreman.construction_error = "the model cannot be built"
    pool = start(1, crash_budget=2)
    events = poll_until(pool, lambda events: len(failures(events)) == 2)
    assert {event.kind for event in events} == {"construction"}
    with pytest.raises(ActorPoolError, match="RuntimeError: the model cannot be built"):
        pool.poll(0.0)


@pytest.mark.ray
def test_success_between_failures_restores_the_budget(foreman, start):
    pool = start(1, crash_budget=2)
    for _ in range(3):
        foreman.orders[0] = {"error": "now and then"}
        poll_until(pool, failures)
        foreman.orders[0] = {}
        poll_until(pool, finished)
    assert pool.deaths == 3


@pytest.mark.ray
def test_an_actor_without_a_place_is_reported_and_asked_for_again_for_ever(foreman, start):
    foreman.resources = {"no_such_resource": 1.0}
    pool = start(1, start_timeout_s=0.1, crash_budget=2)
    events = poll_until(pool, lambda events: len(failures(events)) == 4)
    assert {event.kind for event in events} == {"unplaced"}
    foreman.resources = None
    pool_of_patience = start(1)
    pool.close(0.0)
    poll_until(pool_of_patience, finished)


@pytest.mark.ray
def test_a_growing_pool_adds_actors_and_a_shrinking_one_lets_calls_finish(foreman, start):
    pool = start(1)
    poll_until(pool, finished)
    pool.resize(3)
    before = pids(poll_until(pool, lambda events: set(pids(events)) == {0, 1, 2}))
    foreman.orders.update({1: {"seconds": 1.0}, 2: None})
    poll_until(pool, lambda _: pool.states() == {"busy": 2, "idle": 1})
    pool.resize(1)
    assert pool.states() == {"busy": 1, "draining": 1}
    events = poll_until(pool, lambda _: pool.states()["draining"] == 0)
    assert pids(events)[1] == before[1]
    assert pool.size == 1
    assert pool.deaths == 0


@pytest.mark.ray
def test_a_pool_that_grows_again_keeps_an_actor_that_was_draining(foreman, start):
    foreman.orders[0] = {"seconds": 1.0}
    pool = start(1)
    poll_until(pool, lambda _: pool.states() == {"busy": 1})
    pool.resize(0)
    pool.resize(1)
    first = pids(poll_until(pool, finished))
    assert pids(poll_until(pool, finished)) == first


@pytest.mark.ray
def test_a_payload_outlives_the_actor_that_made_it(foreman, start):
    pool = start(1)
    event = finished(poll_until(pool, finished))[0]
    rest(foreman, pool, [0])
    os.kill(event.metadata["pid"], signal.SIGKILL)
    time.sleep(2.0)
    assert ray.get(event.payload).shape == (200_000,)


@pytest.mark.ray
def test_closing_waits_for_calls_in_flight_and_frees_the_names(foreman, start):
    foreman.orders = {0: {"seconds": 0.5}, 1: {"seconds": 60.0}}
    pool = start(2)
    poll_until(pool, lambda _: pool.states() == {"busy": 2})
    started = time.monotonic()
    events = pool.close(2.0)
    assert time.monotonic() - started < 6.0
    assert [event.index for event in finished(events)] == [0]
    assert pool.states() == {}
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(actor_name(foreman.run, "worker", 1))


class Trial:
    """Creates an actor from inside a placement group that captures what it creates."""

    def child_is_inside(self, name):
        options = actor_options(name, num_cpus=0.1, resources=None)
        child = ray.remote(Inside).options(**options).remote()
        return ray.get(child.is_inside.remote())


class Inside:
    def is_inside(self):
        return ray.util.get_current_placement_group() is not None


@pytest.mark.ray
def test_an_actor_made_inside_a_placement_group_is_placed_outside_it(foreman):
    group = placement_group([{"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    trial = ray.remote(num_cpus=1)(Trial).options(scheduling_strategy=strategy).remote()
    assert ray.get(trial.child_is_inside.remote(actor_name(foreman.run, "child"))) is False
    ray.kill(trial)
    remove_placement_group(group)


def test_the_back_off_doubles_up_to_its_limit():
    config = PoolConfig(backoff_s=0.5, max_backoff_s=3.0)
    assert [config.delay_s(failures) for failures in (1, 2, 3, 4, 10_000)] == [
        0.5,
        1.0,
        2.0,
        3.0,
        3.0,
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [("call_timeout_s", 0.0), ("backoff_s", -1.0), ("max_backoff_s", 0.1), ("crash_budget", 0)],
)
def test_a_bad_setting_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"PoolConfig\.{field}"):
        PoolConfig(**{field: value})
