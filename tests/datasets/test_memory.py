"""Memory: used again only once nothing refers to what was in it, and on large pages."""

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from causeway.datasets import memory as memory_module
from causeway.datasets.memory import RecycledMemory, large_arrays, map_file, read_ahead

KIND = np.dtype(np.float32)


def address(array):
    return array.__array_interface__["data"][0]


def test_arrays_have_their_shapes_and_do_not_overlap():
    first, second = RecycledMemory().arrays([(2, 3), (4, 1, 2)], KIND)
    first[:], second[:] = 1.0, 2.0
    assert (first.shape, second.shape) == ((2, 3), (4, 1, 2))
    assert (first == 1.0).all()
    assert (second == 2.0).all()
    assert first.flags.c_contiguous
    assert second.flags.c_contiguous


def test_memory_is_used_again_once_nothing_refers_to_it():
    memory = RecycledMemory()
    first, second = memory.arrays([(1000,), (500,)], KIND)
    used = address(first)
    del first, second
    smaller, _ = memory.arrays([(900,), (500,)], KIND)
    assert address(smaller) == used


def test_memory_is_left_alone_as_long_as_a_part_of_it_is_referred_to():
    memory = RecycledMemory()
    for keep in (
        lambda first, second: second,
        lambda first, second: first.reshape(10, 100)[3, 5:7],
        lambda first, second: torch.from_numpy(first)[100:],
        lambda first, second: memoryview(second),
    ):
        arrays = memory.arrays([(1000,), (500,)], KIND)
        for array in arrays:
            array[:] = 1.0
        kept = keep(*arrays)
        del arrays, array
        for _ in range(4):
            for other in memory.arrays([(1000,), (500,)], KIND):
                other[:] = 2.0
        assert np.unique(np.asarray(kept)).tolist() == [1.0]


def test_more_than_was_ever_asked_for_is_given_anew():
    memory = RecycledMemory()
    memory.arrays([(10,)], KIND)
    (larger,) = memory.arrays([(100_000,)], KIND)
    larger[:] = 1.0
    assert larger.sum() == 100_000


def flags_of_mapping(at):
    """What the kernel notes of the mapping that holds an address: `hg` asks for large pages."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        begin, separator, rest = line.partition(" ")[0].partition("-")
        if separator and not line.startswith("VmFlags"):
            inside = int(begin, 16) <= at < int(rest, 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise LookupError(hex(at))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(np.arange(5000, dtype=np.float32).tobytes())
    with path.open("rb", buffering=0) as opened:
        yield opened


def test_large_arrays_are_full_of_zeros_one_behind_the_other():
    first, second = large_arrays([(2, 3), (4,)], KIND)
    assert (first.shape, second.shape) == ((2, 3), (4,))
    assert first.sum() == second.sum() == 0.0
    assert address(second) == address(first) + first.nbytes
    first[:] = 1.0
    assert second.sum() == 0.0


def test_memory_that_there_is_not_is_refused_as_such():
    with pytest.raises(MemoryError, match=r"no memory for \d+ bytes"):
        large_arrays([(1 << 60,)], KIND)


def test_a_mapped_file_is_its_bytes_from_any_page(file):
    np.testing.assert_array_equal(np.frombuffer(map_file(file), KIND), np.arange(5000))
    part = map_file(file, begin=mmap.PAGESIZE, size_bytes=8)
    np.testing.assert_array_equal(np.frombuffer(part, KIND), mmap.PAGESIZE // 4 + np.arange(2))
    with pytest.raises(TypeError):
        part[0] = 1


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no large pages here"
)
def test_large_pages_are_asked_for(file):
    recycled = RecycledMemory()
    mapped = np.frombuffer(map_file(file), KIND)
    arrays = [*recycled.arrays([(1000,)], KIND), *large_arrays([(1000,)], KIND), mapped]
    assert all("hg" in flags_of_mapping(address(array)) for array in arrays)
    assert "hg" not in flags_of_mapping(address(np.memmap(file, KIND, "r")))


def test_a_file_that_cannot_be_read_is_told_before_it_is_looked_at(file):
    memory = map_file(file)
    read_ahead(memory)
    Path(file.name).write_bytes(b"")  # a look at the memory would end the process now
    with pytest.raises(OSError, match="cannot be read"):
        read_ahead(memory)


def test_a_system_that_cannot_read_ahead_reads_later(file, monkeypatch):
    monkeypatch.setattr(memory_module, "POPULATE_READ", 12345)
    memory = map_file(file)
    read_ahead(memory)
    assert len(memory) == 20_000
