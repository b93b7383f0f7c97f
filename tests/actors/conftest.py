"""Shapes are checked at run time in this layer too.

Not in `behaviour`, whose config is tested with values that its annotations rule out.
"""

from jaxtyping import install_import_hook

CHECKED = (
    "collector",
    "contexts",
    "evaluator",
    "mujoco_process",
    "robots",
    "rollout",
    "side_by_side",
    "simulator",
    "summary",
    "tasks",
    "vector_env",
)

install_import_hook([f"causeway.actors.{name}" for name in CHECKED], "beartype.beartype")
