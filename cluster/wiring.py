"""The flow of a distributed run on one screen: who there is, and what each is given.

    task stream --blocks--> learner --weights--> weight store --weights--> collectors
         ^                     |                                               |
         +--- labelled --------+<------------- unlabelled rollouts ------------+
                               +--weights--> evaluator

References flow between the actors; the driver (`dispatch.py`) moves them and touches no data.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.learner_group import Membership
from causeway.cluster.naming import actor_name
from causeway.cluster.pool import actor_options
from causeway.cluster.remote import (
    CheckpointWriter,
    CollectorActor,
    EvaluatorActor,
    LearnerActor,
    StreamActor,
)
from causeway.cluster.streams import open_data
from causeway.cluster.weights import start_weight_store
from causeway.datasets.batches import RowLayout

MEETING_S = 60.0
CRUMB_CPUS = 0.01

Handle = Any  # of an actor; a handle's methods have no types


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The actors of a run. Collectors and evaluators are made anew when they die."""

    stream: Handle
    learner: Handle  # the one that publishes, labels and is saved
    peers: tuple[Handle, ...]  # the other learners, where there are several
    store: Handle
    writer: Handle
    make_collector: Callable[[int], ActorHandle[Any]]
    make_evaluator: Callable[[int], Handle]
    layout: RowLayout


def wire(config: RunConfig, folder: Path, epoch: int, checkpoint: Checkpoint | None) -> Parts:
    """Starts the actors of a run on the Ray that this process is connected to.

    Args:
        config: of the run.
        folder: the run's own, which every node reaches; an absolute path.
        epoch: of this start in the ledger; it is the weights' generation too.
        checkpoint: where to go on from; None begins.
    """
    section = dataclasses.replace(config.run, name=config.name, folder=str(folder.parent))
    config = config.replace(run=section)  # actors have working directories of their own
    layout = open_data(config).layout
    name = config.name
    cpus = 0.0 if config.ray.is_local else config.collection.cpus_per_collector
    resources = None if config.ray.is_local else config.collection.resources or None
    gpus = 1 if config.trainer.device == "cuda" else 0
    # On a cluster, none of these goes to a node without CPUs, as those of collectors should be.
    crumb = 0.0 if config.ray.is_local else CRUMB_CPUS

    def actor(component: type, role: str, index: int | None = None, **options: Any) -> Any:
        options = {"num_cpus": crumb, "scheduling_strategy": "DEFAULT", **options}
        if component is LearnerActor:  # under Tune, inside the trial's placement group
            del options["scheduling_strategy"]
        return ray.remote(**options)(component).options(name=actor_name(name, role, index))

    store = start_weight_store(name)
    stream_state = checkpoint.state["run"]["stream"] if checkpoint is not None else None
    stream = actor(StreamActor, "stream").remote(config, folder, stream_state)
    writer = actor(CheckpointWriter, "writer", max_restarts=-1, max_task_retries=3).remote(
        config, folder
    )
    path = checkpoint.path if checkpoint is not None else None
    learner, *peers = (
        actor(LearnerActor, "learner", rank or None, num_cpus=1, num_gpus=gpus).remote(
            config, layout, store, epoch, path
        )
        for rank in range(config.run.learners)
    )

    def make_collector(index: int) -> ActorHandle[Any]:
        options = actor_options(
            actor_name(name, "collector", index), num_cpus=cpus, resources=resources
        )
        remote: Any = ray.remote(CollectorActor)
        handle: ActorHandle[Any] = remote.options(**options).remote(
            config, layout, store, folder, epoch, index
        )
        return handle

    def make_evaluator(attempt: int) -> Handle:
        return actor(EvaluatorActor, "evaluator", attempt).remote(config)

    return Parts(
        stream=stream,
        learner=learner,
        peers=tuple(peers),
        store=store,
        writer=writer,
        make_collector=make_collector,
        make_evaluator=make_evaluator,
        layout=layout,
    )


def meet(config: RunConfig, parts: Parts) -> list[Any]:
    """Has the learners make one group; gives references that resolve when they have."""
    learners = (parts.learner, *parts.peers)
    is_local = config.ray.is_local
    point = ray.get(parts.learner.meeting_point.remote(is_local=is_local), timeout=MEETING_S)
    return [
        learner.join.remote(
            Membership(
                rank=rank,
                size=len(learners),
                meeting_point=point,
                timeout_s=config.schedule.block_timeout_s,
            )
        )
        for rank, learner in enumerate(learners)
    ]
