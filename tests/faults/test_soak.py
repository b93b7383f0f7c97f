"""A long run in which something is killed again and again: nothing is lost beyond what is stated.

CAUSEWAY_SOAK_S says for how long, in seconds.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import ray

from causeway.cluster.naming import actor_name
from causeway.cluster.streams import open_data
from causeway.cluster.supervise import SupervisedRun
from causeway.cluster.verify import verify_run
from tests.tiny_runs import assert_exact, distributed_run, ledger_of, tiny_config

SOAK_S = float(os.environ.get("CAUSEWAY_SOAK_S", "90"))
EVERY_S = (15.0, 30.0)  # between two kills
ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "200")
SETTINGS = ("--collection.collectors", "2", "--schedule.checkpoint_every", "50")
MAX_GROWTH = 0.25  # of the driver's memory, from the first third on


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pid_of(run, config, role):
    if role == "redis":
        return run.current.services.redis.server.pid
    names = {"collector": ("collector", 0), "evaluator": ("evaluator", None)}
    kind, index = names.get(role, (role, None))
    if kind == "evaluator":
        index = run.current._evaluating._made
    actor = ray.get_actor(actor_name(config.name, kind, index))
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=30)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_outlives_random_kills_and_its_ledger_stays_exact(
    local_ray, tmp_path, tiny_data, capsys
):
    config = tiny_config(tmp_path, tiny_data, *ENDLESS, *SETTINGS, "--run.name", "soak")
    draw, killed, lost = random.Random(0), [], []
    roles = ("collector", "learner", "stream", "weights", "evaluator", "writer", "redis")
    with distributed_run(config, kind=SupervisedRun) as run:
        begun, early = time.monotonic(), None
        next_kill = begun + EVERY_S[0]
        while time.monotonic() < begun + SOAK_S:
            before = run.current.schedule.position.updates
            run.step()
            after = run.current.schedule.position.updates
            if after < before:
                lost.append(before - after)
            if early is None and time.monotonic() > begun + SOAK_S / 3:
                early = resident_bytes()
            if time.monotonic() > next_kill:
                role = draw.choice(roles)
                try:
                    os.kill(pid_of(run, config, role), signal.SIGKILL)
                except (ValueError, TypeError, ray.exceptions.RayError):
                    continue  # it is being replaced just now; the next round kills
                killed.append(role)
                next_kill = time.monotonic() + draw.uniform(*EVERY_S)
        late = resident_bytes()
        assert not run.run(lambda: True)
        recoveries = [round(seconds, 1) for seconds in run.recovered_after_s]
        updates = run.current.schedule.position.updates
    with capsys.disabled():
        print(
            f"\n{SOAK_S:g} s, {updates} updates, killed: {', '.join(killed)}; lost updates {lost}, "
            f"recovered after {recoveries} s; memory {early / 1e6:.0f} -> {late / 1e6:.0f} MB"
        )
    assert len(killed) >= SOAK_S / EVERY_S[1] - 2
    in_flight = 2 * config.schedule.updates_per_block
    assert all(each <= config.schedule.checkpoint_every + in_flight for each in lost)
    assert late < early * (1.0 + MAX_GROWTH)
    assert_exact(ledger_of(config.folder, config.name), config.folder, open_data(config).layout)
    found = verify_run(config, config.folder, lambda done, total: None)
    assert found.faults == ()
