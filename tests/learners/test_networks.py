"""What the networks compute in, where the trainer computes in bfloat16."""

import torch

from causeway.learners.networks import Critics


def test_values_far_from_zero_keep_their_digits_in_bfloat16():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critics = Critics(3, 2, 1, hidden=(32,))
        s, a, z = torch.randn(4, 8, 3), torch.rand(4, 8, 2), torch.randn(4, 1)
    with torch.no_grad():
        critics.body.biases[-1].fill_(-501.0)  # between two multiples of 2, as bfloat16 has there
    exact = critics(s, a, z)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = critics(s, a, z)
    assert not torch.equal(rounded, exact)  # the layer before is in bfloat16
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.02)
