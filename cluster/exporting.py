"""A checkpoint's policy as `causeway.learners.exported` takes it."""

import dataclasses
from pathlib import Path

from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.config_io import to_plain
from causeway.cluster.learner import LearnerService
from causeway.datasets.batches import RowLayout
from causeway.learners.algorithm import outcome_discount
from causeway.learners.exported import Description, write_policy


def export_policy(config: RunConfig, checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the inference parts of a checkpoint.

    Raises:
        ExportError: the folder cannot take them.
    """
    family = load_family(config.data.family)
    discount = outcome_discount(config.hyperparameters)
    layout = RowLayout(family.observation_size, family.action_size, discount)
    on_cpu = config.replace(trainer=dataclasses.replace(config.trainer, device="cpu"))
    learner = LearnerService(on_cpu, layout)
    learner.load(checkpoint)
    updates, weights = learner.weights()
    description = Description(
        algorithm=config.run.algorithm,
        hyperparameters=to_plain(config.hyperparameters),
        observation_size=layout.observation_size,
        action_size=layout.action_size,
        outcome_discount=layout.outcome_discount,
        context_size=config.evaluation.context_size,
        family=config.data.family,
        split=config.data.split,
        updates=updates,
    )
    write_policy(folder, description, weights)
