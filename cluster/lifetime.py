"""The lifetime of an agent that is told its task: rounds of play, and what it learns from them.

    FOLDER/lifetime.yaml              what it is; the same settings go on with it, or more rounds
    FOLDER/rounds/round-00000.npz     a round's transitions and episodes, once for all
    FOLDER/checkpoints/               the agent after the newest rounds, and its learning curve

Every draw comes from the seed and the round's number. So a lifetime that is interrupted goes on
from its last whole round and becomes, bit for bit, what it would have been.
"""

import dataclasses
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from causeway.actors.replay import Replay
from causeway.actors.rounds import Round
from causeway.actors.tasks.encoding import encode_tasks
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.checkpoint import has_checkpoints, load_latest, save_checkpoint
from causeway.cluster.config_io import ConfigError, dump_yaml, read_yaml, structure
from causeway.cluster.players import Casting, Manner, Play
from causeway.datasets.locations import Location
from causeway.learners.conditioned_sac import ConditionedSac, ConditionedSacConfig

SETTINGS, ROUNDS = "lifetime.yaml", "rounds"
ENVS = 64  # at least so many environments are stepped together, unless told otherwise
_DRAWS, _NOISE = 101, 102  # keys of the learner's generators, unlike those of the players


@dataclass(frozen=True, kw_only=True)
class LifetimeConfig:
    """Whose lifetime it is and how long it lasts."""

    family: str = "cheetah-vel"
    split: str = "smac"
    seed: int = 0
    rounds: int = 120  # each is one horizon in every environment, then updates
    random_rounds: int = 1  # the first of them, which act uniformly
    updates_per_round: int = 800
    envs_per_task: int | None = None  # None: as many as make 64 environments or more
    batch_tasks: int = 32
    batch_transitions: int = 16  # of each task
    own_share: float = 0.5  # of these, gathered in the task; the others are rewarded anew for it
    evaluate_every: int = 10  # rounds between two deterministic ones, for the learning curve
    simulator_threads: int = 1  # of each group of environments
    learner_threads: int = 1  # of torch
    agent: ConditionedSacConfig = field(default_factory=ConditionedSacConfig)

    def __post_init__(self) -> None:
        for name in ("rounds", "updates_per_round", "batch_tasks", "batch_transitions"):
            self._check_at_least(name, 1)
        for name in ("random_rounds", "evaluate_every", "simulator_threads", "learner_threads"):
            self._check_at_least(name, 1)
        self._check_at_least("seed", 0)
        if self.envs_per_task is not None:
            self._check_at_least("envs_per_task", 1)
        if not 0.0 < self.own_share <= 1.0:
            raise ValueError(
                f"LifetimeConfig.own_share must lie in (0, 1], got {self.own_share}: it is a share "
                "of each task's transitions"
            )

    def _check_at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise ValueError(
                f"LifetimeConfig.{name} must be at least {least}, got {getattr(self, name)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How far a lifetime is, and how well it does."""

    rounds: int
    updates: int
    env_steps: int
    stochastic_return: float | None  # mean of the last round's whole episodes
    deterministic_return: float | None  # of the last evaluation
    time_s: float  # at work so far


class Lifetime:
    """An agent, its replay, and the folder in which both outlive the process.

    Args:
        config: whose lifetime.
        folder: its own.

    Raises:
        ConfigError: the folder holds a lifetime that was begun with other settings.
        ValueError: the family or split is unknown, or rewards cannot tell its tasks apart.
    """

    def __init__(self, config: LifetimeConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.family = load_family(config.family)
        self.tasks = find_split(self.family, config.split).tasks
        self.conditions = torch.from_numpy(encode_tasks(self.tasks))
        # A transition of another body would not have happened in this one.
        self._own_share = 1.0 if any(t.dynamics for t in self.tasks) else config.own_share
        self.agent = ConditionedSac(
            self.family.observation_size,
            self.family.action_size,
            self.conditions.shape[1],
            config.agent,
            seed=config.seed,
        )
        self.casting = Casting(
            family=config.family,
            split=config.split,
            envs_per_task=config.envs_per_task or -(-ENVS // len(self.tasks)),
            hidden=config.agent.hidden,
            threads=config.simulator_threads,
            seed=config.seed,
        )
        num_envs = len(self.tasks) * self.casting.envs_per_task
        self.replay = Replay(
            self.family, self.tasks, config.rounds * num_envs * self.family.horizon
        )
        self.curve: list[Moment] = []
        self._check_settings()
        self._recover()

    @property
    def is_over(self) -> bool:
        """Whether all rounds have been played."""
        return len(self.replay.rounds) >= self.config.rounds

    def age(self, number: int) -> int:
        """The agent's updates when it played the round."""
        return max(0, number - self.config.random_rounds + 1) * self.config.updates_per_round

    def run(self, play: Play, tell: Callable[[Moment, int], None]) -> None:
        """Plays and learns until all rounds are over.

        Args:
            play: who plays the rounds.
            tell: given how it was after the last round, and the updates since.
        """
        while not self.is_over:
            began = time.monotonic()
            number = len(self.replay.rounds)
            is_random = number < self.config.random_rounds
            manner: Manner = "random" if is_random else "stochastic"
            played = play(self.weights(), manner, number)
            evaluated = None
            if not is_random and number % self.config.evaluate_every == 0:
                evaluated = self.mean_return(play(self.weights(), "deterministic", number))
            self.replay.add(played)
            before = self._moment(number, played, evaluated, began)
            if number >= self.config.random_rounds - 1:
                self._learn(number, partial(tell, before))
            self._save(number, dataclasses.replace(before, time_s=self._time_s(began)))

    def weights(self) -> dict[str, torch.Tensor]:
        """What acting needs."""
        return self.agent.policy.state_dict()

    def mean_return(self, played: Round) -> float | None:
        """The mean over tasks of the whole episodes' returns; None where there is none."""
        returns = played.returns(self.replay.layout)
        means = [
            returns[chosen].mean()
            for place in range(len(self.tasks))
            if (chosen := played.whole & (played.task == place)).any()
        ]
        return float(np.mean(means)) if means else None

    def _learn(self, number: int, tell: Callable[[int], None]) -> None:
        config = self.config
        self.agent.normalise_by(*self.replay.moments())
        draws = np.random.default_rng((config.seed, _DRAWS, number))
        noise = torch.Generator().manual_seed(
            int(np.random.SeedSequence((config.seed, _NOISE, number)).generate_state(1)[0])
        )
        for done in range(1, config.updates_per_round + 1):
            places, rows = self.replay.draw(
                draws,
                num_tasks=config.batch_tasks,
                transitions_per_task=config.batch_transitions,
                own_share=self._own_share,
            )
            batch = self.replay.layout.transitions(torch.from_numpy(rows))
            self.agent.update(batch, self.conditions[places], noise)
            if done % 50 == 0:
                tell(done)
        self.agent.check_finite()

    def _moment(self, number: int, played: Round, evaluated: float | None, began: float) -> Moment:
        return Moment(
            rounds=number + 1,
            updates=self.age(number),
            env_steps=self.replay.count,
            stochastic_return=self.mean_return(played),
            deterministic_return=evaluated,
            time_s=self._time_s(began),
        )

    def _time_s(self, began: float) -> float:
        return (self.curve[-1].time_s if self.curve else 0.0) + time.monotonic() - began

    def _save(self, number: int, moment: Moment) -> None:
        """Round first, then what refers to it: a crash between them repeats the round."""
        contents = io.BytesIO()
        played = self.replay.rounds[number]
        np.savez(contents, **{f.name: getattr(played, f.name) for f in dataclasses.fields(played)})
        Location.parse(self.folder).child(_round_name(number)).write(contents.getvalue())
        self.curve.append(moment)
        save_checkpoint(
            self.folder,
            len(self.replay.rounds),
            self.agent.state(),
            {
                "updates": self.agent.updates,
                "curve": [dataclasses.asdict(one) for one in self.curve],
            },
            keep=2,
        )

    def _check_settings(self) -> None:
        """Writes the settings; refuses others than there are, but for more rounds."""
        file = self.folder / SETTINGS
        if file.exists():
            begun = structure(LifetimeConfig, read_yaml(file), str(file))
            longer = dataclasses.replace(begun, rounds=max(begun.rounds, self.config.rounds))
            if differing := differences(longer, self.config):
                raise ConfigError(
                    f"{self.folder} holds a lifetime that was begun with other settings "
                    f"({'; '.join(differing)}): give these, or another folder with --agent"
                )
            if longer == begun:
                return
        self.folder.mkdir(parents=True, exist_ok=True)
        Location.parse(file).write(dump_yaml(self.config).encode())

    def _recover(self) -> None:
        """Takes up what the folder holds."""
        if not has_checkpoints(self.folder):
            return
        checkpoint, _ = load_latest(self.folder)
        self.curve = [Moment(**one) for one in checkpoint.state["curve"]]
        for number in range(len(self.curve)):
            contents = Location.parse(self.folder).child(_round_name(number)).read()
            with np.load(io.BytesIO(contents)) as arrays:
                self.replay.add(Round(**dict(arrays)))
        self.agent.load_state(checkpoint.tensors, int(checkpoint.state["updates"]))


def differences(begun: Any, given: Any, prefix: str = "") -> list[str]:
    """Where two configurations of one class differ, each in words."""
    found = []
    for one in dataclasses.fields(begun):
        old, new = getattr(begun, one.name), getattr(given, one.name)
        if dataclasses.is_dataclass(old):
            found += differences(old, new, f"{prefix}{one.name}.")
        elif old != new:
            found.append(f"{prefix}{one.name} {old!r}, not {new!r}")
    return found


def _round_name(number: int) -> str:
    return f"{ROUNDS}/round-{number:05d}.npz"
