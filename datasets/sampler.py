"""From tasks' rows to meta-batches: tasks, and for each a context and, apart from it, transitions.

Whatever is drawn depends on the seed and on the rows, never on global random state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from causeway.datasets.batches import MetaBlock
from causeway.datasets.draws import Positions, draw_contexts, draw_rows, draw_stretches
from causeway.datasets.memory import RecycledMemory
from causeway.datasets.reach import Reach
from causeway.datasets.rows import ROW_DTYPE, generator_state
from causeway.datasets.task_buffer import TaskBuffer

PLACES_AT_ONCE = 512  # more of them spare no more of numpy's overhead


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How meta-batches are drawn, and how much memory the rows may take."""

    tasks_per_batch: int = 4  # N
    transitions_per_task: int = 128  # B
    context_per_task: int = 64  # K; 0 for what reads none
    distinct_tasks: bool = False  # whether a meta-batch may hold a task only once
    context_episodes: int | None = None  # M, whole ones, that a context is of; None: of any rows
    context_in_order: bool = False  # a context of episodes is consecutive rows, in time order
    stretches: bool = False  # context and transitions are each rows that follow one another
    online_share: float | None = None  # of a draw's rows; None: uniform over the grown buffer
    mode: Literal["auto", "mapped", "streamed"] = "auto"  # auto: mapped if the budget allows it
    memory_budget_bytes: int = 2 << 30  # for all offline rows, mapped or streamed
    pool_row_groups: int = 4  # per task, when streamed
    row_group_rows: int = 4096  # at most, when streamed; fewer if the budget is small
    reuse: float = 2.0  # draws of a row, on average, before its group is replaced

    def __post_init__(self) -> None:
        for name in (
            "tasks_per_batch",
            "transitions_per_task",
            "memory_budget_bytes",
            "pool_row_groups",
            "row_group_rows",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"SamplerConfig.{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.context_per_task < 0:
            raise ValueError(
                f"SamplerConfig.context_per_task must be at least 0, got {self.context_per_task}"
            )
        if (
            self.context_episodes is not None
            and not 1 <= self.context_episodes <= self.context_per_task
        ):
            raise ValueError(
                "SamplerConfig.context_episodes must lie between 1 and context_per_task "
                f"({self.context_per_task}) or be null (context rows from anywhere), got "
                f"{self.context_episodes}: a context has no more episodes than rows"
            )
        if self.online_share is not None and not 0.0 <= self.online_share <= 1.0:
            raise ValueError(
                "SamplerConfig.online_share must lie in [0, 1] or be null (uniform over offline "
                f"and online rows), got {self.online_share}"
            )
        if self.context_in_order and self.context_episodes is None:
            raise ValueError(
                "SamplerConfig.context_in_order must be false where context_episodes is null: rows "
                "from anywhere have no order; set context_episodes to 1 or more"
            )
        if self.stretches and (self.context_episodes is not None or self.online_share is not None):
            raise ValueError(
                "SamplerConfig.stretches must be false with context_episodes or online_share, got "
                f"context_episodes {self.context_episodes} and online_share {self.online_share}: "
                "a stretch lies wherever it is drawn; set the other two to null"
            )
        if self.mode not in ("auto", "mapped", "streamed"):
            raise ValueError(
                f"SamplerConfig.mode must be auto, mapped or streamed, got {self.mode!r}"
            )
        per_draw = self.context_per_task + self.transitions_per_task
        if (self.pool_row_groups - 1) * self.row_group_rows < per_draw:
            raise ValueError(
                "SamplerConfig.pool_row_groups - 1 groups of row_group_rows rows must hold "
                f"context_per_task + transitions_per_task ({per_draw}) rows, got "
                f"{self.pool_row_groups} groups of {self.row_group_rows}: raise either"
            )
        if not self.reuse > 0.0:
            raise ValueError(
                f"SamplerConfig.reuse must be positive, got {self.reuse}: 1 draws each row about "
                "once before its row group is replaced"
            )


class MetaSampler:
    """Draws meta-batches, task-balanced, from the tasks' buffers.

    Tasks are drawn uniformly, with replacement unless the configuration says otherwise. A task's
    context and transitions are drawn together as K + B distinct rows and then parted, so no
    transition is in both; a buffer with fewer rows than that is drawn from twice, independently.

    With `context_episodes`, a context is instead of that many whole episodes, as at adaptation it
    is of one exploration; see `draw_contexts`. With `context_in_order` too, it is consecutive
    rows of these, in time order. With `stretches`, context and transitions are rows in time order;
    see `draw_stretches`.

    Args:
        buffers: by task id; they may grow while the sampler is in use.
        config: sizes and shares.
        seed: with the buffers, determines everything that is drawn.
    """

    def __init__(self, buffers: Mapping[int, TaskBuffer], config: SamplerConfig, seed: int) -> None:
        _check_buffers(buffers, config)
        self._buffers = dict(sorted(buffers.items()))
        self._tasks = np.array(list(self._buffers), np.int64)
        self._width = next(iter(self._buffers.values())).width
        self._config = config
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._memory = RecycledMemory()
        self._places_at_once = _places_at_once(self._buffers, config)

    @property
    def online_share(self) -> float:
        """The expected share of online rows among the transitions drawn next."""
        shares = [_expected_online_share(buffer, self._config) for buffer in self._buffers.values()]
        return float(np.mean(shares))

    def sample_block(self, updates: int) -> MetaBlock:
        """The meta-batches of the next `updates` updates."""
        config = self._config
        task = self._draw_tasks(updates)
        context, transitions = self._memory.arrays(
            [
                (*task.shape, config.context_per_task, self._width),
                (*task.shape, config.transitions_per_task, self._width),
            ],
            ROW_DTYPE,
        )
        places, at_once = task.ravel(), self._places_at_once
        for begin in range(0, len(places), at_once):
            part = slice(begin, begin + at_once)
            self._fill(
                places[part],
                context.reshape(len(places), *context.shape[2:])[part],
                transitions.reshape(len(places), *transitions.shape[2:])[part],
            )
        return MetaBlock(task=task, context=context, transitions=transitions)

    def state_dict(self) -> dict[str, Any]:
        """The random state and the streams' positions, in JSON's types.

        The rows are not in it: give the same buffers, online rows included, for the continuation
        to equal the uninterrupted run.
        """
        return {
            "generator": generator_state(self._generator),
            "sources": {
                str(task): buffer.offline.state_dict() for task, buffer in self._buffers.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        saved, ours = sorted(state["sources"]), sorted(map(str, self._buffers))
        if saved != ours:
            raise ValueError(
                f"the sampler's saved tasks must be the buffers' {ours}, got {saved}: "
                "continue with the data that the state was saved with"
            )
        self._generator.bit_generator.state = state["generator"]
        for task, buffer in self._buffers.items():
            buffer.offline.load_state_dict(state["sources"][str(task)])

    def _draw_tasks(self, updates: int) -> Int64[np.ndarray, "U N"]:
        per_batch = self._config.tasks_per_batch
        if not self._config.distinct_tasks:
            return self._tasks[
                self._generator.integers(len(self._tasks), size=(updates, per_batch))
            ]
        every = np.tile(self._tasks, (updates, 1))
        return self._generator.permuted(every, axis=1)[:, :per_batch].copy()

    def _fill(
        self,
        task: Int64[np.ndarray, "P"],
        context: Float32[np.ndarray, "P K W"],
        transitions: Float32[np.ndarray, "P B W"],
    ) -> None:
        of_task = {each: self._buffers[each].reach() for each in dict.fromkeys(task.tolist())}
        reaches = [of_task[each] for each in task.tolist()]
        positions = self._choose(reaches)
        for chosen, rows in zip(positions, (context, transitions), strict=True):
            if rows.shape[1] > 0:
                for reach, at, into in zip(reaches, chosen, rows, strict=True):
                    reach.gather(at, into)
        for reach in of_task.values():  # last: positions hold until then
            reach.advance()

    def _choose(self, reaches: Sequence[Reach]) -> tuple[Positions, Positions]:
        """The positions of each place's context, and of its transitions."""
        config = self._config
        if config.stretches:
            sizes = (config.context_per_task, config.transitions_per_task)
            return draw_stretches(self._generator, reaches, *sizes)
        if config.context_episodes is not None:
            return self._choose_episodes(reaches)
        return self._choose_rows(reaches)

    def _choose_rows(self, reaches: Sequence[Reach]) -> tuple[Positions, Positions]:
        """The positions of contexts of any rows, and of the transitions."""
        generator, share = self._generator, self._config.online_share
        context, transitions = self._config.context_per_task, self._config.transitions_per_task
        of_both = context + transitions
        enough = [reach.num_distinct(share) >= of_both for reach in dict.fromkeys(reaches)]
        if all(enough):
            positions = draw_rows(generator, reaches, of_both, online_share=share)
            return positions[:, :context], positions[:, context:]
        if any(enough):
            apart = [self._choose_rows([reach]) for reach in reaches]
            return np.concatenate([c for c, _ in apart]), np.concatenate([t for _, t in apart])
        return (
            draw_rows(generator, reaches, context, online_share=share),
            draw_rows(generator, reaches, transitions, online_share=share),
        )

    def _choose_episodes(self, reaches: Sequence[Reach]) -> tuple[Positions, Positions]:
        """The positions of contexts of whole episodes, and of the transitions."""
        config = self._config
        assert config.context_episodes is not None
        context = draw_contexts(
            self._generator,
            reaches,
            config.context_per_task,
            num_episodes=config.context_episodes,
            online_share=config.online_share,
            in_order=config.context_in_order,
        )
        transitions = draw_rows(
            self._generator,
            reaches,
            config.transitions_per_task,
            online_share=config.online_share,
            taken=context,
        )
        return context, transitions


def _places_at_once(buffers: Mapping[int, TaskBuffer], config: SamplerConfig) -> int:
    """How many places are drawn together: a stream moves on only behind all of them.

    So one that is drawn from for several of them is to stay about where it is: what they draw from
    it, on average, is not to use up a row group.
    """
    sources = [buffer.offline for buffer in buffers.values()]
    pools = [each.num_reachable for each in sources if each.num_reachable < each.num_rows]
    at_once = PLACES_AT_ONCE
    if pools:
        rows_per_group = min(pools) / config.pool_row_groups
        rows_per_draw = config.context_per_task + config.transitions_per_task
        draws_per_group = int(config.reuse * rows_per_group / rows_per_draw)
        at_once = min(at_once, len(buffers) * draws_per_group)
    return max(config.tasks_per_batch, at_once)


def _check_buffers(buffers: Mapping[int, TaskBuffer], config: SamplerConfig) -> None:
    if not buffers:
        raise ValueError("MetaSampler.buffers must hold at least one task, got none")
    empty = [task for task, buffer in buffers.items() if buffer.num_rows == 0]
    if empty:
        raise ValueError(
            f"MetaSampler.buffers must hold rows for every task, those of {empty} are empty: "
            "leave these tasks out"
        )
    if config.context_episodes is not None:
        _check_episodes(buffers)
    widths = {buffer.width for buffer in buffers.values()}
    if len(widths) > 1:
        raise ValueError(
            f"MetaSampler.buffers must share one row width, got {sorted(widths)}: "
            "tasks of one sampler come from one family"
        )
    if config.distinct_tasks and config.tasks_per_batch > len(buffers):
        raise ValueError(
            f"SamplerConfig.tasks_per_batch must be at most the number of tasks ({len(buffers)}) "
            f"with distinct_tasks, got {config.tasks_per_batch}: lower it or allow repeated tasks"
        )


def _check_episodes(buffers: Mapping[int, TaskBuffer]) -> None:
    without = [task for task, buffer in buffers.items() if len(buffer.offline.episodes) == 0]
    if without:
        raise ValueError(
            "MetaSampler.buffers must hold at least one complete offline episode for every task "
            f"with SamplerConfig.context_episodes, those of {without} hold none: an episode's last "
            "row must be flagged terminated or truncated and, when streamed, the episode lie "
            "within a row group; raise row_group_rows, or set context_episodes to null"
        )


def _expected_online_share(buffer: TaskBuffer, config: SamplerConfig) -> float:
    if config.online_share is None:
        return buffer.num_online_rows / buffer.num_rows
    return config.online_share if buffer.num_online_rows > 0 else 0.0
