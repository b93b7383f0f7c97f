"""Tasks as numbers that a network can use: for an agent that is told its task."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from causeway.actors.tasks.family import Task

ANGLE = "angle"  # the parameter that is a direction in the plane, rad


def encode_tasks(tasks: Sequence[Task]) -> Float32[np.ndarray, "S P"]:
    """What tells each task from the others, one row per task.

    An angle becomes its cosine and sine. Of every other parameter that differs between the tasks
    the rows hold, in the order of the names, how many standard deviations it is from the mean; of
    the logarithm where it is a positive parameter of the dynamics, because those are drawn as
    factors. Tasks that do not differ get rows without entries.

    Raises:
        ValueError: tasks with different parameters.
    """
    names = sorted(tasks[0].parameters)
    for task in tasks:
        if sorted(task.parameters) != names:
            raise ValueError(
                f"tasks must all have the parameters of the first, {', '.join(names) or 'none'}; "
                f"task {task.id} has {', '.join(sorted(task.parameters)) or 'none'}"
            )
    columns = []
    for name in names:
        values = np.array([task.parameters[name] for task in tasks], np.float64)
        if name == ANGLE:
            columns += [np.cos(values), np.sin(values)]
            continue
        if name in tasks[0].dynamics and (values > 0.0).all():
            values = np.log(values)
        spread = values.std()
        if spread > 1e-9 * max(1.0, float(np.abs(values).max())):
            columns.append((values - values.mean()) / spread)
    return np.stack(columns, axis=1).astype(np.float32) if columns else _nothing(len(tasks))


def _nothing(num_tasks: int) -> Float32[np.ndarray, "S 0"]:
    return np.zeros((num_tasks, 0), np.float32)
