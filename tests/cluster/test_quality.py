import numpy as np
import pytest

from causeway.cluster.quality import Cut, choose, parse_quality

AGES = np.repeat(np.arange(0, 31) * 100, 2)  # two episodes at each of 0, 100, ..., 3000 updates
LENGTHS = np.full(len(AGES), 200)


def ages_of(quality, transitions, ages=AGES, lengths=LENGTHS, lifetime=3000):
    cut = Cut(quality=quality, transitions=transitions)
    return ages[choose(cut, ages, lengths, lifetime)]


def test_a_quality_may_say_its_own_size_and_several_go_together():
    assert parse_quality("replay", 1600) == (Cut(quality="replay", transitions=1600),)
    assert parse_quality("random:1200, end", 400) == (
        Cut(quality="random", transitions=1200),
        Cut(quality="end", transitions=400),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "best",
            "quality must be one of random, start, middle, end, replay, others, expert, got 'best'",
        ),
        ("random:many", "must have a whole number of transitions after the colon"),
        ("random:0", "at least 1 transition per task, got 0"),
        ("", "got ''"),
    ],
)
def test_a_quality_that_means_nothing_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_quality(text, 100)


def test_random_is_the_lifetimes_first_episodes():
    assert ages_of("random", 1000).tolist() == [0, 0, 100, 100, 200]


@pytest.mark.parametrize(
    ("quality", "low", "high"),
    [("start", 0, 999), ("middle", 1000, 1999), ("end", 2000, 3000), ("replay", 0, 3000)],
)
def test_a_cut_is_spread_evenly_over_its_part_of_the_lifetime(quality, low, high):
    chosen = ages_of(quality, 1600)
    assert len(chosen) == 8
    assert low <= chosen.min()
    assert chosen.max() <= high
    assert (np.diff(chosen) >= 0).all()
    middle = chosen.mean()
    assert abs(middle - (low + high) / 2) < 0.06 * (high - low) + 50
    assert chosen.max() - chosen.min() > 0.8 * (high - low)


def test_the_order_in_which_episodes_are_given_changes_nothing():
    order = np.random.default_rng(0).permutation(len(AGES))
    assert ages_of("replay", 2000, AGES[order]).tolist() == ages_of("replay", 2000).tolist()


def test_transitions_are_rounded_up_to_whole_episodes_of_whatever_length():
    lengths = np.random.default_rng(1).integers(5, 200, len(AGES))
    for quality in ("random", "middle", "replay"):
        cut = Cut(quality=quality, transitions=700)
        chosen = choose(cut, AGES, lengths, 3000)
        assert len(set(chosen.tolist())) == len(chosen)
        assert 700 <= lengths[chosen].sum() < 700 + 3 * 200


def test_a_lifetime_that_is_too_short_is_told():
    with pytest.raises(ValueError, match=r"must have 9,000 .* has 4,000 of one: ask for fewer"):
        ages_of("middle", 9000)
