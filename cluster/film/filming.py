"""A policy's first and last episode in a few tasks, watched while it adapts."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from causeway.actors.evaluator import evaluate
from causeway.actors.tasks.family import Dynamics, Family, Starts, Step, Task, find_split
from causeway.actors.tasks.registry import load_family
from causeway.actors.watched import Watched, step_reward
from causeway.cluster.checkpoint import Checkpoint
from causeway.cluster.config import RunConfig
from causeway.cluster.film.cameras import Camera, FilmError, Picture, find_camera
from causeway.cluster.learner import checkpoint_policy, row_layout
from causeway.cluster.report.style import spread

TASKS = 3  # that are chosen where none are named
MAX_TASKS = 8  # side by side
FRAMES_PER_S = 20.0  # at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One environment at one moment."""

    picture: Picture
    earned: float  # of the episode so far, with true rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Some tasks' first and last episodes; each is as long as it lasted."""

    tasks: tuple[Task, ...]
    num_episodes: int  # the last one's number
    first: tuple[tuple[Shot, ...], ...]  # of each task
    last: tuple[tuple[Shot, ...], ...]
    frame_s: float  # how long a shot is to be shown

    @property
    def num_frames(self) -> int:
        """Of the longest episode."""
        return max(len(shots) for shots in (*self.first, *self.last))


def film_adaptation(
    run: RunConfig,
    checkpoint: Checkpoint,
    task_ids: Sequence[int] | None,
    *,
    width: int,
    height: int,
    speed: float,
    progress: Callable[[int, int], None],
) -> Film:
    """Films what the run's policy does while it adapts under its online protocol.

    Args:
        run: its configuration.
        checkpoint: the weights.
        task_ids: of the run's split, held out or not; None takes some of the held-out ones.
        width: of one picture, in pixels.
        height: of one picture.
        speed: seconds of the environment in one of the film.
        progress: told how many of how many environment steps are done.

    Raises:
        FilmError: a task is not there, or the environments cannot be filmed.
    """
    family = load_family(run.data.family)
    tasks = _choose(family, run.data.split, task_ids)
    layout = row_layout(run, family)
    config = dataclasses.replace(run.evaluation, repeats=1)
    dynamics = family.dynamics([task.dynamics for task in tasks])
    camera = find_camera(
        dynamics, tasks, planar=family.observation_size == 2, width=width, height=height
    )
    every = max(1, round(speed / FRAMES_PER_S / camera.step_s))
    filmed = _Filmed(dynamics, family, tasks, camera, every, config.episodes, progress)
    evaluate(
        checkpoint_policy(run, checkpoint, layout),
        family,
        tasks,
        layout=layout,
        protocol=config.online_protocol,
        config=config,
        seed=run.run.seed,
        offline_contexts=None,
        dynamics=filmed,
    )
    first, last = filmed.shots
    return Film(
        tasks=tasks,
        num_episodes=config.episodes,
        first=first,
        last=last,
        frame_s=every * camera.step_s / speed,
    )


class _Filmed(Watched):
    """Dynamics that are looked at in their first and last episode, and do what they did."""

    def __init__(
        self,
        dynamics: Dynamics,
        family: Family,
        tasks: Sequence[Task],
        camera: Camera,
        every: int,
        episodes: int,
        progress: Callable[[int, int], None],
    ) -> None:
        super().__init__(dynamics)
        self._family, self._camera = family, camera
        self._rewards = [task.reward for task in tasks]
        self._every, self._episodes, self._progress = every, episodes, progress
        self._filmed: list[list[list[Shot]]] = []  # of each filmed episode, of each environment
        self._episode = 0

    @property
    def shots(self) -> tuple[tuple[tuple[Shot, ...], ...], ...]:
        """Of each filmed episode, of each environment."""
        return tuple(tuple(map(tuple, episode)) for episode in self._filmed)

    def reset(self, generators: Starts) -> Float32[np.ndarray, "N O"]:
        """Starts an episode in every environment."""
        observation = super().reset(generators)
        self._earned = np.zeros(self.num_envs)
        self._env_steps = 0
        self._films = self._episode in (0, self._episodes - 1)
        self._episode += 1
        if self._films:
            self._filmed.append([[] for _ in range(self.num_envs)])
            self._shoot(self._running)
        return observation

    def step(self, action: Float32[np.ndarray, "N A"]) -> Step:
        """One time step in every environment."""
        step = super().step(action)
        assert self.last is not None
        counts = self.last.counts
        reward = step_reward(self._family, self._rewards, self.last)
        self._earned += np.where(counts, reward, 0.0)
        self._env_steps += 1
        if self._films:
            self._shoot(counts if self._env_steps % self._every == 0 else counts & step.ended)
        done = (self._episode - 1) * self._family.horizon + self._env_steps
        self._progress(done, self._episodes * self._family.horizon)
        return step

    def _shoot(self, which: np.ndarray) -> None:
        for env in np.flatnonzero(which).tolist():
            picture = self._camera.look(env, self._observation[env], self._env_steps)
            shot = Shot(picture=picture, earned=float(self._earned[env]))
            self._filmed[-1][env].append(shot)


def _choose(family: Family, split_name: str, task_ids: Sequence[int] | None) -> tuple[Task, ...]:
    split = find_split(family, split_name)
    if task_ids is None:
        return tuple(split.test[place] for place in spread(len(split.test), TASKS))
    if len(task_ids) > MAX_TASKS:
        raise FilmError(f"tasks must be at most {MAX_TASKS}, side by side, got {len(task_ids)}")
    by_id = {task.id: task for task in split.tasks}
    unknown = sorted(set(task_ids) - set(by_id))
    if unknown or not task_ids:
        raise FilmError(
            f"tasks must be some of the split {split_name!r} of {family.name}, got "
            f"{unknown or 'none'}: it has {_ranges(sorted(by_id))}, of which "
            f"{_ranges(sorted(task.id for task in split.test))} are held out"
        )
    return tuple(by_id[task_id] for task_id in task_ids)


def _ranges(ids: Sequence[int]) -> str:
    """Rising numbers as `0 to 3, 7`."""
    breaks = [n for n in range(1, len(ids)) if ids[n] != ids[n - 1] + 1]
    runs = [ids[a:b] for a, b in zip([0, *breaks], [*breaks, len(ids)], strict=True)]
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
