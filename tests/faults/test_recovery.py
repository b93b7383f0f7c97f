"""A run that loses its learner, its stream or its room goes on by itself, and loses what is said.

Each test prints how long the run took to be at work again.
"""

import contextlib
import os
import signal
import subprocess
import time

import pytest
import ray
from safetensors.numpy import load_file

from causeway.cluster.checkpoint import load_latest
from causeway.cluster.naming import actor_name
from causeway.cluster.pool import ActorPoolError
from causeway.cluster.run_error import LostError, RunError
from causeway.cluster.streams import open_data
from causeway.cluster.supervise import SupervisedRun
from tests.tiny_runs import (
    advance,
    assert_exact,
    distributed_run,
    ledger_of,
    make_data,
    outside_of,
    results_of,
    tiny_config,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "1000000")
EAGER = ("--collection.env_steps_per_update", "1000")


def kill(config, role, index=None, number=signal.SIGKILL):
    actor = ray.get_actor(actor_name(config.name, role, index))
    pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=30)
    os.kill(pid, number)
    return pid


def goes_on(run):
    """Steps until updates and rollouts have come in that were not there before."""
    before = run.current.schedule.position.to_json()
    position = run.current.schedule.position
    advance_supervised(
        run,
        lambda: position.updates > before["updates"] and position.env_steps > before["env_steps"],
    )


def advance_supervised(run, condition, patience_s=90.0):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < patience_s, run.current.figures()
        run.step()
    return time.monotonic() - begun


def end(run, config):
    """Ends a run in order; its ledger holds each rollout once, and its buffers hold just these."""
    assert not run.run(lambda: True)
    return lambda: assert_exact(
        ledger_of(config.folder, config.name), config.folder, open_data(config).layout
    )


@pytest.fixture(scope="module")
def supervised(local_ray, tmp_path_factory, tiny_data):
    """A supervised run that collects and has no end; each test leaves it at work."""
    folder = tmp_path_factory.mktemp("recovery")
    config = tiny_config(folder, tiny_data, *ENDLESS, *EAGER, "--run.name", "supervised")
    with distributed_run(config, kind=SupervisedRun) as run:
        run.config = config
        advance_supervised(run, lambda: run.current.figures()["env_steps"] > 0)
        yield run
        check = end(run, config)
    check()


@pytest.mark.parametrize("role", ["learner", "stream"])
def test_a_killed_learner_or_stream_comes_back_from_the_last_checkpoint(supervised, role, capsys):
    run = supervised
    goes_on(run)
    before = run.current.schedule.position.updates
    kill(run.config, role)
    begun = time.monotonic()
    recoveries = len(run.recovered_after_s)
    advance_supervised(run, lambda: len(run.recovered_after_s) > recoveries)
    back_at = run.current.schedule.position.updates
    goes_on(run)
    with capsys.disabled():
        print(f"\n{role} killed: first update and rollout after {time.monotonic() - begun:.1f} s")
    every = run.config.schedule.checkpoint_every
    in_flight = 2 * run.config.schedule.updates_per_block
    assert before - back_at <= every + in_flight
    with outside_of(run.config.folder, run.config.name) as (control, _):
        kinds = [event.kind for event in control.latest_events(50)]
    assert "recovered" in kinds


def test_a_rollout_whose_labelled_part_is_damaged_is_labelled_anew(supervised, capsys):
    run = supervised
    goes_on(run)
    run.current.save()
    checkpoint, _ = load_latest(run.config.folder)
    entry = checkpoint.state["run"]["stream"]["online"][0]
    part = run.config.folder / "online" / f"part-{entry['sequence']:08d}.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 0xFF
    part.write_bytes(bytes(content))
    kill(run.config, "stream")
    recoveries = len(run.recovered_after_s)
    advance_supervised(run, lambda: len(run.recovered_after_s) > recoveries)
    advance_supervised(run, lambda: part.read_bytes() != bytes(content))
    goes_on(run)
    with outside_of(run.config.folder, run.config.name) as (control, _):
        events = [e for e in control.latest_events(50) if e.kind == "labelled anew"]
    assert [event.fields["sequence"] for event in events] == [entry["sequence"]]


