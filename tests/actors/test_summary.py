import json

import numpy as np
import pytest

from causeway.actors.summary import summarise


def test_the_interval_is_students():
    summary = summarise([1.0, 2.0, 3.0, 4.0])
    assert summary.mean == 2.5
    assert summary.per_task == (1.0, 2.0, 3.0, 4.0)
    # t(97.5 %, 3) = 3.182, standard error = sqrt(5 / 3) / 2
    assert summary.ci95 == pytest.approx(3.182 * np.sqrt(5 / 3) / 2, rel=1e-6)


def test_the_interval_holds_the_true_mean_in_95_of_100_samples():
    generator = np.random.default_rng(0)
    for size, tolerance in ((3, 0.01), (10, 0.01), (40, 0.01)):
        held = 0
        for sample in generator.normal(7.0, 2.0, (5000, size)):
            summary = summarise(sample)
            held += abs(summary.mean - 7.0) <= summary.ci95
        assert held / 5000 == pytest.approx(0.95, abs=tolerance)


def test_the_quantiles_fall_without_a_jump_where_the_table_ends():
    values = [1.0, -1.0] * 60
    widths = [
        summarise(values[:n]).ci95 * np.sqrt(n) / np.std(values[:n], ddof=1)
        for n in range(4, 100, 2)
    ]
    assert (np.diff(widths) < 0).all()
    assert widths[-1] == pytest.approx(1.985, abs=2e-3)  # 97 degrees of freedom


def test_a_single_task_has_no_interval_and_none_has_no_mean():
    assert summarise([2.0]).ci95 is None
    with pytest.raises(ValueError, match="at least one task, got none"):
        summarise([])


def test_a_summary_goes_to_json():
    summary = summarise(np.array([1.0, 3.0], np.float32))
    assert json.loads(json.dumps(summary.to_json())) == {
        "mean": 2.0,
        "ci95": pytest.approx(12.706),
        "per_task": [1.0, 3.0],
    }
