"""Which rows meta-batches are made of: positions, drawn for all their places together.

A place is one task's part of a meta-batch. What is drawn in one place does not depend on another:
that they are drawn together only spares numpy's overhead, which is most of the cost otherwise.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, Integer

from causeway.datasets.episodes import Episodes
from causeway.datasets.reach import Reach

Counts = Int64[np.ndarray, "P"]  # one for each place
Positions = Int64[np.ndarray, "P count"]  # several in each place


def draw_rows(
    generator: np.random.Generator,
    reaches: Sequence[Reach],
    count: int,
    *,
    online_share: float | None,
    taken: Positions | None = None,
) -> Positions:
    """Positions of `count` rows of each place, in random order.

    Those of a place are distinct and none is a taken one, if there are enough rows. If there are
    not, it is as if none were taken, and if that is too few yet, rows are drawn with replacement.

    Args:
        generator: the only source of chance.
        reaches: what each place is drawn from.
        count: how many rows of each place.
        online_share: share of online rows, in [0, 1], as far as there are distinct ones; with 0,
            none are drawn. None: every row of a buffer is as likely as any other.
        taken: positions that were drawn before; one may be there several times.
    """
    offline = np.array([reach.num_offline for reach in reaches])
    reachable = np.array([reach.num_reachable for reach in reaches])
    online = np.array([0 if online_share == 0.0 else reach.num_online for reach in reaches])
    if taken is None:
        taken = np.empty((len(reaches), 0), np.int64)
    if online_share is None and (offline == reachable).all():
        reachable, online = reachable + online, np.zeros_like(online)  # all rows are alike
    from_online = np.zeros_like(online)
    if online.any():
        free = _num_free(offline, online, count, taken, reachable)
        from_online = _num_online(generator, count, *free, online_share)
    ranges = _Ranges(reachable, count - from_online, online, from_online)
    if ranges.are_sparse(num_taken=taken.shape[1]):
        return _draw_sparse(generator, ranges, taken)
    return np.stack([_draw_dense(generator, *each) for each in zip(*ranges, taken, strict=True)])


def draw_contexts(
    generator: np.random.Generator,
    reaches: Sequence[Reach],
    count: int,
    *,
    num_episodes: int,
    online_share: float | None,
    in_order: bool,
) -> Positions:
    """Positions of `count` rows of a few whole episodes of each place, in random or time order.

    Those of a place are distinct if its episodes have enough rows; if not, each row is there and
    the rest are drawn again.

    Args:
        generator: the only source of chance.
        reaches: what each place is drawn from.
        count: how many rows of each place.
        num_episodes: how many episodes they are of; all, where there are no more.
        online_share: probability that they are online episodes, if there are any; they are offline
            ones otherwise. None: every episode is as likely as any other.
        in_order: whether the rows are a stretch of these episodes, one behind the other: from
            anywhere within them, and from their beginning again where they are too few.

    Raises:
        ValueError: if there is no whole episode within reach.
    """
    begin, end = _choose_episodes(generator, reaches, num_episodes, online_share)
    behind = (end - begin).cumsum(axis=1)  # each episode's end, were they one after the other
    total = behind[:, -1]
    if in_order:
        first = (generator.random(len(total)) * (np.maximum(total - count, 0) + 1)).astype(np.int64)
        drawn = (first[:, None] + np.arange(count)) % total[:, None]
    else:
        drawn = _draw_within(generator, total, count)
    # One search for all places: the rows of each are behind those of the one before.
    start = (np.arange(len(total)) * int(total.max() + 1))[:, None]
    episode = (behind + start).ravel().searchsorted(drawn + start, side="right")
    positions: Positions = drawn + (end - behind).ravel()[episode]
    return positions


def draw_stretches(
    generator: np.random.Generator, reaches: Sequence[Reach], first: int, second: int
) -> tuple[Positions, Positions]:
    """Positions of two stretches of each place's rows, each in time order, from anywhere.

    The rows are taken as a ring, so that every row is as likely as any other. The stretches of a
    place share no row if it has enough of them; if not, they are drawn independently.

    Args:
        generator: the only source of chance.
        reaches: what each place is drawn from, online rows behind the offline ones.
        first: how many rows the first stretch has.
        second: how many the second one has.
    """
    total = np.array([reach.num_reachable + reach.num_online for reach in reaches])
    begin = generator.integers(total)
    between = total - first - second  # rows that are in neither
    ahead = first + generator.integers(np.maximum(between, 0) + 1)
    ahead = np.where(between >= 0, ahead, generator.integers(total))
    ring = total[:, None]
    return (
        (begin[:, None] + np.arange(first)) % ring,
        ((begin + ahead)[:, None] + np.arange(second)) % ring,
    )


def subsample(
    rows: Float32[np.ndarray, "n W"],
    size: int | None,
    generator: np.random.Generator,
    *,
    in_order: bool,
) -> Float32[np.ndarray, "_ W"]:
    """At most `size` different rows, every one as likely as another; all of them for None.

    A product of Gaussians narrows with every transition, so a context larger than those of training
    gives a belief that is surer than it should be.

    Args:
        rows: in time order.
        size: the most rows that are kept.
        generator: of the choice.
        in_order: whether those that are kept must follow one another, for a policy that reads
            sequences.
    """
    if size is None or len(rows) <= size:
        return rows
    if in_order:
        first = int(generator.integers(len(rows) - size + 1))
        return rows[first : first + size]
    return rows[generator.choice(len(rows), size, replace=False)]


class _Ranges(NamedTuple):
    """Each place's positions: so many from [0, first), and so many from the `second` behind it."""

    first: Counts
    from_first: Counts
    second: Counts
    from_second: Counts

    @classmethod
    def of_one(cls, first: Counts, count: int) -> "_Ranges":
        """As many from the first range of each place, none from the second."""
        none = np.zeros_like(first)
        return cls(first, np.full_like(first, count), none, none)

    def are_sparse(self, num_taken: int = 0) -> bool:
        """Whether at most half of each range is drawn or taken: one that repeats soon does not."""
        return all(
            bool(((2 * (count + num_taken) <= size) | (count == 0)).all())
            for size, count in ((self.first, self.from_first), (self.second, self.from_second))
        )


