"""Memory that is used again: only once nothing refers to what was in it."""

import numpy as np
import torch

from causeway.datasets.memory import RecycledMemory

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
