"""MACAW on point robots: a gradient step on a task's logs makes the policy go to its goal."""

from pathlib import Path

import pytest
import torch

from causeway.actors.evaluator import evaluate
from causeway.actors.online_adaptation import OnlineAdaptationConfig
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.adapting import adapt_run
from causeway.cluster.checkpoint import load_latest
from causeway.cluster.collect_data import collect_data
from causeway.cluster.config import load_run_config, save_run_config
from causeway.cluster.learner import LearnerService
from causeway.cluster.recorder import Recorder
from causeway.cluster.serial import SerialRun
from causeway.cluster.streams import open_data, row_cache
from tests.controls import ShuffledContexts

pytestmark = pytest.mark.learning

RUN_FILE = Path(__file__).parents[2] / "deploy" / "runs" / "macaw-point-robot.yaml"
UPDATES = 800  # of the file's 4,000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The configuration and the results of one run."""
    folder = tmp_path_factory.mktemp("macaw")
    config = load_run_config(
        RUN_FILE,
        [
            f"--run.folder={folder / 'runs'}",
            f"--data.path={folder / 'data'}",
            f"--data.cache_folder={folder / 'cache'}",
            f"--schedule.updates.offline={UPDATES}",
            "--schedule.evaluate_every=1000000",
            "--schedule.checkpoint_every=1000000",
        ],
    )
    collect_data(config.data, overwrite=False, progress=lambda done, total: None)
    save_run_config(config, config.folder)
    recorder = Recorder(config, config.folder, None)
    run = SerialRun(config, config.folder, recorder, None)
    try:
        assert run.run(lambda: False)
        return config, run.results()
    finally:
        run.close()
        recorder.close()


def learned_policy(config):
    learner = LearnerService(config, open_data(config).layout)
    learner.load(load_latest(config.folder)[0])
    return learner.policy()


def offline_return(config, policy):
    """What the policy earns, adapted to logs."""
    store, family = open_data(config), load_family(config.data.family)
    tasks = find_split(family, config.data.split).test
    found = evaluate(
        policy,
        family,
        tasks,
        layout=store.layout,
        protocol="offline",
        config=config.evaluation,
        seed=config.run.seed,
        offline_contexts={task.id: row_cache(config).rows(store, task.id) for task in tasks},
    )
    return found.adapted_return.mean


def mean(results, name):
    return results["offline"][name]["mean"]


def score(results, value):
    """A return on the scale from random actions (0) to the exact optimum (1)."""
    floor, best = results["random_return"]["mean"], results["oracle_return"]["mean"]
    return (value - floor) / (best - floor)


def test_adapting_to_logs_earns_far_more_than_the_unadapted_policy(trained):
    _, results = trained
    adapted = mean(results, "offline_context_return")
    assert adapted > mean(results, "prior_return") + 4.0
    assert score(results, adapted) > 0.65


def test_a_policy_given_the_logs_of_another_task_fails(trained):
    config, results = trained
    shuffled = ShuffledContexts(learned_policy(config), 3 * config.evaluation.repeats)
    assert offline_return(config, shuffled) < mean(results, "offline_context_return") - 3.0


def test_without_its_inner_rates_adapting_does_nothing(trained):
    config, results = trained
    policy = learned_policy(config)
    with torch.no_grad():
        policy.inner_rates.policy.fill_(-50.0)  # before softplus: no step at all
    assert offline_return(config, policy) == pytest.approx(mean(results, "prior_return"), abs=0.5)


def test_exploring_as_in_training_tasks_tells_more_than_the_unadapted_policys_noise(trained):
    config, _ = trained
    noise, tasks = (
        adapt_run(
            config,
            load_latest(config.folder)[0],
            OnlineAdaptationConfig(
                exploration=exploration, exploration_episodes=16, kept_episodes=2
            ),
            from_logs=False,
            collectors=0,
        )
        for exploration in ("noise", "training_tasks")
    )
    assert tasks.adapted.mean > tasks.unadapted.mean + 4.0
    assert tasks.adapted.mean > noise.adapted.mean + 1.0
