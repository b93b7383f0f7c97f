"""Online adaptation of a run's last checkpoint: its held-out tasks, its training tasks' logs."""

from collections.abc import Sequence

from causeway.actors.contexts import Rows
from causeway.actors.online_adaptation import (
    OnlineAdaptation,
    OnlineAdaptationConfig,
    adapt_online,
)
from causeway.actors.tasks.family import Task, find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.learner import LearnerService
from causeway.cluster.streams import check_faults, few_of, open_data, row_cache
from causeway.datasets.cache import RowCache
from causeway.datasets.faults import DatasetError
from causeway.datasets.store import DatasetStore


def adapt_run(
    run: RunConfig, checkpoint: Checkpoint, config: OnlineAdaptationConfig, *, from_logs: bool
) -> OnlineAdaptation:
    """What the run's policy earns on its held-out tasks, before, by and after adaptation.

    Args:
        run: its configuration.
        checkpoint: the weights.
        config: what is gathered.
        from_logs: whether the policy adapts to the tasks' logs instead of its own episodes.
    """
    store, cache = open_data(run), row_cache(run)
    learner = LearnerService(run, store.layout)
    learner.load(checkpoint)
    family = load_family(run.data.family)
    split = find_split(family, run.data.split)
    wants_training = config.exploration == "training_tasks" and not from_logs
    training = _logs(store, cache, few_of(split.train, run)) if wants_training else {}
    tasks = split.test
    logs = _logs(store, cache, tasks) if from_logs else None
    if logs is not None:
        tasks = tuple(task for task in tasks if task.id in logs)
    check_faults(store, run)
    return adapt_online(
        learner.policy(),
        family,
        tasks,
        layout=store.layout,
        config=config,
        seed=run.run.seed,
        training_contexts=training,
        offline_contexts=logs,
    )


def _logs(store: DatasetStore, cache: RowCache, tasks: Sequence[Task]) -> dict[int, Rows]:
    """Each task's rows; a task without a readable part is left out, and named among the faults."""
    found = {}
    for task in tasks:
        try:
            found[task.id] = cache.rows(store, task.id)
        except DatasetError:
            if store.parts(task.id):
                raise
    return found
