"""Nothing grows without bound where one side of a run is slow: each waits for the other, or not."""

import json
import shutil
import time

import pytest

from causeway.actors.tasks.point_robot import PointDynamics, PointRobot
from causeway.cluster.dispatch import QUEUED_BLOCKS
from causeway.learners.smac import Smac
from tests.tiny_runs import advance, distributed_run, tiny_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WATCHED_S = 8.0
COLLECTORS = 3
ROLLOUT = 40  # environment steps, as the tiny configuration has it
ENDLESS = (
    *("--schedule.updates.offline", "5", "--schedule.updates.online", "1000000"),
    *("--schedule.evaluate_every", "1000000", "--schedule.checkpoint_every", "1000000"),
    *("--collection.collectors", str(COLLECTORS)),
)


class SlowSmac(Smac):
    """A learner that takes its time over each update."""

    def losses(self, batch, stage, generator):
        """The same losses, later."""
        time.sleep(0.2)
        return super().losses(batch, stage, generator)


class SlowDynamics(PointDynamics):
    """A simulator that takes its time over each step."""

    def step(self, action):
        """The same step, later."""
        time.sleep(0.1)
        return super().step(action)


class SlowRobot(PointRobot):
    """Point robots in it."""

    @staticmethod
    def dynamics(tasks_dynamics):
        """One point per entry."""
        return SlowDynamics(len(tasks_dynamics), PointRobot.horizon)


def watch(run):
    """What the run held at most, once it collects, and how far it came in that time."""
    advance(run, lambda: run.schedule.stage.collects and run.figures()["env_steps"] > 0)
    begun = time.monotonic()
    before, most = run.figures(), {"blocks": 0, "rollouts": 0}
    idle = False

    def look():
        nonlocal idle
        figures = run.figures()
        for name in most:
            most[name] = max(most[name], figures["queue_depth"][name])
        allowed = run.schedule.env_steps_allowed(run.schedule.position.stage_updates)
        assert run.schedule.position.stage_env_steps <= allowed + COLLECTORS * ROLLOUT
        idle = idle or run.pool.states()["busy"] == 0
        return time.monotonic() > begun + WATCHED_S

    advance(run, look)
    after = run.figures()
    came = {name: after[name] - before[name] for name in ("updates", "env_steps")}
    assert most["blocks"] <= QUEUED_BLOCKS
    assert most["rollouts"] <= COLLECTORS
    return came, idle


def test_a_slow_learner_makes_collectors_wait(local_ray, tmp_path, tiny_data):
    words = ("--run.algorithm", f"{__name__}:SlowSmac", "--collection.env_steps_per_update", "5")
    config = tiny_config(tmp_path, tiny_data, *ENDLESS, *words, "--run.name", "slow-learner")
    with distributed_run(config) as run:
        came, idle = watch(run)
    assert idle  # they had nothing to do
    assert came["updates"] > 0
    assert came["env_steps"] <= 5 * (came["updates"] + 5) + COLLECTORS * ROLLOUT


def test_slow_collectors_do_not_hold_the_learner_up(local_ray, tmp_path, tiny_data):
    family = f"{__name__}:SlowRobot"
    data = shutil.copytree(tiny_data, tmp_path / "data")
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps({**manifest, "family": family}))
    words = ("--data.family", family, "--collection.env_steps_per_update", "1000")
    config = tiny_config(tmp_path, data, *ENDLESS, *words, "--run.name", "slow-collectors")
    with distributed_run(config) as run:
        came, _ = watch(run)
    # Two rollouts of 40 steps for each collector are all that they can gather in that time.
    assert 0 < came["env_steps"] <= 3 * COLLECTORS * ROLLOUT
    assert came["updates"] > 100
