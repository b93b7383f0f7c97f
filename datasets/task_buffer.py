"""One task's rows, offline and online, and how a draw is made up of both."""

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from causeway.datasets.episodes import Episodes, find_ends
from causeway.datasets.rows import ROW_DTYPE, RowSource, draw_others, draw_positions, gather


class TaskBuffer:
    """One task's rows: offline ones, which never change, and online ones, which only grow.

    One thread may append while another draws.
    """

    def __init__(self, offline: RowSource) -> None:
        self.offline = offline
        self._online = _GrowingArray(np.empty((0, offline.width), ROW_DTYPE))
        self._online_bounds = _GrowingArray(np.zeros(1, np.int64))  # of the online episodes

    @property
    def num_rows(self) -> int:
        """Offline and online rows together."""
        return self.offline.num_rows + len(self._online)

    @property
    def num_online_rows(self) -> int:
        """How many rows were appended."""
        return len(self._online)

    @property
    def width(self) -> int:
        """W, the number of columns of a row."""
        return self.offline.width

    def num_distinct_rows(self, online_share: float | None) -> int:
        """How many distinct rows one draw with this share of online rows can give."""
        return self.offline.num_rows if online_share == 0.0 else self.num_rows

    def append(self, rows: Float32[np.ndarray, "n W"]) -> None:
        """Adds rows to the online part, as a copy; amortised constant time for each."""
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(
                f"rows to append must have shape [n, {self.width}], got {rows.shape}: "
                "pack episodes with the RowLayout of the buffer's data set"
            )
        ends = self.num_online_rows + find_ends(rows)
        self._online.append(rows)
        self._online_bounds.append(ends)  # last: a drawing thread never sees an episode too early

    def online_rows(self) -> Float32[np.ndarray, "n W"]:
        """The online part in the order it was appended, read-only."""
        return self._online.view()

    def online_episodes(self) -> Episodes:
        """The whole episodes of the online part."""
        return Episodes.between(self._online_bounds.view())

    def draw(
        self, generator: np.random.Generator, count: int, online_share: float | None = None
    ) -> Float32[np.ndarray, "count W"]:
        """Rows in random order, distinct ones if the buffer holds enough; see `draw_into`."""
        rows = np.empty((count, self.width), ROW_DTYPE)
        self.draw_into(generator, rows, online_share=online_share)
        return rows

    def draw_offline(
        self, generator: np.random.Generator, count: int
    ) -> Float32[np.ndarray, "count W"]:
        """Rows of the offline part alone, distinct ones if it holds enough."""
        return self.draw(generator, count, online_share=0.0)

    def draw_into(
        self,
        generator: np.random.Generator,
        *parts: Float32[np.ndarray, "part W"],
        online_share: float | None,
    ) -> None:
        """Fills the parts with rows in random order, distinct across them if there are enough.

        Args:
            generator: the only source of chance.
            parts: what to fill.
            online_share: share of online rows, in [0, 1], as far as there are distinct ones; with
                0, none are drawn. None: every row of the buffer is as likely as any other.
        """
        online = self.online_rows()
        if len(online) == 0 or online_share == 0.0:
            self.offline.draw_into(generator, *parts)
            return
        count = sum(len(part) for part in parts)
        num_drawn_online = _num_online(
            generator, count, self.offline.num_rows, len(online), online_share
        )
        rows = np.empty((count, self.width), ROW_DTYPE)
        if num_drawn_online > 0:
            chosen = draw_positions(generator, len(online), num_drawn_online)
            gather(online, chosen, [rows[:num_drawn_online]])
        if num_drawn_online < count:
            self.offline.draw_into(generator, rows[num_drawn_online:])
        gather(rows, generator.permutation(count), parts)

    def draw_episodes_into(
        self,
        generator: np.random.Generator,
        context: Float32[np.ndarray, "K W"],
        transitions: Float32[np.ndarray, "B W"],
        *,
        num_episodes: int,
        online_share: float | None,
    ) -> None:
        """Fills a context with rows of a few whole episodes, and the transitions with other rows.

        The context's rows are distinct if its episodes have enough; if not, it has all of them and
        the rest are drawn again. The transitions are drawn as by `draw_into` from the rows that
        are not in the context, or from all rows if the others are too few.

        Args:
            generator: the only source of chance.
            context: what to fill with rows of whole episodes.
            transitions: what to fill with other rows.
            num_episodes: how many episodes the context is of; all, where there are no more.
            online_share: share of online rows in the transitions, and the probability that the
                context is of online episodes, if there are any; it is of offline ones otherwise.
                None: every row of the buffer is as likely to be a transition as any other, and
                every episode to be in the context.

        Raises:
            ValueError: if there is no whole episode within reach.
        """
        episodes = self.online_episodes()  # first: their rows are there once they are
        within = _Reach(self.offline, self.online_rows())
        chosen = self._choose_episodes(generator, episodes, num_episodes, online_share)
        drawn = chosen.draw_rows(generator, len(context))
        within.gather(drawn.positions, context)
        others = within.draw_others(
            generator, len(transitions), taken=drawn.distinct, online_share=online_share
        )
        within.gather(others, transitions)
        self.offline.advance(within.num_gathered_offline)

    def _choose_episodes(
        self,
        generator: np.random.Generator,
        online: Episodes,
        count: int,
        online_share: float | None,
    ) -> Episodes:
        """Those that a context is of, by the positions of `_Reach`."""
        offline = self.offline.episodes
        from_online = 0
        if len(online) > 0 and online_share is None:
            num_over_time = self.offline.num_episodes
            total = num_over_time + len(online)
            wanted = generator.hypergeometric(len(online), num_over_time, min(count, total))
            # Of the episodes over time, a stream has only some within reach.
            from_online = min(max(int(wanted), count - len(offline)), len(online))
        elif len(online) > 0 and online_share is not None and generator.random() < online_share:
            from_online = count
        if from_online == 0 and len(offline) == 0:
            raise ValueError(
                "a context must be drawn from at least one complete episode, no offline one is "
                "within reach: when streamed, an episode must lie within a row group; raise "
                "SamplerConfig.row_group_rows, or set context_episodes to null"
            )
        if from_online == 0:
            return offline.choose(generator, count)
        chosen = online.choose(generator, from_online).shifted(self.offline.num_reachable)
        if from_online == count:
            return chosen
        return Episodes.concatenate([offline.choose(generator, count - from_online), chosen])


