"""A long run in which something is killed again and again loses and learns what is stated.

CAUSEWAY_SOAK_S says for how long, in seconds. The same run without faults, as many updates long,
comes after it and takes about as long again, less what recovering took.
"""

import json
import os
import random
import signal
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import ray

from causeway.actors.summary import summarise
from causeway.cluster.collect_data import collect_data
from causeway.cluster.config import load_run_config, save_run_config
from causeway.cluster.naming import actor_name
from causeway.cluster.streams import open_data
from causeway.cluster.supervise import SupervisedRun
from causeway.cluster.verify import verify_run
from tests.tiny_runs import assert_exact, distributed_run, ledger_of, results_of

SOAK_S = float(os.environ.get("CAUSEWAY_SOAK_S", "120"))
EVERY_S = (15.0, 30.0)  # between two kills
ROLES = ("collector", "learner", "stream", "weights", "evaluator", "writer", "redis")
OFFLINE = 1_000  # updates
SETTINGS = (  # of the main job, so that there is something to learn
    *("--schedule.updates.offline", str(OFFLINE), "--schedule.checkpoint_every", "100"),
    *("--collection.collectors", "2", "--pool.backoff_s", "0.1"),
)
MAX_GROWTH = 0.05  # of the driver's memory, from the middle third of the time to the last one
COMPARED = ("online_context_return", "offline_context_return")


def configured(folder, name, online):
    """The main job with so many updates online."""
    places = ("--run.folder", str(folder), "--run.name", name, "--data.path", str(folder / "data"))
    words = (*places, "--data.cache_folder", str(folder / "cache"), *SETTINGS)
    config = load_run_config(None, [*words, "--schedule.updates.online", str(online)])
    save_run_config(config, config.folder)
    return config


def private_bytes():
    """What this process holds for itself; the object store that it shares is left out."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def pid_of(run, config, role):
    if role == "redis":
        return run.current.services.redis.server.pid
    names = {"collector": ("collector", 0), "evaluator": ("evaluator", None)}
    kind, index = names.get(role, (role, None))
    if kind == "evaluator":
        index = run.current._evaluating._made
    actor = ray.get_actor(actor_name(config.name, kind, index))
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=30)


class Soak:
    """A run under random kills, and what was seen of it."""

    def __init__(self, run, config):
        self.run, self.config, self.draw = run, config, random.Random(0)
        self.next_roles = []
        self.killed, self.lost, self.memory = [], [], []
        begun = time.monotonic()
        next_kill, next_look = begun + EVERY_S[0], begun
        while (now := time.monotonic()) < begun + SOAK_S:
            self.step()
            if now > next_look:
                self.memory.append(private_bytes())
                next_look = now + 1.0
            if now > next_kill and self.kill():
                next_kill = time.monotonic() + self.draw.uniform(*EVERY_S)
        assert not run.run(lambda: True)
        self.updates = run.current.schedule.position.updates

    def step(self):
        before = self.run.current.schedule.position.updates
        self.run.step()
        after = self.run.current.schedule.position.updates
        if after < before:
            self.lost.append(before - after)

    def kill(self):
        """Kills something, each before any comes again; False where it is being replaced."""
        self.next_roles = self.next_roles or self.draw.sample(ROLES, len(ROLES))
        role = self.next_roles[-1]
        try:
            os.kill(pid_of(self.run, self.config, role), signal.SIGKILL)
        except (ValueError, TypeError, ray.exceptions.RayError):
            return False
        self.killed.append(self.next_roles.pop())
        return True

    def thirds(self):
        """The driver's memory in the middle third of the time and in the last one."""
        third = len(self.memory) // 3
        return median(self.memory[third : 2 * third]), median(self.memory[2 * third :])


def curve(config):
    """What the run's own evaluations found, by updates."""
    points = json.loads((config.folder / "evaluations.json").read_text())["curve"]
    return {point["updates"]: point for point in points}


def late_returns(config, name, marks):
    """The return after those numbers of updates: their mean, and its interval over tasks."""
    points = curve(config)
    return summarise(np.mean([points[mark][name]["per_task"] for mark in marks], axis=0))


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_outlives_random_kills_and_learns_what_it_would_have_learned(
    local_ray, tmp_path, capsys
):
    """Returns are equal up to their own uncertainty: the 95 % intervals over the held-out tasks.

    They are means over the evaluations in the second half of the updates, so that the ups and downs
    of a policy that still learns weigh little. Two distributed runs of one seed differ by when
    rollouts arrive. That is less than what another seed does, and of the main job (docs/results.md)
    three seeds lie within these intervals. So that the comparison says something, random actions
    must lie far outside of them.
    """
    config = configured(tmp_path, "soak", 1_000_000)
    collect_data(config.data, overwrite=False, progress=lambda done, total: None)
    with distributed_run(config, kind=SupervisedRun) as run:
        soak = Soak(run, config)
        recoveries = [round(seconds, 1) for seconds in run.recovered_after_s]
    early, late = soak.thirds()
    with capsys.disabled():
        print(
            f"\n{SOAK_S:g} s, {soak.updates} updates, killed: {', '.join(soak.killed)}; lost "
            f"updates {soak.lost}, recovered after {recoveries} s; memory {early / 1e6:.0f} -> "
            f"{late / 1e6:.0f} MB"
        )
    assert len(soak.killed) >= SOAK_S / EVERY_S[1] - 2
    in_flight = 2 * config.schedule.updates_per_block
    assert all(each <= config.schedule.checkpoint_every + in_flight for each in soak.lost)
    assert late < early * (1.0 + MAX_GROWTH)
    assert_exact(ledger_of(config.folder, config.name), config.folder, open_data(config).layout)
    assert verify_run(config, config.folder, lambda done, total: None).faults == ()

    assert soak.updates > OFFLINE, "too slow a machine for so short a time: raise CAUSEWAY_SOAK_S"
    undisturbed = configured(tmp_path, "undisturbed", soak.updates - OFFLINE)
    with distributed_run(undisturbed) as run:
        assert run.run(lambda: False)
    marks = sorted(curve(config).keys() & curve(undisturbed).keys())
    marks = [mark for mark in marks if mark > soak.updates / 2]
    random_return = results_of(undisturbed.folder)["random_return"]["mean"]
    for name in COMPARED:
        one, other = (late_returns(each, name, marks) for each in (config, undisturbed))
        bound = (one.ci95**2 + other.ci95**2) ** 0.5
        with capsys.disabled():
            print(
                f"{name} after {marks} updates: {one.mean:.2f} ± {one.ci95:.2f} with faults, "
                f"{other.mean:.2f} ± {other.ci95:.2f} without, random actions {random_return:.2f}"
            )
        assert abs(one.mean - other.mean) <= bound
        assert other.mean - random_return > 2.0 * bound
