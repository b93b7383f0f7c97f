import math

import numpy as np
import pytest

from causeway.actors.tasks.encoding import encode_tasks
from causeway.actors.tasks.family import Task
from causeway.actors.tasks.registry import families, load_family


def test_an_angle_becomes_a_direction_so_that_a_full_turn_changes_nothing():
    tasks = [Task(id=i, reward={"angle": angle}) for i, angle in enumerate((0.0, math.tau, 1.0))]
    encoded = encode_tasks(tasks)
    np.testing.assert_allclose(encoded[0], encoded[1], atol=1e-6)
    np.testing.assert_allclose(encoded[2], [math.cos(1.0), math.sin(1.0)], atol=1e-6)


def test_a_reward_parameter_is_told_in_standard_deviations():
    encoded = encode_tasks([Task(id=i, reward={"velocity": v}) for i, v in enumerate((1.0, 3.0))])
    np.testing.assert_allclose(encoded, [[-1.0], [1.0]])


def test_factors_of_a_body_are_told_by_their_logarithms_and_constants_not_at_all():
    masses = (0.5, 1.0, 2.0)
    tasks = [Task(id=i, dynamics={"mass": m, "length": 0.3}) for i, m in enumerate(masses)]
    encoded = encode_tasks(tasks)
    assert encoded.shape == (3, 1)
    np.testing.assert_allclose(encoded[1], [0.0], atol=1e-6)
    np.testing.assert_allclose(encoded[0], -encoded[2])


def test_tasks_that_do_not_differ_have_nothing_to_tell():
    assert encode_tasks([Task(id=0), Task(id=1)]).shape == (2, 0)


def test_tasks_with_different_parameters_are_refused():
    with pytest.raises(ValueError, match="task 1 has angle"):
        encode_tasks([Task(id=0, reward={"velocity": 1.0}), Task(id=1, reward={"angle": 1.0})])


@pytest.mark.parametrize("name", families())
def test_every_familys_tasks_can_be_told_apart(name):
    for split in load_family(name).splits().values():
        encoded = encode_tasks(split.tasks)
        assert np.isfinite(encoded).all()
        assert np.abs(encoded).max() < 12.0
        for task, row in zip(split.tasks, encoded, strict=True):
            for other, its in zip(split.tasks, encoded, strict=True):
                same = task.parameters == other.parameters
                assert same == bool(np.array_equal(row, its)), (task.id, other.id)
