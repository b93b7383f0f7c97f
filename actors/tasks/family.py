"""What a family of tasks is: one robot, many rewards or many bodies, and the two kept apart.

A family hands out dynamics and rewards through different doors. Who collects unlabelled data goes
through the first one only, with no reward parameter in hand: there is nothing it could peek at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64

from causeway.datasets.batches import Episode, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One draw from a family: what it asks for, and what its body is like."""

    id: int
    reward: Mapping[str, float] = field(
        default_factory=dict
    )  # such as a goal: never collected with
    dynamics: Mapping[str, float] = field(default_factory=dict)  # such as masses

    @property
    def parameters(self) -> dict[str, float]:
        """Every parameter by name, for a manifest or a figure."""
        return {**self.reward, **self.dynamics}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The tasks that are trained on, and those that are held out."""

    train: tuple[Task, ...]
    test: tuple[Task, ...]

    def __post_init__(self) -> None:
        ids = [task.id for task in self.tasks]
        if len(set(ids)) != len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise ValueError(
                f"Split needs a different id for every task, got {twice} more than once: "
                "number train and test tasks in one sequence"
            )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Train tasks, then test tasks."""
        return self.train + self.test


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What N environments answer to N actions. There is no reward in it.

    The measurement is what a true reward reads and a policy does not see, such as how fast a torso
    moved. It is the body's, alike for every reward: no reward parameter goes into it.

    A simulation may diverge, that is, lose its state to numbers that are not finite. A step that
    did so is marked, what it answers belongs to no episode, and the environment has ended.
    """

    next_observation: Float32[np.ndarray, "N O"]
    measurement: Float64[np.ndarray, "N M"]  # of this step; M may be 0
    terminated: Bool[np.ndarray, "N"]
    truncated: Bool[np.ndarray, "N"]
    diverged: Bool[np.ndarray, "N"] | None = None  # None where a simulation cannot

    @property
    def ended(self) -> Bool[np.ndarray, "N"]:
        """Where this step is an episode's last, for whatever reason."""
        ended: np.ndarray = self.terminated | self.truncated
        return ended if self.diverged is None else ended | self.diverged


Starts = np.random.Generator | Sequence[np.random.Generator]
"""What N environments' starts are drawn from: one generator, in their order, or N of them."""


def one_for_each(generators: Starts, num_envs: int) -> Sequence[np.random.Generator]:
    """One generator for each environment; it may be the same for all."""
    if isinstance(generators, np.random.Generator):
        return [generators] * num_envs
    if len(generators) != num_envs:
        raise ValueError(
            f"generators must be one, or one for each of {num_envs} environments, "
            f"got {len(generators)}"
        )
    return generators


@runtime_checkable
class Dynamics(Protocol):
    """N environments that are stepped together and hold no reward.

    An environment that has ended may be stepped further until all have; what it answers then
    means nothing, and callers drop it. `reset` forgets everything that came before.
    """

    @property
    def num_envs(self) -> int:
        """N, the number of environments."""
        ...

    def reset(self, generators: Starts) -> Float32[np.ndarray, "N O"]:
        """Starts an episode in every environment; every draw comes from its generator."""
        ...

    def step(self, action: Float32[np.ndarray, "N A"]) -> Step:
        """One time step in every environment, for actions in [-1, 1]."""
        ...


@runtime_checkable
class RestartableDynamics(Dynamics, Protocol):
    """Dynamics whose environments need not all start at once.

    Collection and evaluation, episode by episode, make do with `Dynamics`.
    """

    def restart(
        self, ended: Bool[np.ndarray, "N"], generators: Starts
    ) -> Float32[np.ndarray, "N O"]:
        """Starts a new episode in the marked environments and leaves the others as they are.

        Args:
            ended: where to start one.
            generators: one, from which the marked environments draw in their order, or one for
                each of the N environments.

        Returns:
            The observations of all N environments.
        """
        ...


@runtime_checkable
class Family(Protocol):
    """A distribution of tasks over one robot."""

    name: str
    observation_size: int
    action_size: int
    measurement_size: int  # M; 0 where observations and actions tell all that rewards need
    horizon: int  # environment steps after which an episode is truncated

    def splits(self) -> Mapping[str, Split]:
        """The named splits; the first one is the default."""
        ...

    def dynamics(self, tasks_dynamics: Sequence[Mapping[str, float]]) -> Dynamics:
        """One environment per entry, each with its own dynamics parameters.

        Best a static method: whoever is given it then holds neither rewards nor splits.
        """
        ...

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: Float32[np.ndarray, "N *rest O"],
        action: Float32[np.ndarray, "N *rest A"],
        next_observation: Float32[np.ndarray, "N *rest O"],
        measurement: Float64[np.ndarray, "N *rest M"],
    ) -> Float32[np.ndarray, "N *rest"]:
        """The true rewards of N tasks' transitions; axes such as time may stand after the first."""
        ...

    def optimal_return(self, task: Task) -> float | None:
        """The largest undiscounted return of one episode, or None where it is not known."""
        ...


def with_true_reward(family: Family, task: Task, trajectory: Trajectory) -> Episode:
    """The trajectory with the rewards that the task gives for it.

    Raises:
        ValueError: the family's rewards need a measurement that the trajectory no longer has.
    """
    measurement = trajectory.measurement
    if measurement is None:
        if family.measurement_size > 0:
            raise ValueError(
                f"a true reward of family {family.name!r} needs the trajectory's measurement, got "
                "None: it is not kept in files or by collectors, so reward the trajectory where "
                "its environments were stepped"
            )
        measurement = np.zeros((len(trajectory), 0))
    rewards = family.reward(
        [task.reward],
        trajectory.observation[None],
        trajectory.action[None],
        trajectory.next_observation[None],
        measurement[None],
    )
    return trajectory.labelled(np.asarray(rewards[0], np.float32))


def find_split(family: Family, name: str) -> Split:
    """The family's split of that name.

    Raises:
        ValueError: there is none; the message lists those that exist.
    """
    splits = family.splits()
    if name not in splits:
        raise ValueError(
            f"split of family {family.name!r} must be one of {', '.join(splits)}, got {name!r}"
        )
    return splits[name]


def missing_members(candidate: Any) -> list[str]:
    """The members of `Family` that the candidate lacks, in the order of their declaration."""
    members = [*Family.__annotations__, "splits", "dynamics", "reward", "optimal_return"]
    return [member for member in members if not hasattr(candidate, member)]
