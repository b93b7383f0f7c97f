"""What every context-based method is for, seen on point robots: context tells it the task.

A short training of each method's own run file. Its belief must tell the goal, acting on a context
must beat acting on none, and the context of another task must not do.
"""

from dataclasses import dataclass

import pytest

from tests.learning.point_robots import Trained, configure

pytestmark = pytest.mark.learning

SMALL = (
    "--sampler.tasks_per_batch=16",
    "--hyperparameters.encoder_hidden=[64,64]",
    "--hyperparameters.critic_hidden=[64,64]",
    "--hyperparameters.actor_hidden=[64,64]",
    "--hyperparameters.learning_rate=0.001",
    "--evaluation.repeats=4",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A short training, and what it must reach: scores lie between random (0) and optimal (1)."""

    stage: str  # the one that is judged
    overrides: tuple[str, ...]
    probe: float  # R^2 of the goal on the belief, held-out tasks
    offline: float  # score on context from logs
    online: float  # score on context of its own


CASES = {
    "corro": Case(
        stage="offline",
        overrides=(
            "--schedule.updates.encoder=1000",
            "--schedule.updates.offline=1000",
            "--schedule.updates.online=0",
        ),
        probe=0.8,
        offline=0.55,
        online=0.45,
    ),
    "focal": Case(
        stage="offline",
        overrides=("--schedule.updates.offline=1200",),
        probe=0.6,
        offline=0.6,
        online=0.4,
    ),
    "pearl": Case(
        stage="online",
        overrides=(
            "--schedule.updates.offline=300",
            "--schedule.updates.online=700",
            "--collection.warmup_env_steps=2000",
            "--collection.env_steps_per_update=20",
        ),
        probe=0.8,
        offline=0.7,
        online=0.6,
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("learning")


@pytest.fixture(scope="module", params=CASES)
def trained(request, folder):
    """A method's case and its run."""
    case = CASES[request.param]
    return case, Trained(configure(request.param, folder, 0, *SMALL, *case.overrides))


def test_a_linear_map_reads_the_goal_off_the_belief(trained):
    case, run = trained
    assert run.probe() > case.probe


def test_the_adapted_policy_is_far_above_the_unadapted_one(trained):
    case, run = trained
    prior = run.score(case.stage, "prior_return")
    assert run.score(case.stage, "offline_context_return") > max(case.offline, prior + 0.3)
    assert run.score(case.stage, "online_context_return") > max(case.online, prior + 0.1)


def test_a_policy_given_the_context_of_another_task_fails(trained):
    case, run = trained
    adapted = run.score(case.stage, "offline_context_return")
    assert run.score_with_shuffled_contexts() < adapted - 0.3
