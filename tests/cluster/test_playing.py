"""Fine-tuning with collectors: actors play the episodes, and nothing else changes by it."""

import json
import os
import signal

import pytest
import ray

from causeway.actors.task_players import TaskPlayer, Turn
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import load_latest
from causeway.cluster.cli.main import USER_ERROR, run
from causeway.cluster.launch import run_in
from causeway.cluster.learner import LearnerService
from causeway.cluster.naming import NAMESPACE, actor_name
from causeway.cluster.playing import PlayerPool
from causeway.cluster.ray_local import ray_session
from causeway.cluster.streams import open_data

OK = 0
TINY = """
run: {{algorithm: macaw, name: tuned, seed: 3, folder: {folder}, serial: true}}
data: {{path: {data}, cache_folder: {data}/cache}}
sampler: {{tasks_per_batch: 2, transitions_per_task: 8, context_per_task: 8}}
schedule: {{updates: {{offline: 5}}, updates_per_block: 5}}
evaluation: {{repeats: 1, episodes: 3, prior_episodes: 2, context_size: 8}}
ray: {{num_cpus: 4, object_store_bytes: 1000000000}}
pool: {{backoff_s: 0.05}}
hyperparameters: {{hidden: [8], discount: 0.9}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data):
    """The folder of a finished serial run."""
    folder = tmp_path_factory.mktemp("tuned")
    path = folder / "macaw.yaml"
    path.write_text(TINY.format(folder=folder, data=tiny_data))
    assert run(["train", str(path)]) == OK
    return folder / "tuned"


@pytest.mark.ray
@pytest.mark.slow
def test_collectors_give_what_this_process_gives(trained, capsys):
    words = ["evaluate", str(trained), "--explore", "noise", "--explore-episodes", "2"]
    words += ["--fine-tune-episodes", "26", "--json"]
    found = []
    capsys.readouterr()
    for more in ([], ["--collectors", "2"]):
        assert run([*words, *more]) == OK
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert [point["episodes"] for point in found[0]["fine_tuned_returns"]] == [
        5,
        10,
        15,
        20,
        25,
        26,
    ]
    assert not ray.is_initialized()


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_collector_costs_nothing_but_time(trained):
    config = run_in(trained)
    layout, family = open_data(config).layout, load_family(config.data.family)
    learner = LearnerService(config, layout)
    learner.load(load_latest(trained)[0])
    policy, tasks = learner.policy(), find_split(family, config.data.split).test[:5]

    def turns(number):
        return [
            Turn(
                dynamics=task.dynamics,
                belief=policy.prior(3),
                actions="stochastic",
                key=(7, number, place),
            )
            for place, task in enumerate(tasks)
        ]

    alone = TaskPlayer(
        policy, family.dynamics, action_size=family.action_size, horizon=family.horizon
    )
    with ray_session(config.ray), PlayerPool(config, layout, learner.weights()[1], 2) as players:
        for number in (1, 2, 3):
            if number == 2:
                name = actor_name(config.name, "player", 0)
                handle = ray.get_actor(name, namespace=NAMESPACE)
                _, pid = ray.get(
                    list(handle.play.options(num_returns=2).remote(turns(1)[0])), timeout=60
                )
                os.kill(pid, signal.SIGKILL)
            expected, found = alone.play(turns(number)), players.play(turns(number))
            for ours, theirs in zip(found, expected, strict=True):
                for left, right in zip(ours, theirs, strict=True):
                    assert left.observation.tobytes() == right.observation.tobytes()
                    assert left.action.tobytes() == right.action.tobytes()
        assert players.pool.deaths == 1


def test_collectors_without_anything_to_play_are_refused(trained, capsys):
    assert run(["evaluate", str(trained), "--collectors", "2"]) == USER_ERROR
    assert "--collectors needs --explore or --fine-tune" in " ".join(
        capsys.readouterr().err.split()
    )