def _draw_sparse(
    generator: np.random.Generator, ranges: _Ranges, taken: Positions | None = None
) -> Positions:
    """Distinct positions in random order, none of them taken: drawn again while they repeat."""
    num_places, count = len(ranges.first), int(ranges.from_first[0] + ranges.from_second[0])
    num_taken = 0 if taken is None else taken.shape[1]
    has_second = bool(ranges.from_second.any())
    size = np.broadcast_to(ranges.first[:, None], (num_places, count))
    begin = np.broadcast_to(np.int32(0), size.shape)
    if has_second:
        is_second = np.arange(count) < ranges.from_second[:, None]
        begin = np.where(is_second, size, begin)
        size = np.where(is_second, ranges.second[:, None], size)
    # Sorting 32 bits is several times as fast as 64; positions are sorted with their columns.
    limit = int((ranges.first + ranges.second).max()) * 2 * (num_taken + count)
    every = np.empty((num_places, num_taken + count), np.int32 if limit < 2**31 else np.int64)
    if taken is not None:
        every[:, :num_taken] = taken
    drawn = every[:, num_taken:]
    np.multiply(generator.random(drawn.shape), size, out=drawn, casting="unsafe")
    if has_second:
        drawn += begin.astype(every.dtype)
    # Only whether two are equal matters below, so every outcome without a repetition is as likely.
    place, column = _find_repeated(every, num_taken)
    while len(place) > 0:
        again = (generator.random(len(place)) * size[place, column]).astype(every.dtype)
        again += begin[place, column]
        drawn[place, column] = again
        if len(place) > num_places:  # too many to compare each with all of its place
            place, column = _find_repeated(every, num_taken)
        else:
            repeated = np.count_nonzero(every[place] == again[:, None], axis=1) > 1
            place, column = place[repeated], column[repeated]
    positions = drawn.astype(np.int64)
    return generator.permuted(positions, axis=1) if has_second else positions


def _find_repeated(
    every: Integer[np.ndarray, "P e"], num_taken: int
) -> tuple[Int64[np.ndarray, "r"], Int64[np.ndarray, "r"]]:
    """Places and columns of the positions that are in an earlier column of their place, too.

    The first `num_taken` columns are looked at and left out: columns count those behind them.
    """
    num_columns = every.shape[1]
    bits = num_columns.bit_length()
    keys = every << bits
    keys |= np.arange(num_columns, dtype=every.dtype)
    keys.sort(axis=1)
    found = np.flatnonzero((keys[:, 1:] ^ keys[:, :-1]) < 1 << bits)
    place, before = np.divmod(found, max(1, num_columns - 1))
    column = keys[place, before + 1] & ((1 << bits) - 1)
    if num_taken > 0:
        is_drawn = column >= num_taken
        return place[is_drawn], column[is_drawn] - num_taken
    return place, column


def _draw_dense(
    generator: np.random.Generator,
    first: int,
    from_first: int,
    second: int,
    from_second: int,
    taken: Int64[np.ndarray, "t"],
) -> Int64[np.ndarray, "count"]:
    """The same for one place, where much of a range is drawn, or more than there is."""
    gone = np.unique(taken)
    num_gone = int(gone.searchsorted(first))
    drawn = [
        draw_free(generator, first, from_first, gone[:num_gone]),
        first + draw_free(generator, second, from_second, gone[num_gone:] - first),
    ]
    return generator.permutation(np.concatenate(drawn))


def draw_free(
    generator: np.random.Generator, size: int, count: int, taken: Int64[np.ndarray, "t"]
) -> Int64[np.ndarray, "count"]:
    """`count` positions in [0, size), none of them taken and all distinct if there are enough.

    If there are not, it is as if none were taken. The order is not random: permute it.

    Args:
        generator: the only source of chance.
        size: of all positions, taken or free; at least 1, unless none is drawn.
        count: how many to draw.
        taken: distinct positions in rising order.
    """
    num_free = size - len(taken)
    if count > num_free:
        return generator.choice(size, count, replace=count > size)
    drawn = generator.choice(num_free, count, replace=False, shuffle=False)
    drawn.sort()  # so that the search below is fast
    # These count the free positions only: taken[i] - i free ones come before the i-th taken one,
    # and all behind them move on by it.
    drawn += (taken - np.arange(len(taken))).searchsorted(drawn, side="right")
    return drawn


