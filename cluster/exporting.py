"""A checkpoint's policy as `causeway.learners.exported` takes it."""

from pathlib import Path

from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.config_io import to_plain
from causeway.cluster.learner import checkpoint_weights, row_layout
from causeway.learners.exported import Description, write_policy


def export_policy(config: RunConfig, checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the inference parts of a checkpoint.

    Raises:
        ExportError: the folder cannot take them.
    """
    layout = row_layout(config, load_family(config.data.family))
    updates, weights = checkpoint_weights(config, checkpoint, layout)
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
