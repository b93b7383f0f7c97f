"""The row cache: rows equal the episodes, decoded once, bounded, never stale."""

import errno
import os
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from causeway.datasets import cache as cache_module
from causeway.datasets.cache import RowCache, default_cache_folder
from causeway.datasets.faults import DatasetError
from causeway.datasets.store import DatasetStore

from .factories import HORIZON, LAYOUT, make_header, write_dataset

ROOT = Path(__file__).resolve().parents[2]
LARGE = 1 << 30
TASK_BYTES = 8 * HORIZON * LAYOUT.width * 4  # of what write_dataset writes per task


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "set"), tmp_path / "set"


def row_files(folder):
    return sorted(path.name for path in folder.glob("*.rows"))


def test_the_rows_are_the_episodes_in_order(tmp_path, dataset):
    written, folder = dataset
    rows = RowCache(tmp_path / "cache", LARGE).rows(DatasetStore.open(folder), 1)
    expected = np.concatenate([LAYOUT.pack(episode) for episode in written[1]])
    np.testing.assert_array_equal(rows, expected)
    assert rows.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1.0


def test_a_task_is_decoded_once_whoever_asks(tmp_path, dataset):
    _, folder = dataset
    cache = RowCache(tmp_path / "cache", LARGE)
    path = cache.path(DatasetStore.open(folder), 0)
    made = path.stat().st_ino
    for part in folder.rglob("*.parquet"):
        part.write_bytes(b"\0" * part.stat().st_size)  # unreadable, were it read again
    again = RowCache(tmp_path / "cache", LARGE).path(DatasetStore.open(folder), 0)
    assert again == path
    assert again.stat().st_ino == made


def test_other_contents_have_another_file(tmp_path, dataset):
    _, folder = dataset
    cache = RowCache(tmp_path / "cache", LARGE)
    first = cache.path(DatasetStore.open(folder), 0)
    other = write_dataset(tmp_path / "other", parts=1)
    assert cache.path(DatasetStore.open(tmp_path / "other"), 0) != first
    assert len(cache.rows(DatasetStore.open(tmp_path / "other"), 0)) == 4 * HORIZON
    assert len(other[0]) == 4


def test_a_cut_off_row_file_is_made_again(tmp_path, dataset):
    written, folder = dataset
    path = RowCache(tmp_path / "cache", LARGE).path(DatasetStore.open(folder), 0)
    path.write_bytes(path.read_bytes()[:-8])
    rows = RowCache(tmp_path / "cache", LARGE).rows(DatasetStore.open(folder), 0)
    np.testing.assert_array_equal(rows, np.concatenate([LAYOUT.pack(e) for e in written[0]]))


def test_a_faulty_part_is_left_out_and_its_repair_is_noticed(tmp_path, dataset):
    written, folder = dataset
    part = folder / "task=0" / "part-00000.parquet"
    good = part.read_bytes()
    part.write_bytes(good[:-1] + b"X")
    store = DatasetStore.open(folder)
    cache = RowCache(tmp_path / "cache", LARGE)
    rest = np.concatenate([LAYOUT.pack(episode) for episode in written[0][4:]])
    np.testing.assert_array_equal(cache.rows(store, 0), rest)
    assert len(store.faults) == 1
    np.testing.assert_array_equal(cache.rows(store, 0), rest)
    part.write_bytes(good)
    assert len(cache.rows(DatasetStore.open(folder), 0)) == 8 * HORIZON


def test_a_task_without_a_readable_part_is_an_error_with_the_reasons(tmp_path, dataset):
    _, folder = dataset
    for part in (folder / "task=0").iterdir():
        part.write_bytes(b"no")
    with pytest.raises(DatasetError, match=r"task 0 of .* at least one readable part: .*got 2"):
        RowCache(tmp_path / "cache", LARGE).rows(DatasetStore.open(folder), 0)


