"""A data set ten times as large as the memory there is: streamed inside it, from a real process."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from causeway.datasets.cache import RowCache
from causeway.datasets.store import DatasetStore

from .stream_under_limit import LAYOUT, write_numbered_set

ROOT = Path(__file__).resolve().parents[2]
REUSE = 1.0
PASSES = 3
MB = 1_000_000


def run_limited(folder, cache, *, limit_bytes, budget_bytes, passes=PASSES):
    """Streams in a process that may take so much memory."""
    given = {
        "folder": str(folder),
        "cache": str(cache),
        "limit_bytes": limit_bytes,
        "passes": passes,
        "seed": 0,
        "sampler": {
            "tasks_per_batch": 16,
            "context_per_task": 64,
            "transitions_per_task": 64,
            "reuse": REUSE,
            "memory_budget_bytes": budget_bytes,
        },
    }
    command = [sys.executable, "-m", "tests.datasets.stream_under_limit", json.dumps(given)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def make_set(folder, *, num_tasks, episodes_per_task):
    """A data set that is decoded already; its Parquet files cannot be read any more."""
    write_numbered_set(folder / "set", num_tasks=num_tasks, episodes_per_task=episodes_per_task)
    cache = RowCache(folder / "rows", 1 << 40)
    store = DatasetStore.open(folder / "set")
    for task in store.task_ids():
        cache.path(store, task)
    for part in (folder / "set").rglob("*.parquet"):
        part.write_bytes(b"\0" * part.stat().st_size)
    return cache.size_bytes


def assert_streamed(done, *, num_tasks, num_rows):
    """What must hold for a stream of some passes."""
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["mode"] == "streamed"
    assert report["is_enforced"]
    draws = np.array(report["draws_by_task"])
    expected = draws.sum() / num_tasks
    per_visit = 128  # a visit of a task takes so many rows
    np.testing.assert_allclose(draws, expected, atol=6 * math.sqrt(expected * per_visit))
    for number, distinct in enumerate(report["distinct"], start=1):
        assert distinct == pytest.approx(1 - math.exp(-REUSE * number), abs=0.03)
    assert report["coverage"][-1] > 0.99
    for read in report["reads"]:
        num_groups = max(read) + 1
        for begin in range(0, len(read) - num_groups + 1, num_groups):
            one_pass = read[begin : begin + num_groups]
            assert sorted(one_pass) == list(range(num_groups))
            assert one_pass != sorted(one_pass)
    sequence = np.array(report["sequence"])
    assert abs(np.corrcoef(np.arange(len(sequence)), sequence)[0, 1]) < 0.5
    assert np.ptp(sequence) > num_rows / 20


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """120 MB of rows."""
    folder = tmp_path_factory.mktemp("small")
    size_bytes = make_set(folder, num_tasks=20, episodes_per_task=180)
    assert size_bytes == 20 * 180 * 200 * LAYOUT.width * 4
    return folder


def test_a_set_ten_times_the_memory_streams_within_it(small_set):
    done = run_limited(
        small_set / "set", small_set / "rows", limit_bytes=12 * MB, budget_bytes=6 * MB
    )
    assert_streamed(done, num_tasks=20, num_rows=36_000)


def test_the_limit_holds_for_what_a_budget_beyond_it_would_take(small_set):
    done = run_limited(
        small_set / "set", small_set / "rows", limit_bytes=12 * MB, budget_bytes=40 * MB, passes=1
    )
    assert done.returncode != 0
    assert "MemoryError" in done.stderr


@pytest.mark.slow
def test_a_set_of_real_size_streams_within_a_tenth_of_it(tmp_path):
    size_bytes = make_set(tmp_path, num_tasks=100, episodes_per_task=500)
    done = run_limited(
        tmp_path / "set",
        tmp_path / "rows",
        limit_bytes=size_bytes // 10,
        budget_bytes=128 * MB,
    )
    assert_streamed(done, num_tasks=100, num_rows=100_000)
