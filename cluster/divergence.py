"""What is kept of a training that diverged: the very numbers that it was fed, to be looked into."""

from dataclasses import fields
from pathlib import Path

from safetensors.numpy import save_file

from causeway.datasets.batches import MetaBlock

FOLDER_NAME = "diverged"


def save_block(run_folder: Path, updates: int, block: MetaBlock) -> Path:
    """Writes the block in which training diverged into the run's folder; gives the file.

    Args:
        run_folder: the run's own.
        updates: before the block.
        block: that was trained on.
    """
    path = run_folder / FOLDER_NAME / f"block-after-{updates:08d}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({field.name: getattr(block, field.name) for field in fields(block)}, path)
    return path