def test_the_least_recently_used_files_make_room(tmp_path, dataset):
    _, folder = dataset
    store = DatasetStore.open(folder)
    cache = tmp_path / "cache"
    paths = [RowCache(cache, LARGE).path(store, task) for task in (0, 1)]
    os.utime(paths[0], (2e9, 2e9))
    os.utime(paths[1], (1e9, 1e9))
    newest = RowCache(cache, 2 * TASK_BYTES).path(store, 2)
    assert row_files(cache) == sorted([paths[0].name, newest.name])


def test_files_in_use_are_kept_and_a_cache_too_small_for_them_says_so(tmp_path, dataset):
    _, folder = dataset
    store = DatasetStore.open(folder)
    cache = RowCache(tmp_path / "cache", 2 * TASK_BYTES)
    rows = [cache.rows(store, task) for task in (0, 1)]
    with pytest.raises(DatasetError, match=f"may hold {2 * TASK_BYTES}: raise its max_bytes"):
        cache.rows(store, 2)
    assert all(np.isfinite(each).all() for each in rows)
    assert cache.size_bytes == 2 * TASK_BYTES


def test_rows_stay_readable_after_another_process_deleted_the_file(tmp_path, dataset):
    written, folder = dataset
    store = DatasetStore.open(folder)
    rows = RowCache(tmp_path / "cache", LARGE).rows(store, 0)
    RowCache(tmp_path / "cache", TASK_BYTES).rows(store, 1)
    np.testing.assert_array_equal(rows, np.concatenate([LAYOUT.pack(e) for e in written[0]]))


def test_a_file_that_cannot_be_read_is_made_again(tmp_path, dataset, monkeypatch):
    written, folder = dataset
    store = DatasetStore.open(folder)
    path = RowCache(tmp_path / "cache", LARGE).path(store, 0)

    def refuse(memory):
        raise OSError(errno.EIO, "a bad sector")

    monkeypatch.setattr(cache_module, "read_ahead", refuse)
    with path.open("rb") as file:  # so that another file has another number
        rows = RowCache(tmp_path / "cache", LARGE).rows(store, 0)
        assert path.stat().st_ino != os.fstat(file.fileno()).st_ino
    np.testing.assert_array_equal(rows, np.concatenate([LAYOUT.pack(e) for e in written[0]]))


def test_what_a_killed_process_left_is_cleared_away(tmp_path, dataset):
    _, folder = dataset
    cache = RowCache(tmp_path / "cache", LARGE)
    for name, age_s in ((".old.tmp", 7200.0), (".new.tmp", 0.0)):
        (cache.folder / name).write_bytes(b"half")
        then = time.time() - age_s
        os.utime(cache.folder / name, (then, then))
    cache.rows(DatasetStore.open(folder), 0)
    assert [path.name for path in cache.folder.glob(".*.tmp")] == [".new.tmp"]


def test_those_who_ask_at_once_wait_for_one_file(tmp_path, dataset):
    written, folder = dataset
    start = threading.Barrier(4)

    def ask(_):
        store, cache = DatasetStore.open(folder), RowCache(tmp_path / "cache", LARGE)
        start.wait()
        return cache.rows(store, 0), cache.path(store, 0).stat().st_ino

    with ThreadPoolExecutor(4) as askers:
        answers = list(askers.map(ask, range(4)))
    expected = np.concatenate([LAYOUT.pack(episode) for episode in written[0]])
    for rows, _ in answers:
        np.testing.assert_array_equal(rows, expected)
    assert len({made for _, made in answers}) == 1


