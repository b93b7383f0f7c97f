"""A lifetime's replay: every transition of every task, drawn with any task's own reward."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64, Int64

from causeway.actors.rounds import Round
from causeway.actors.tasks.family import Family, Task
from causeway.datasets.batches import RowLayout


class Replay:
    """All rows of a lifetime in memory, in the order in which they came.

    Args:
        family: whose rewards.
        tasks: all of them; rounds name them by their places here.
        capacity: rows to make room for.
    """

    def __init__(self, family: Family, tasks: Sequence[Task], capacity: int) -> None:
        self.layout = RowLayout(family.observation_size, family.action_size)
        self._family = family
        self._rewards = [task.reward for task in tasks]
        self._rows = np.empty((capacity, self.layout.width + family.measurement_size), np.float32)
        self._places: list[list[Int64[np.ndarray, _]]] = [[] for _ in tasks]
        self._of_task: list[Int64[np.ndarray, _]] = []
        self._sums = np.zeros((2, family.observation_size))
        self.count = 0
        self.rounds: list[Round] = []

    def add(self, played: Round) -> None:
        """Takes a round in."""
        begin, end = self.count, self.count + len(played.rows)
        if end > len(self._rows):
            raise ValueError(
                f"the replay has room for {len(self._rows)} rows, got {end}: ask for more capacity"
            )
        self._rows[begin:end] = played.rows
        by_row = np.repeat(played.task, played.length)
        for place, listed in enumerate(self._places):
            listed.append(begin + np.flatnonzero(by_row == place))
        self._of_task = [np.concatenate(listed) for listed in self._places]
        self._places = [[rows] for rows in self._of_task]
        observation = played.rows[:, : self.layout.observation_size].astype(np.float64)
        self._sums += np.stack([observation.sum(0), np.square(observation).sum(0)])
        self.count = end
        self.rounds.append(replace(played, rows=self._rows[begin:end]))

    def moments(self) -> tuple[Float64[np.ndarray, "O"], Float64[np.ndarray, "O"]]:
        """Mean and standard deviation of all observations so far."""
        mean, square = self._sums / max(1, self.count)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0))

    def draw(
        self,
        generator: np.random.Generator,
        *,
        num_tasks: int,
        transitions_per_task: int,
        own_share: float,
    ) -> tuple[Int64[np.ndarray, "N"], Float32[np.ndarray, "N B W"]]:
        """Transitions for an update, each with the reward of the task it is drawn for.

        Args:
            generator: of all draws.
            num_tasks: N; all tasks are drawn equally often.
            transitions_per_task: B.
            own_share: of a task's transitions, those that were gathered in it. The others are any
                task's, rewarded anew; where tasks differ in their dynamics it must be 1.

        Returns:
            The tasks by their places, and rows as `RowLayout` says.
        """
        known = np.array([i for i, rows in enumerate(self._of_task) if len(rows)])
        repeats = -(-num_tasks // len(known))
        drawn = np.concatenate([generator.permutation(known) for _ in range(repeats)])[:num_tasks]
        num_own = round(own_share * transitions_per_task)
        index = np.empty((num_tasks, transitions_per_task), np.int64)
        share = generator.random((num_tasks, num_own))
        for place, task in enumerate(drawn.tolist()):
            mine = self._of_task[task]
            index[place, :num_own] = mine[(share[place] * len(mine)).astype(np.int64)]
        others = (num_tasks, transitions_per_task - num_own)
        index[:, num_own:] = generator.integers(0, self.count, others)
        rows = self._rows[index]  # [N, B, W + M]
        if num_own < transitions_per_task:
            self._reward(drawn, rows[:, num_own:])
        return drawn, rows[..., : self.layout.width]

    def rewarded_for(
        self, task: int, rows: Float32[np.ndarray, "T V"]
    ) -> Float32[np.ndarray, "T V"]:
        """A copy of a round's rows, of whatever task, with the rewards of this one by its place."""
        rewarded = rows.copy()
        self._reward(np.array([task]), rewarded[None])
        return rewarded

    def _reward(self, tasks: Int64[np.ndarray, "N"], rows: Float32[np.ndarray, "N B V"]) -> None:
        """Gives the rows, in place, the rewards of other tasks than they were gathered in."""
        o, a = self.layout.observation_size, self.layout.action_size
        rows[..., o + a] = self._family.reward(
            [self._rewards[task] for task in tasks.tolist()],
            rows[..., :o],
            rows[..., o : o + a],
            rows[..., o + a + 1 : 2 * o + a + 1],
            rows[..., self.layout.width :].astype(np.float64),
        )