class _GrowingArray:
    """Values that are only ever added, amortised; one thread may append while another views."""

    def __init__(self, first: Shaped[np.ndarray, "n *W"]) -> None:
        self._values = first
        self._count = len(first)

    def __len__(self) -> int:
        return self._count

    def append(self, values: Shaped[np.ndarray, "n *W"]) -> None:
        """Adds a copy of the values."""
        total = self._count + len(values)
        if total > len(self._values):
            length = max(total, 2 * len(self._values))
            grown = np.empty((length, *self._values.shape[1:]), self._values.dtype)
            grown[: self._count] = self._values[: self._count]
            self._values = grown
        self._values[self._count : total] = values
        self._count = total  # last: another thread never sees unwritten values

    def view(self) -> Shaped[np.ndarray, "n *W"]:
        """What was added so far, read-only; what is added later is not in it."""
        count = self._count  # first: the array may be replaced by a longer one
        values = self._values[:count]
        values.flags.writeable = False
        return values


class _Reach:
    """The rows that one draw can reach: the source's positions, and behind them the online rows."""

    def __init__(self, offline: RowSource, online: Float32[np.ndarray, "n W"]) -> None:
        self._offline = offline
        self._online = online
        self._num_offline = offline.num_reachable
        self.num_gathered_offline = 0

    def gather(
        self, positions: Int64[np.ndarray, "count"], into: Float32[np.ndarray, "count W"]
    ) -> None:
        """Fills an array with the rows at the positions."""
        is_online = positions >= self._num_offline
        num_online = int(np.count_nonzero(is_online))
        self.num_gathered_offline += len(positions) - num_online
        if num_online == 0:
            self._offline.take_into(positions, into)
            return
        gather(self._online, positions - self._num_offline, [into])  # offline ones: overwritten
        if num_online < len(positions):
            is_offline = ~is_online
            rows = np.empty((len(positions) - num_online, into.shape[1]), ROW_DTYPE)
            self._offline.take_into(positions[is_offline], rows)
            into[is_offline] = rows

    def draw_others(
        self,
        generator: np.random.Generator,
        count: int,
        *,
        taken: Int64[np.ndarray, "t"],
        online_share: float | None,
    ) -> Int64[np.ndarray, "count"]:
        """Positions as a draw from the buffer gives them, of rows that are not taken."""
        num_taken_offline = int(taken.searchsorted(self._num_offline))
        taken_offline = taken[:num_taken_offline]
        taken_online = taken[num_taken_offline:] - self._num_offline
        num_offline, num_online = self._offline.num_rows, len(self._online)
        if num_online == 0 or online_share == 0.0:
            offline = draw_others(generator, self._num_offline, count, taken_offline)
            return generator.permutation(offline)
        if count <= num_offline + num_online - len(taken):
            num_offline -= len(taken_offline)
            num_online -= len(taken_online)
        from_online = _num_online(generator, count, num_offline, num_online, online_share)
        offline = draw_others(generator, self._num_offline, count - from_online, taken_offline)
        online = draw_others(generator, len(self._online), from_online, taken_online)
        return generator.permutation(np.concatenate([offline, online + self._num_offline]))


def _num_online(
    generator: np.random.Generator,
    count: int,
    num_offline: int,
    num_online: int,
    online_share: float | None,
) -> int:
    """How many of `count` rows come from the online part, of so many rows to draw from."""
    enough = count <= num_offline + num_online
    if online_share is None:
        if enough:
            return int(generator.hypergeometric(num_online, num_offline, count))
        return int(generator.binomial(count, num_online / (num_offline + num_online)))
    wanted = round(online_share * count)
    if not enough:
        return wanted
    return min(max(wanted, count - num_offline), num_online)
