"""Ray Data over the same Parquet files: what its users feed a learner with.

It knows no tasks, so its batches are not task-balanced, and without a shuffle not random either.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

COLUMNS = ["observation", "action", "reward", "next_observation", "terminated", "truncated"]
OBJECT_STORE_BYTES = 500_000_000


@contextmanager
def ray_data(files: Sequence[str], *, num_cpus: int) -> Iterator[Callable[[int, int | None], int]]:
    """Starts Ray on this machine, for loopback alone; gives a function that reads all files once.

    The function takes the rows of a batch and of the shuffle buffer (None: no shuffle), and gives
    the number of batches.
    """
    import ray

    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="error",
    )
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        data = ray.data.read_parquet(list(files), columns=COLUMNS)

        def read_once(batch_rows: int, shuffle_rows: int | None) -> int:
            batches = data.iter_batches(
                batch_size=batch_rows,
                batch_format="pyarrow",  # its numpy batches have one object for each list
                local_shuffle_buffer_size=shuffle_rows,
                drop_last=True,
            )
            count = 0
            for batch in batches:
                fields = {name: _to_numpy(batch.column(name)) for name in COLUMNS}
                count += len(fields["reward"]) == batch_rows
            return count

        yield read_once
    finally:
        ray.shutdown()


def _to_numpy(column: Any) -> np.ndarray:
    array = column.combine_chunks()
    length = len(array)
    if hasattr(array.type, "list_size"):
        array = array.flatten()
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values.reshape(length, -1)
