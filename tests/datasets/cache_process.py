"""A process beside the tests that uses a row cache, as another run on the same node does.

It does one thing, named by its first argument, and prints a line for each thing that it has done;
it goes on when it is given a line.
"""

import resource
import sys
import zlib
from pathlib import Path

import numpy as np

from causeway.datasets.buffers import open_buffers
from causeway.datasets.cache import RowCache
from causeway.datasets.faults import DatasetError
from causeway.datasets.sampler import SamplerConfig
from causeway.datasets.store import DatasetStore


def decode(store: DatasetStore, cache: RowCache, tasks: list[int]) -> None:
    """Asks for every task at once with others; says how often it decoded, and what it got."""
    decoded = []
    write = RowCache._write

    def counted(*given: object) -> Path:
        decoded.append(given[2])
        return write(*given)  # type: ignore[arg-type]

    RowCache._write = counted  # type: ignore[method-assign, assignment]
    say_and_wait("ready")
    checksums = [zlib.crc32(np.ascontiguousarray(cache.rows(store, task))) for task in tasks]
    say_and_wait(f"{len(decoded)} {checksums}")


def hold(store: DatasetStore, cache: RowCache, tasks: list[int], mode: str) -> None:
    """Opens the tasks' buffers, waits, and then says what all of their rows sum up to."""
    config = SamplerConfig(
        tasks_per_batch=1,
        transitions_per_task=4,
        context_per_task=4,
        mode=mode,  # type: ignore[arg-type]
        row_group_rows=8,
        reuse=1.0,
    )
    with open_buffers(store, cache, tasks, config, seed=0) as opened:
        say_and_wait("open")
        totals = []
        for task in tasks:
            buffer, seen = opened.buffers[task], set()
            generator = np.random.default_rng(0)
            while len(seen) < buffer.num_rows:
                seen |= {row.tobytes() for row in buffer.draw(generator, 4)}
            totals.append(zlib.crc32(b"".join(sorted(seen))))
        say_and_wait(str(totals))


def fill(store: DatasetStore, cache: RowCache, tasks: list[int], limit_bytes: int) -> None:
    """Decodes where no file may be larger than that, as where a disk is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        cache.path(store, tasks[0])
    except DatasetError as error:
        print(error, flush=True)


def say_and_wait(line: str) -> None:
    """Prints a line and waits for one."""
    print(line, flush=True)
    sys.stdin.readline()


def main() -> None:
    """Does what the arguments say: what, the data set, the cache's folder and size, and more."""
    what, folder, cache, max_bytes, *more = sys.argv[1:]
    store = DatasetStore.open(folder)
    tasks = list(store.task_ids(None))
    given = (store, RowCache(Path(cache), int(max_bytes)), tasks)
    if what == "decode":
        decode(*given)
    elif what == "hold":
        hold(*given, more[0])
    else:
        fill(*given, int(more[0]))


if __name__ == "__main__":
    main()
