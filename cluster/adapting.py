"""Online adaptation of a run's last checkpoint: its held-out tasks, its training tasks' logs."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from causeway.actors.contexts import Rows
from causeway.actors.online_adaptation import (
    OnlineAdaptation,
    OnlineAdaptationConfig,
    adapt_online,
)
from causeway.actors.task_players import Play
from causeway.actors.tasks.family import Task, find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.learner import checkpoint_policy
from causeway.cluster.streams import check_faults, few_of, open_data, row_cache
from causeway.datasets.batches import RowLayout
from causeway.datasets.cache import RowCache
from causeway.datasets.faults import DatasetError
from causeway.datasets.store import DatasetStore


def adapt_run(
    run: RunConfig,
    checkpoint: Checkpoint,
    config: OnlineAdaptationConfig,
    *,
    from_logs: bool,
    collectors: int,
) -> OnlineAdaptation:
    """What the run's policy earns on its held-out tasks, before, by and after adaptation.

    Args:
        run: its configuration.
        checkpoint: the weights.
        config: what is gathered.
        from_logs: whether the policy adapts to the tasks' logs instead of its own episodes.
        collectors: actors on the run's Ray that play the episodes; 0 plays them in this process.
    """
    store, cache = open_data(run), row_cache(run)
    policy = checkpoint_policy(run, checkpoint, store.layout)
    family = load_family(run.data.family)
    split = find_split(family, run.data.split)
    wants_training = config.exploration == "training_tasks" and not from_logs
    training = _logs(store, cache, few_of(split.train, run)) if wants_training else {}
    tasks = split.test
    logs = _logs(store, cache, tasks) if from_logs else None
    if logs is not None:
        tasks = tuple(task for task in tasks if task.id in logs)
    check_faults(store, run)
    with _players(run, store.layout, policy.state_dict(), collectors) as play:
        return adapt_online(
            policy,
            family,
            tasks,
            layout=store.layout,
            config=config,
            seed=run.run.seed,
            training_contexts=training,
            offline_contexts=logs,
            play=play,
        )


@contextlib.contextmanager
def _players(
    run: RunConfig, layout: RowLayout, weights: Mapping[str, Tensor], collectors: int
) -> Iterator[Play | None]:
    """Who plays; None: this process."""
    if collectors == 0:
        yield None
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the workers of a local Ray
    from causeway.cluster.playing import PlayerPool
    from causeway.cluster.ray_local import ray_session

    with ray_session(run.ray), PlayerPool(run, layout, weights, collectors) as pool:
        yield pool.play


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