def _draw_within(generator: np.random.Generator, size: Counts, count: int) -> Positions:
    """Positions in [0, size) in random order; where these are too few, each and some again."""
    ranges = _Ranges.of_one(size, count)
    if ranges.are_sparse():
        return _draw_sparse(generator, ranges)
    if size.min() == size.max() >= count:  # as where all episodes are equally long
        every = np.broadcast_to(np.arange(size[0]), (len(size), size[0]))
        return generator.permuted(every, axis=1)[:, :count]
    drawn = []
    for each in size.tolist():
        again = generator.choice(each, max(0, count - each), replace=count > 2 * each)
        drawn.append(generator.permutation(np.concatenate([np.arange(each), again]))[:count])
    return np.stack(drawn)


def _num_free(
    offline: Counts, online: Counts, count: int, taken: Positions, reachable: Counts
) -> tuple[Counts, Counts]:
    """How many offline and online rows are not taken, or all where these are too few to draw."""
    ordered = np.sort(taken, axis=1)
    is_distinct = np.ones(ordered.shape, bool)
    is_distinct[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    num_taken = is_distinct.sum(axis=1)
    num_online = (is_distinct & (ordered >= reachable[:, None])).sum(axis=1)
    enough = count <= offline + online - num_taken
    return offline - enough * (num_taken - num_online), online - enough * num_online


def _num_online(
    generator: np.random.Generator,
    count: int,
    offline: Counts,
    online: Counts,
    online_share: float | None,
) -> Counts:
    """How many of `count` rows are online ones, of so many offline and online ones."""
    enough = count <= offline + online
    if online_share is None:
        distinct = generator.hypergeometric(online, offline, np.where(enough, count, 0))
        repeated = generator.binomial(np.where(enough, 0, count), online / (offline + online))
        return distinct + repeated
    wanted = np.full_like(online, round(online_share * count))
    return np.where(enough, np.clip(wanted, count - offline, online), wanted)


def _choose_episodes(
    generator: np.random.Generator,
    reaches: Sequence[Reach],
    count: int,
    online_share: float | None,
) -> tuple[Positions, Positions]:
    """Where the episodes of each place's context begin and end; those that lack have no rows."""
    ranges = _episode_ranges(generator, reaches, count, online_share)
    numbers: Iterable[np.ndarray]  # of episodes, for each place
    if ranges.are_sparse() and bool((ranges.from_first + ranges.from_second == count).all()):
        numbers = _draw_sparse(generator, ranges)
    else:
        nothing = np.empty(0, np.int64)
        numbers = [_draw_dense(generator, *each, nothing) for each in zip(*ranges, strict=True)]
    begin = np.zeros((len(reaches), count), np.int64)
    end = np.zeros_like(begin)
    for place, (reach, chosen) in enumerate(zip(reaches, numbers, strict=True)):
        episodes = reach.offline_episodes
        if ranges.from_second[place] > 0:
            is_online = chosen >= ranges.first[place]
            within = episodes.at(chosen[~is_online])
            behind = reach.online_episodes.at(chosen[is_online] - ranges.first[place])
            episodes = Episodes.concatenate([within, behind.shifted(reach.num_reachable)])
            chosen = np.arange(len(episodes))
        begin[place, : len(chosen)] = episodes.begin[chosen]
        end[place, : len(chosen)] = episodes.end[chosen]
    return begin, end


def _episode_ranges(
    generator: np.random.Generator,
    reaches: Sequence[Reach],
    count: int,
    online_share: float | None,
) -> _Ranges:
    """How many offline and online episodes each place's context is of, and of how many."""
    offline = np.array([len(reach.offline_episodes) for reach in reaches])
    online = np.array([len(reach.online_episodes) for reach in reaches])
    from_online = np.zeros_like(online)
    if online.any() and online_share is None:
        over_time = np.array([reach.num_offline_episodes for reach in reaches])
        wanted = np.minimum(count, over_time + online)
        drawn = generator.hypergeometric(online, over_time, wanted)
        # Of the episodes over time, a stream has only some within reach.
        from_online = np.minimum(np.maximum(drawn, count - offline), online)
    elif online.any() and online_share is not None:
        is_online = (generator.random(len(online)) < online_share) & (online > 0)
        from_online = np.where(is_online, np.minimum(count, online), 0)
        offline = np.where(is_online, 0, offline)
    if ((from_online == 0) & (offline == 0)).any():
        raise ValueError(
            "a context must be drawn from at least one complete episode, no offline one is "
            "within reach: when streamed, an episode must lie within a row group; raise "
            "SamplerConfig.row_group_rows, or set context_episodes to null"
        )
    return _Ranges(offline, np.minimum(count - from_online, offline), online, from_online)
