"""What is killed while a run is at work is replaced, and no rollout is lost or counted twice."""

import os
import signal
import time

import pytest
import ray

from causeway.cluster.launch import existing_run
from causeway.cluster.naming import actor_name
from causeway.cluster.run_error import RunError
from causeway.cluster.streams import open_data
from tests.tiny_runs import (
    advance,
    assert_exact,
    distributed_run,
    ledger_of,
    outside_of,
    results_of,
    tiny_config,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "1000000")
UNHURRIED = ("--collector.num_envs", "1", "--collector.prior_env_steps", "200")
EAGER = ("--collection.env_steps_per_update", "1000")


@pytest.fixture(scope="module")
def long_run(local_ray, tmp_path_factory, tiny_data):
    """A run that has begun to collect and has no end; each test leaves it at work."""
    folder = tmp_path_factory.mktemp("faults")
    config = tiny_config(folder, tiny_data, *ENDLESS, *UNHURRIED, *EAGER, "--run.name", "long")
    with distributed_run(config) as run:
        with outside_of(config.folder, config.name) as (control, ledger):
            advance(run, lambda: run.figures()["env_steps"] > 0)
            run.outside = (control, ledger)
            run.config = config
            yield run
        run.run(lambda: True)
    assert_exact(ledger_of(config.folder, config.name), config.folder, open_data(config).layout)


def pid_of(run, role, index=None):
    actor = ray.get_actor(actor_name(run.config.name, role, index))
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=30)


def goes_on(run):
    """Steps until updates and rollouts have come in that were not there before."""
    position = run.schedule.position
    updates, env_steps = position.updates, position.env_steps
    advance(run, lambda: position.updates > updates and position.env_steps > env_steps)


def assert_ledger_exact(run):
    """Lets the rollouts on their way come in, and compares; the run goes on afterwards."""
    control, ledger = run.outside
    control.pause()
    advance(run, lambda: run.pool.states() == {"idle": run.pool.size})
    advance(run, lambda: not any(run.figures()["queue_depth"].values()))
    records, _ = ledger.records(None)
    assert_exact(records, run.config.folder, open_data(run.config).layout)
    assert sum(record.rows for record in records) == run.figures()["env_steps"]
    control.unpause()
    goes_on(run)


def test_a_collector_killed_while_it_collects_is_replaced(long_run):
    run = long_run
    before = run.figures()
    pid = pid_of(run, "collector", 0)
    advance(run, lambda: run.pool.states()["busy"] == 1)
    os.kill(pid, signal.SIGKILL)
    advance(run, lambda: run.figures()["restarts"] > before["restarts"])
    goes_on(run)
    after = run.figures()
    assert after["deaths"] == before["deaths"] + 1
    assert after["shards_dropped"].get("crash", 0) == before["shards_dropped"].get("crash", 0) + 1
    assert pid_of(run, "collector", 0) != pid
    kinds = [event.kind for event in run.outside[0].latest_events(20)]
    assert "collector lost" in kinds
    assert_ledger_exact(run)


def test_redis_killed_comes_back_and_has_every_commit(long_run):
    run = long_run
    _, ledger = run.outside
    before, _ = ledger.records(None)
    pid = run.services.redis.server.pid
    os.kill(pid, signal.SIGKILL)
    updates = run.schedule.position.updates
    advance(run, lambda: run.services.redis.server.pid not in (None, pid))
    goes_on(run)
    assert run.schedule.position.updates > updates
    time.sleep(1.1)  # this test's own client asks a server that was away again after a second
    after, _ = ledger.records(None)
    assert after[: len(before)] == before
    control = run.outside[0]
    advance(run, lambda: "redis restarted" in [e.kind for e in control.latest_events(20)])
    assert_ledger_exact(run)


def test_commits_made_while_redis_is_away_reach_it_without_another_one(long_run):
    """The ledger is complete although nothing is collected after the server's return."""
    run = long_run
    server = run.services.redis.server
    run.services.next_start = time.monotonic() + 3600  # keep it away for now
    os.kill(server.pid, signal.SIGKILL)
    advance(run, lambda: run.services.ledger.num_spooled > 0)
    run.pool.resize(0)
    advance(run, lambda: not run.pool.states())
    run.services.next_start = 0.0
    advance(run, lambda: run.services.ledger.num_spooled == 0)
    assert server.pid is not None
    run.pool.resize(1)
    goes_on(run)
    assert_ledger_exact(run)


def test_a_weight_store_killed_comes_back_with_the_newest_weights(long_run):
    run = long_run
    os.kill(pid_of(run, "weights"), signal.SIGKILL)
    killed_at = run.schedule.position.updates
    _, ledger = run.outside
    advance(run, lambda: ledger.records(None)[0][-1].version > killed_at)
    assert_ledger_exact(run)


def test_an_evaluator_killed_at_work_is_replaced_and_its_evaluation_done(
    local_ray, tmp_path, tiny_data
):
    many = ("--evaluation.repeats", "40", "--schedule.updates.online", "0")
    config = tiny_config(tmp_path, tiny_data, *many, "--run.name", "evaluated")
    with distributed_run(config) as run:
        run.config = config
        pid = pid_of(run, "evaluator", 1)
        advance(run, lambda: run.figures()["queue_depth"]["evaluations"] > 0)
        os.kill(pid, signal.SIGKILL)
        assert run.run(lambda: False)
        assert pid_of(run, "evaluator", 2) != pid
    assert results_of(config.folder)["offline"]["prior_return"]["per_task"]


def test_a_killed_learner_ends_the_run_in_words_and_resume_finishes_it(
    local_ray, tmp_path, tiny_data
):
    config = tiny_config(
        tmp_path, tiny_data, *("--schedule.updates.online", "200"), "--run.name", "learner"
    )
    with distributed_run(config) as run:
        run.config = config
        advance(run, lambda: run.figures()["shards_committed"] >= 4)
        os.kill(pid_of(run, "learner"), signal.SIGKILL)
        with pytest.raises(RunError, match=f"causeway resume {config.folder}") as raised:
            run.run(lambda: False)
    assert "the learner or the task stream of 'learner' was lost" in str(raised.value)
    committed = ledger_of(config.folder, config.name)
    assert len(committed) >= 4

    resumed, checkpoint, faults = existing_run(config.folder)
    assert (resumed, faults) == (config, [])
    with distributed_run(resumed, checkpoint) as run:
        assert run.run(lambda: False)
        assert run.figures()["deaths"] == 0
    records = ledger_of(config.folder, config.name)
    assert records[: len(committed)] == committed
    assert_exact(records, config.folder, open_data(config).layout)
    results = results_of(config.folder)
    assert results["updates"] == 220
    assert sum(record.rows for record in records) == results["self_supervised_transitions"]
    assert {"offline", "online"} <= results.keys()