@pytest.fixture
def beside(tmp_path):
    """Starts processes that use the same cache; they end with the test."""
    processes = []

    def start(what, folder, max_bytes=LARGE, *more):
        command = [sys.executable, "-m", "tests.datasets.cache_process", what, str(folder)]
        command += [str(tmp_path / "cache"), str(max_bytes), *map(str, more)]
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.communicate()
        assert process.returncode == 0


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_ask_at_once_decode_each_task_once_between_them(tmp_path, dataset, beside):
    written, folder = dataset
    processes = [beside("decode", folder) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        go_on(process)
    answers = [process.stdout.readline().split(" ", 1) for process in processes]
    assert sum(int(decoded) for decoded, _ in answers) == len(written)
    rows = [np.concatenate([LAYOUT.pack(e) for e in written[task]]) for task in sorted(written)]
    assert {checksums for _, checksums in answers} == {f"{[zlib.crc32(each) for each in rows]}\n"}
    assert not list((tmp_path / "cache").glob(".*.tmp"))


@pytest.mark.parametrize("mode", ["mapped", "streamed"])
def test_what_one_process_uses_another_may_delete_and_both_go_on(tmp_path, dataset, beside, mode):
    written, folder = dataset
    process = beside("hold", folder, LARGE, mode)
    assert process.stdout.readline() == "open\n"
    used = row_files(tmp_path / "cache")
    assert len(used) == 3
    small = RowCache(tmp_path / "cache", TASK_BYTES)
    write_dataset(tmp_path / "other", parts=2, header=make_header(train=(7,), test=()))
    assert len(small.rows(DatasetStore.open(tmp_path / "other"), 7)) == 8 * HORIZON
    assert not set(used) & set(row_files(tmp_path / "cache"))
    go_on(process)
    rows = [np.concatenate([LAYOUT.pack(e) for e in written[task]]) for task in sorted(written)]
    totals = [zlib.crc32(b"".join(sorted(row.tobytes() for row in each))) for each in rows]
    assert process.stdout.readline() == f"{totals}\n"


def test_a_file_that_is_deleted_just_before_it_is_opened_is_made_again(tmp_path, dataset):
    written, folder = dataset

    class Unlucky(RowCache):
        """Another process always deletes what this one was just told of, but for the last time."""

        misfortunes = 3

        def path(self, store, task):
            path = super().path(store, task)
            if self.misfortunes > 0:
                self.misfortunes -= 1
                path.unlink()
            return path

    rows = Unlucky(tmp_path / "cache", LARGE).rows(DatasetStore.open(folder), 0)
    np.testing.assert_array_equal(rows, np.concatenate([LAYOUT.pack(e) for e in written[0]]))


def test_a_damaged_row_file_is_made_again(tmp_path, dataset):
    written, folder = dataset
    store = DatasetStore.open(folder)
    path = RowCache(tmp_path / "cache", LARGE).path(store, 0)
    for damage in (lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], lambda b: b"\0" * len(b)):
        path.write_bytes(damage(path.read_bytes()))
        rows = RowCache(tmp_path / "cache", LARGE).rows(store, 0)
        np.testing.assert_array_equal(rows, np.concatenate([LAYOUT.pack(e) for e in written[0]]))
        assert row_files(tmp_path / "cache") == [path.name]


def test_a_disk_that_fills_up_is_named_and_nothing_half_written_stays(tmp_path, dataset, beside):
    _, folder = dataset
    process = beside("fill", folder, LARGE, TASK_BYTES // 2)
    said, _ = process.communicate()
    assert f"the row cache in {tmp_path / 'cache'} must take the rows of task 0" in said
    assert "free some space, or choose a cache folder elsewhere" in said
    assert [path.suffix for path in (tmp_path / "cache").iterdir()].count(".tmp") == 0
    assert row_files(tmp_path / "cache") == []
    rows = RowCache(tmp_path / "cache", LARGE).rows(DatasetStore.open(folder), 0)
    assert len(rows) == 8 * HORIZON


def test_the_default_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "causeway" / "rows"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(default_cache_folder()) == "/home/someone/.cache/causeway/rows"


def test_a_cache_of_no_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"RowCache\.max_bytes must be at least 1, got 0"):
        RowCache(tmp_path, 0)