def test_a_clock_that_jumps_moves_nothing(supervised, monkeypatch):
    """Deadlines are on the monotonic clock, and the ages of heartbeats on Redis's own."""
    run = supervised
    goes_on(run)
    recoveries, deaths = len(run.recovered_after_s), run.current.figures()["deaths"]
    real = time.time
    for jump_s in (86_400.0, -86_400.0):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: real() + jump_s)
        goes_on(run)
    monkeypatch.undo()
    assert len(run.recovered_after_s) == recoveries
    assert run.current.figures()["deaths"] == deaths
    with outside_of(run.config.folder, run.config.name) as (control, _):
        assert control.heartbeats()["driver"].age_s < 30.0


def test_a_learner_that_hangs_is_given_up_after_its_time(local_ray, tmp_path, tiny_data, capsys):
    hurried = ("--schedule.block_timeout_s", "15")
    config = tiny_config(tmp_path, tiny_data, *ENDLESS, *EAGER, *hurried, "--run.name", "hangs")
    with distributed_run(config, kind=SupervisedRun) as run:
        advance_supervised(run, lambda: run.current.figures()["env_steps"] > 0)
        stopped = kill(config, "learner", number=signal.SIGSTOP)
        begun = time.monotonic()
        try:
            advance_supervised(run, lambda: run.recovered_after_s)
            goes_on(run)
        finally:
            with contextlib.suppress(ProcessLookupError):  # Ray may have killed it already
                os.kill(stopped, signal.SIGKILL)
        with capsys.disabled():
            print(f"\nlearner hung: at work again after {time.monotonic() - begun:.1f} s")
        check = end(run, config)
    check()


def test_a_learner_that_is_lost_again_and_again_ends_the_run(local_ray, tmp_path, tiny_data):
    once = ("--schedule.recoveries", "1", "--schedule.checkpoint_every", "1000000")
    config = tiny_config(tmp_path, tiny_data, *ENDLESS, *EAGER, *once, "--run.name", "lost")
    # The stage's end is a mark too, so the first checkpoint is that of the offline stage.
    with distributed_run(config, kind=SupervisedRun) as run:
        advance_supervised(run, lambda: run.current.figures()["env_steps"] > 0)
        kill(config, "learner")
        advance_supervised(run, lambda: run.recovered_after_s)
        kill(config, "learner")
        with pytest.raises(LostError, match="the learner or the task stream of 'lost' was lost"):
            advance_supervised(run, lambda: False)


def test_half_of_the_collectors_killed_again_and_again_cost_only_their_rollouts(
    local_ray, tmp_path, tiny_data, capsys
):
    config = tiny_config(
        tmp_path, tiny_data, *ENDLESS, *EAGER, "--collection.collectors", "4", "--run.name", "half"
    )
    with distributed_run(config) as run:
        advance(run, lambda: run.figures()["collectors"] == 4)
        for turn in range(4):
            for index in ((0, 1), (2, 3))[turn % 2]:
                kill(config, "collector", index)
            took = advance(run, lambda turn=turn: run.figures()["restarts"] >= 2 * (turn + 1))
            took += advance(run, lambda: run.figures()["collectors"] == 4)
            with capsys.disabled():
                print(f"\n2 of 4 collectors killed: 4 again after {took:.1f} s")
            updates = run.schedule.position.updates
            advance(run, lambda updates=updates: run.schedule.position.updates > updates)
        assert run.figures()["deaths"] == 8
        check = end(run, config)
    check()


