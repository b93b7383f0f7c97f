import pytest

from causeway.datasets.policy import labelling
from tests.fakes import SeekingPolicy


class Mute(SeekingPolicy):
    label = None


def test_a_policy_that_cannot_label_is_refused_where_labels_are_needed():
    policy = SeekingPolicy()
    assert labelling(policy) is policy
    with pytest.raises(ValueError, match="Mute does not: train without a stage that collects"):
        labelling(Mute())
