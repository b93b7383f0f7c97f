"""What SMAC is about, seen on point robots: the shift, and self-supervision closing it.

The default run has one seed; `-m slow` repeats it for the other two and for sparse rewards.
"""

import pytest

from causeway.actors.evaluator import evaluate
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import load_checkpoint
from causeway.cluster.collect_data import collect_data
from causeway.cluster.config import load_run_config, save_run_config
from causeway.cluster.learner import LearnerService
from causeway.cluster.recorder import Recorder
from causeway.cluster.serial import SerialRun
from causeway.cluster.streams import open_data
from tests.controls import ShuffledContexts

pytestmark = pytest.mark.learning

OFFLINE_UPDATES, ONLINE_UPDATES = 1_500, 1_000  # of the main job's 4,000 and 6,000

SMALL = (  # networks and meta-batches
    "--sampler.tasks_per_batch=16",
    "--hyperparameters.encoder_hidden=[100,100]",
    "--hyperparameters.critic_hidden=[64,64]",
    "--hyperparameters.actor_hidden=[64,64]",
)


def configure(folder, seed, *more):
    return load_run_config(
        None,
        [
            f"--run.folder={folder / 'runs'}",
            f"--run.seed={seed}",
            f"--data.path={folder / 'data'}",
            f"--data.cache_folder={folder / 'cache'}",
            "--run.serial=true",
            f"--schedule.updates.offline={OFFLINE_UPDATES}",
            f"--schedule.updates.online={ONLINE_UPDATES}",
            "--hyperparameters.context_half_life=250",  # as many halvings as in the main job
            *SMALL,
            "--schedule.evaluate_every=1000000",  # only at the end of a stage
            "--schedule.checkpoint_every=1000000",
            *more,
        ],
    )


def train(config, checkpoint=None):
    """Trains to the end; the results, as `results.json` holds them."""
    save_run_config(config, config.folder)
    recorder = Recorder(config, config.folder, None)
    run = SerialRun(config, config.folder, recorder, checkpoint)
    try:
        assert run.run(lambda: False)
        return run.results()
    finally:
        run.close()
        recorder.close()


def gap(results, stage):
    """How much is lost to the context being one's own, mean over held-out tasks."""
    of_stage = results[stage]
    offline, online = of_stage["offline_context_return"], of_stage["online_context_return"]
    return offline["mean"] - online["mean"]


def closed(results):
    """The share of the offline stage's gap that context of one's own gains online."""
    before, after = (results[s]["online_context_return"]["mean"] for s in ("offline", "online"))
    return (after - before) / gap(results, "offline")


def score(results, stage, name):
    """A return on the scale from random actions (0) to the exact optimum (1)."""
    floor, best = results["random_return"]["mean"], results["oracle_return"]["mean"]
    return (results[stage][name]["mean"] - floor) / (best - floor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("learning")


@pytest.fixture(scope="module")
def trained(folder):
    """The configuration and the results of one run, with both its checkpoints."""
    config = configure(folder, 0)
    collect_data(config.data, overwrite=False, progress=lambda done, total: None)
    return config, train(config)


def test_context_of_its_own_costs_a_policy_that_has_only_seen_logs(trained):
    _, results = trained
    assert gap(results, "offline") > 1.5
    assert score(results, "offline", "offline_context_return") > 0.75


def test_self_supervision_closes_most_of_the_gap(trained):
    _, results = trained
    assert closed(results) > 0.5
    assert gap(results, "online") < 0.5 * gap(results, "offline")


def test_the_adapted_policy_is_near_the_optimum_and_far_above_the_unadapted_one(trained):
    _, results = trained
    assert score(results, "online", "online_context_return") > 0.7
    adapted, prior = (
        results["online"][name]["mean"] for name in ("online_context_return", "prior_return")
    )
    assert adapted > prior + 5.0


def test_a_policy_given_the_context_of_another_task_fails(trained):
    config, results = trained
    family = load_family(config.data.family)
    learner = LearnerService(config, open_data(config).layout)
    newest = max((config.folder / "checkpoints").glob("update-*"))
    learner.load(load_checkpoint(newest))
    policy = learner._trainer.algorithm.policy()
    shuffled = evaluate(
        ShuffledContexts(policy, 3 * config.evaluation.repeats),
        family,
        find_split(family, config.data.split).test,
        layout=open_data(config).layout,
        protocol="online_prior",
        config=config.evaluation,
        seed=config.run.seed,
        offline_contexts=None,
    )
    adapted = results["online"]["online_context_return"]["mean"]
    assert shuffled.adapted_return.mean < adapted - 5.0


@pytest.mark.slow
def test_labels_that_are_noise_teach_less_and_unlearn_what_logs_taught(trained, folder):
    # Not after a short offline stage: what it left undone, the few labelled rows would teach.
    longer = (
        "--schedule.updates.offline=4000",
        "--schedule.updates.online=4000",
        "--hyperparameters.context_half_life=650",
    )
    noisy = ("--run.algorithm=tests.controls:NoisyLabelSmac", "--run.name=noisy-labels")
    sound = train(configure(folder, 0, "--run.name=sound-labels", *longer))
    noise = train(configure(folder, 0, *noisy, *longer))
    assert noise["offline"] == sound["offline"]  # they part behind it
    own, logs = (
        (sound["online"][name]["mean"], noise["online"][name]["mean"])
        for name in ("online_context_return", "offline_context_return")
    )
    assert own[1] < own[0] - 1.0
    assert logs[1] < logs[0] - 0.7
    assert logs[1] < noise["offline"]["offline_context_return"]["mean"] - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_other_seeds_tell_the_same(trained, folder, seed):
    longer = (
        "--schedule.updates.offline=3000",
        "--schedule.updates.online=2000",
        "--hyperparameters.context_half_life=500",
    )
    results = train(configure(folder, seed, *longer))
    assert gap(results, "offline") > 0.5
    assert closed(results) > 0.5
    assert score(results, "online", "online_context_return") > 0.7
