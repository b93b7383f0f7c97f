"""Statistics against numpy, by hand."""

import numpy as np
import pytest

from causeway.datasets.statistics import (
    action_coverage,
    observation_coverage,
    return_histogram,
    task_statistics,
)

from .factories import make_episodes


def test_task_statistics_are_those_of_the_returns():
    statistics = task_statistics([1.0, 2.0, 6.0], transitions=30)
    assert (statistics.episodes, statistics.transitions) == (3, 30)
    assert statistics.return_mean == 3.0
    assert statistics.return_std == pytest.approx(np.sqrt(14 / 3))
    assert (statistics.return_min, statistics.return_max) == (1.0, 6.0)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least one episode"):
        task_statistics([], transitions=0)


def test_a_histogram_counts_every_return_and_shows_where_they_are():
    histogram = return_histogram([0.0, 0.1, 0.2, 10.0], bins=4)
    assert histogram.counts.tolist() == [3, 0, 0, 1]
    assert histogram.edges.tolist() == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert str(histogram) == "█  ▃"


def test_coverage_is_per_feature():
    episodes = make_episodes(4)
    observation = np.concatenate([episode.observation for episode in episodes])
    coverage = observation_coverage(episodes)
    np.testing.assert_allclose(coverage.minimum, observation.min(axis=0))
    np.testing.assert_allclose(coverage.std, observation.std(axis=0), rtol=1e-5)
    assert action_coverage(episodes).maximum.shape == (2,)
    assert (action_coverage(episodes).maximum <= 1.0).all()
