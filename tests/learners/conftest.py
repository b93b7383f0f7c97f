"""What every test of this layer must leave alone."""

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _global_randomness_untouched():
    """Fails the test if anything in it drew from torch's or numpy's global generator."""
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    assert torch.equal(torch.random.get_rng_state(), before)
    numpy_after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(numpy_after[1], numpy_before[1])
    assert numpy_after[2:] == numpy_before[2:]