FAULTY_FAMILY = """
import ray
from causeway.actors.tasks.point_robot import PointRobot

class FaultyRobot(PointRobot):
    @staticmethod
    def dynamics(tasks):
        name = ray.get_runtime_context().get_actor_name() if ray.is_initialized() else None
        if name and "collector" in name:
            raise ArithmeticError("this family cannot be stepped")
        return PointRobot.dynamics(tasks)
"""


def test_a_collector_whose_code_raises_each_time_ends_the_run_with_its_traceback(
    local_ray, tmp_path
):
    (tmp_path / "faulty.py").write_text(FAULTY_FAMILY)
    family = f"{tmp_path}/faulty.py:FaultyRobot"
    data = make_data(tmp_path / "data", family)
    words = ("--data.family", family, "--pool.crash_budget", "3", "--run.name", "faulty")
    config = tiny_config(tmp_path, data, *words)
    with distributed_run(config) as run, pytest.raises(ActorPoolError) as raised:
        advance(run, lambda: False)
    assert "failed 3 times in a row with the same cause" in str(raised.value)
    assert "faulty.py" in str(raised.value)
    assert "this family cannot be stepped" in str(raised.value)
    assert run.figures()["deaths"] == 3


def test_of_a_run_that_diverged_the_offending_block_and_a_sound_checkpoint_are_left(
    local_ray, tmp_path, tiny_data
):
    """With a learning rate that no network survives; what is kept is what the learner was fed."""
    words = ("--hyperparameters.learning_rate", "1e30", "--run.name", "diverged")
    config = tiny_config(tmp_path, tiny_data, *words)
    with distributed_run(config) as run, pytest.raises(RunError, match="is not finite") as raised:
        run.run(lambda: False)
    (path,) = (config.folder / "diverged").iterdir()
    assert str(path) in str(raised.value)
    block = load_file(path)
    assert block["transitions"].shape[:3] == (5, 2, 8)
    assert set(block) == {"task", "context", "transitions"}


def has_tmpfs(folder):
    answer = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    return answer.returncode == 0


def fill(path):
    """Writes a file until its disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_stops_neither_learner_nor_run_and_all_goes_on_with_room(
    local_ray, tmp_path, tiny_data, capsys
):
    small = tmp_path / "small"
    small.mkdir()
    if not has_tmpfs(small):
        pytest.skip("a small file system can be mounted by root alone")
    try:
        config = tiny_config(small, tiny_data, *ENDLESS, *EAGER, "--run.name", "full")
        with distributed_run(config) as run:
            advance(run, lambda: run.figures()["env_steps"] > 0)
            ballast = config.folder / "ballast"
            fill(ballast)
            advance(run, lambda: run.pool.counts["full disk"] > 0)
            updates = run.schedule.position.updates
            advance(run, lambda: run.schedule.position.updates > updates + 50)
            ballast.unlink()
            env_steps = run.figures()["env_steps"]
            took = advance(run, lambda: run.figures()["env_steps"] > env_steps)
            with capsys.disabled():
                print(f"\nfull disk: rollouts come in {took:.1f} s after there is room again")
            check = end(run, config)
        check()
        assert load_latest(config.folder)[1] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_part_damaged_while_the_run_is_at_work_costs_that_part_alone(
    local_ray, tmp_path, tiny_data
):
    data = make_data(tmp_path / "data")
    config = tiny_config(tmp_path, data, *EAGER, "--run.name", "damaged")
    with distributed_run(config, kind=SupervisedRun) as run:
        advance_supervised(run, lambda: run.current.schedule.position.updates >= 10)
        (part,) = open_data(config).parts(3)
        (data / part.path).write_bytes(b"not Parquet any more")
        for cached in (data / "cache").rglob("*"):
            if cached.is_file():
                cached.unlink()
        kill(config, "stream")
        assert run.run(lambda: False)
        info = ray.get(run.current._parts.stream.info.remote())
    assert 3 not in info.tasks
    assert any(part.path in fault for fault in info.faults)
    assert results_of(config.folder)["updates"] == 40
