"""Shapes are checked at run time in this layer too.

Not in `behaviour`, whose config is tested with values that its annotations rule out.
"""

import pytest
from jaxtyping import install_import_hook

from causeway.actors.mujoco_process import prepare_process

CHECKED = (
    "collector",
    "contexts",
    "evaluator",
    "gymnasium_dynamics",
    "robots",
    "rollout",
    "side_by_side",
    "simulator",
    "summary",
    "tasks",
    "vector_env",
)

prepare_process()  # gymnasium's environments, too, would write a log into the working directory
install_import_hook([f"causeway.actors.{name}" for name in CHECKED], "beartype.beartype")


@pytest.fixture
def installed(name):
    """The package that the family of that name needs beside ours, or the test is skipped."""
    if name.startswith("metaworld-"):
        why = "it pins MuJoCo 3.3, so its extra has an environment of its own"
        return pytest.importorskip("metaworld", reason=why)
    return None
