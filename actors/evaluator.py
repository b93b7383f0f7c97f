"""Evaluation: what a policy earns in tasks it adapts to, episode by episode.

Every task is repeated, and all repetitions of all tasks run side by side as one batch of
environments. Within a run, episodes follow each other: the policy is deterministic, its belief
stands still inside an episode, and between episodes it is inferred anew from the context that the
protocol gives. Evaluation holds the true reward; collection does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from causeway.actors.adaptive_rollout import rollout_adapting
from causeway.actors.contexts import (
    Moment,
    Protocol,
    Rows,
    find_protocol,
    offline_shifted,
    stack_contexts,
)
from causeway.actors.rollout import Generators, LatentPer, check_choice, rollout, run_episodes
from causeway.actors.shifted import shifted_contexts
from causeway.actors.summary import Summary, summarise
from causeway.actors.tasks.family import Dynamics, Family, Task, with_true_reward
from causeway.datasets.batches import Episode, RowLayout, Trajectory
from causeway.datasets.draws import subsample
from causeway.datasets.policy import AdaptivePolicy, reads_in_order

SHIFTED_EPISODES = 8  # of another task's behaviour, that contexts are drawn from

OfflineProtocol = Literal["offline", "offline_shifted"]
OnlineProtocol = Literal["online_prior", "online_random", "online_filtered"]
BeliefPer = Literal["episode", "step"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How adaptation is measured. Defaults are the SMAC authors'."""

    repeats: int = 4  # runs per task
    episodes: int = 3  # per run
    prior_episodes: int = 2  # of these, on the prior; under `online_prior`
    context_size: int | None = 64  # transitions; more are subsampled to it, None takes all
    latent_per: LatentPer = "trajectory"
    offline_protocol: OfflineProtocol = "offline"  # of `offline_context_return`
    online_protocol: OnlineProtocol = "online_prior"  # of the other returns
    belief_per: BeliefPer = "episode"  # step: a belief follows each of its episode's steps
    kept_share: float = 0.5  # of the episodes gathered; under `online_filtered`

    def __post_init__(self) -> None:
        for name in ("repeats", "episodes", "context_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"EvaluationConfig.{name} must be at least 1, got {value}")
        if not 1 <= self.prior_episodes < self.episodes:
            raise ValueError(
                "EvaluationConfig.prior_episodes must be at least 1 and below episodes "
                f"({self.episodes}), got {self.prior_episodes}: a context needs an episode that "
                "gathers it, and one that uses it"
            )
        check_choice("EvaluationConfig", "latent_per", LatentPer, self.latent_per)
        check_choice("EvaluationConfig", "belief_per", BeliefPer, self.belief_per)
        for name, choices in (
            ("offline_protocol", OfflineProtocol),
            ("online_protocol", OnlineProtocol),
        ):
            check_choice("EvaluationConfig", name, choices, getattr(self, name))
        if not 0.0 < self.kept_share <= 1.0:
            raise ValueError(
                f"EvaluationConfig.kept_share must lie in (0, 1], got {self.kept_share}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What every run of every task earned. S tasks, R repeats, M episodes."""

    protocol: str
    tasks: tuple[Task, ...]
    returns: Float64[np.ndarray, "S R M"]  # undiscounted
    paths_first: tuple[Float32[np.ndarray, "_ O"], ...]  # observations of a task's first run
    paths_last: tuple[Float32[np.ndarray, "_ O"], ...]
    prior: Float32[np.ndarray, "N 2 Z"] | None  # mean and variance, where beliefs are Gaussian
    belief: Float32[np.ndarray, "N 2 Z"] | None  # of the last episode; runs of a task adjoin

    @property
    def prior_return(self) -> Summary:
        """The first episode's return, before any context."""
        if self.protocol.startswith("offline"):
            raise ValueError(
                f"under the protocol {self.protocol!r} no episode acts on the prior: "
                "evaluate under 'online_prior' for the return before adaptation"
            )
        return self.episode_return(0)

    @property
    def adapted_return(self) -> Summary:
        """The last episode's return, after adaptation: the headline."""
        return self.episode_return(-1)

    def episode_return(self, episode: int) -> Summary:
        """The return of one of the episodes, mean over repeats."""
        return summarise(self.returns[:, :, episode].mean(axis=1))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; paths only where an observation is a point in the plane."""
        planar = all(path.shape[1] == 2 for path in self.paths_first)
        return {
            "protocol": self.protocol,
            "task_ids": [task.id for task in self.tasks],
            "task_parameters": [task.parameters for task in self.tasks],
            "returns": self.returns.tolist(),
            "paths_first": [path.tolist() for path in self.paths_first] if planar else [],
            "paths_last": [path.tolist() for path in self.paths_last] if planar else [],
        }


def evaluate(
    policy: AdaptivePolicy,
    family: Family,
    tasks: Sequence[Task],
    *,
    layout: RowLayout,
    protocol: str,
    config: EvaluationConfig,
    seed: int,
    offline_contexts: Mapping[int, Rows] | None,
    dynamics: Dynamics | None = None,
) -> Evaluation:
    """The returns of the policy's adaptation to each of the tasks.

    Args:
        policy: what adapts and acts.
        family: where the tasks come from, with their true rewards.
        tasks: at least one; held-out ones, as a rule.
        layout: how a context's transitions lie in rows; with outcomes where the policy reads them.
        protocol: how adaptation data is gathered, a name of `contexts.protocols`.
        config: how long, how often, how large a context.
        seed: results depend on it and on nothing else that is random; evaluations under one seed
            share their starts and prior draws, so that two policies compare with less noise.
        offline_contexts: labelled transitions by task id; what `offline` needs.
        dynamics: the environments, if somebody is to watch them: those of the tasks, each as often
            as it is repeated, repetitions adjoining. None: the family's.

    Returns:
        Returns per task, repeat and episode, paths and beliefs.
    """
    if not tasks:
        raise ValueError("evaluate needs at least one task, got none")
    runs = _Runs(
        policy,
        family,
        tasks,
        layout,
        config,
        find_protocol(protocol),
        offline_contexts or {},
        seed,
        dynamics,
    )
    history = [runs.next_episode() for _ in range(config.episodes)]
    returns = np.array([[one.undiscounted_return for one in episodes] for episodes in history])
    return Evaluation(
        protocol=protocol,
        tasks=tuple(tasks),
        returns=returns.T.reshape(len(tasks), config.repeats, config.episodes),
        paths_first=tuple(_path(one) for one in history[0][:: config.repeats]),
        paths_last=tuple(_path(one) for one in history[-1][:: config.repeats]),
        prior=_gaussian(runs.prior),
        belief=_gaussian(runs.last_belief),
    )


def context_shift(offline: Evaluation, online: Evaluation) -> dict[str, float] | None:
    """How far beliefs lie from each other, in nats, mean over runs; None for other than Gaussians.

    Args:
        offline: an evaluation under the protocol `offline`.
        online: one of the same tasks and repeats under `online_prior`.
    """
    if offline.tasks != online.tasks or offline.returns.shape[1] != online.returns.shape[1]:
        raise ValueError(
            "context_shift compares run by run: both evaluations must have the same tasks "
            f"and repeats, got {offline.returns.shape[:2]} and {online.returns.shape[:2]}"
        )
    if offline.prior is None or offline.belief is None or online.belief is None:
        return None
    return {
        "offline_vs_prior": float(gaussian_kl(offline.belief, offline.prior).mean()),
        "online_vs_prior": float(gaussian_kl(online.belief, offline.prior).mean()),
        "offline_vs_online": float(gaussian_kl(offline.belief, online.belief).mean()),
    }


def gaussian_kl(
    left: Float[np.ndarray, "N 2 Z"], right: Float[np.ndarray, "N 2 Z"]
) -> Float64[np.ndarray, "N"]:
    """KL(left || right) between diagonal Gaussians, in nats, summed over dimensions.

    sum_z 1/2 (log(v_r / v_l) + (v_l + (m_l - m_r)^2) / v_r - 1)
    """
    (mean, variance), (other_mean, other_variance) = (
        np.asarray(belief, np.float64).transpose(1, 0, 2) for belief in (left, right)
    )
    ratio = (variance + (mean - other_mean) ** 2) / other_variance
    kl = 0.5 * (np.log(other_variance / variance) + ratio - 1.0).sum(axis=1)
    return np.asarray(kl)


def random_return(family: Family, tasks: Sequence[Task], *, repeats: int, seed: int) -> Summary:
    """What uniformly random actions earn: the floor of every scale."""
    generator = Generators.from_key(seed).numpy
    runs = [task for task in tasks for _ in range(repeats)]
    trajectories = run_episodes(
        family.dynamics([task.dynamics for task in runs]),
        lambda observation: generator.uniform(-1.0, 1.0, (len(runs), family.action_size)),
        horizon=family.horizon,
        generator=generator,
    )
    returns = [
        with_true_reward(family, *pair).undiscounted_return
        for pair in zip(runs, trajectories, strict=True)
    ]
    return summarise(np.reshape(returns, (len(tasks), repeats)).mean(axis=1))


def optimal_return(family: Family, tasks: Sequence[Task]) -> Summary | None:
    """What knowing the task would earn at best, where the family knows it for every task."""
    returns = [family.optimal_return(task) for task in tasks]
    known = [value for value in returns if value is not None]
    return summarise(np.array(known)) if len(known) == len(tasks) else None


class _Runs:
    """All repetitions of all tasks side by side, N of them, and what each has gathered."""

    def __init__(
        self,
        policy: AdaptivePolicy,
        family: Family,
        tasks: Sequence[Task],
        layout: RowLayout,
        config: EvaluationConfig,
        protocol: Protocol,
        offline_contexts: Mapping[int, Rows],
        seed: int,
        dynamics: Dynamics | None,
    ) -> None:
        self._policy, self._family, self._config = policy, family, config
        self._protocol, self._layout = protocol, layout
        self._tasks = [task for task in tasks for _ in range(config.repeats)]
        self._offline = [offline_contexts.get(task.id) for task in self._tasks]
        self._gathered: list[list[Rows]] = [[] for _ in self._tasks]
        self._returns: list[list[float]] = [[] for _ in self._tasks]
        if dynamics is None:
            dynamics = family.dynamics([task.dynamics for task in self._tasks])
        self._dynamics = dynamics
        self._generators = Generators.from_key(seed)
        self._shifted: dict[int, Rows] = {}
        if protocol.context is offline_shifted:
            generator = Generators.from_key(seed, 1).numpy  # of its own: starts stay as they are
            self._shifted = shifted_contexts(
                family,
                tasks,
                offline_contexts,
                layout,
                num_episodes=SHIFTED_EPISODES,
                generator=generator,
            )
        self.prior = self.last_belief = policy.prior(len(self._tasks))

    def next_episode(self) -> list[Episode]:
        """Every run's next episode, with true rewards; it joins what the run has gathered."""
        contexts = self._contexts()
        explores = all(rows is None for rows in contexts)
        known = [self._nothing() if rows is None else rows for rows in contexts]
        if explores and self._protocol.explores == "random":
            trajectories = self._random_episode()
        elif "step" in (self._protocol.belief_per, self._config.belief_per):
            trajectories = rollout_adapting(
                self._policy,
                self._dynamics,
                self._family,
                self._tasks,
                known,
                self._infer,
                layout=self._layout,
                generators=self._generators,
            )
        else:
            trajectories = rollout(
                self._policy,
                self._dynamics,
                self._infer(known),
                horizon=self._family.horizon,
                latent_per=self._config.latent_per,
                actions="deterministic",
                generators=self._generators,
            )
        return self._gather(trajectories)

    def _contexts(self) -> list[Rows | None]:
        """What each run's next episode is to act on, by the protocol."""
        return [
            self._protocol.context(
                Moment(
                    episode=len(self._gathered[n]),
                    prior_episodes=self._config.prior_episodes,
                    offline=self._offline[n],
                    shifted=self._shifted.get(task.id),
                    gathered=tuple(self._gathered[n]),
                    returns=tuple(self._returns[n]),
                    kept_share=self._config.kept_share,
                )
            )
            for n, task in enumerate(self._tasks)
        ]

    def _infer(self, contexts: Sequence[Rows]) -> Tensor:
        """The belief of each run: the prior, or what its context tells."""
        # A run whose simulation diverged at once, every time, has nothing to infer from either.
        known = {n: rows for n, rows in enumerate(contexts) if len(rows) > 0}
        self.last_belief = self.prior
        if not known:
            return self.prior
        size, generator = self._config.context_size, self._generators.numpy
        in_order = reads_in_order(self._policy)
        chosen = [subsample(rows, size, generator, in_order=in_order) for rows in known.values()]
        posterior = self._policy.adapt(stack_contexts(chosen, self._layout))
        if len(known) < len(contexts):
            belief = self.prior.clone()
            belief[list(known)] = posterior
            posterior = belief
        self.last_belief = posterior
        return posterior

    def _random_episode(self) -> list[Trajectory]:
        generator, size = self._generators.numpy, self._layout.action_size
        return run_episodes(
            self._dynamics,
            lambda observation: generator.uniform(-1.0, 1.0, (len(observation), size)),
            horizon=self._family.horizon,
            generator=generator,
        )

    def _gather(self, trajectories: Sequence[Trajectory]) -> list[Episode]:
        episodes = [
            with_true_reward(self._family, task, trajectory)
            for task, trajectory in zip(self._tasks, trajectories, strict=True)
        ]
        for n, episode in enumerate(episodes):
            self._gathered[n].append(self._layout.pack(episode))
            self._returns[n].append(episode.undiscounted_return)
        return episodes

    def _nothing(self) -> Rows:
        return np.zeros((0, self._layout.width), np.float32)


def _gaussian(belief: Tensor) -> Float32[np.ndarray, "N 2 Z"] | None:
    """The belief as an array where it is mean and variance of a Gaussian."""
    if belief.ndim != 3 or belief.shape[1] != 2:
        return None
    values: np.ndarray = belief.detach().cpu().numpy()
    return values if (values[:, 1] > 0.0).all() else None


def _path(episode: Episode) -> Float32[np.ndarray, "_ O"]:
    """Every observation of an episode, the last one included."""
    return np.concatenate([episode.observation, episode.next_observation[-1:]])
