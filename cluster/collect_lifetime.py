"""A data set from the lifetime of an agent: it lives, its episodes are cut by age, and written.

The lifetime has a folder of its own. A data set that is cut from one that is over trains nothing.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from causeway.actors.rounds import Round
from causeway.actors.tasks.family import find_split
from causeway.actors.tasks.registry import load_family
from causeway.cluster.allocation import keep_freed_memory
from causeway.cluster.config_io import ConfigError, to_plain
from causeway.cluster.lifetime import Lifetime, LifetimeConfig, Moment
from causeway.cluster.lifetime_curve import write_curve
from causeway.cluster.players import Manner, Play, local_players, ray_players
from causeway.cluster.progress import ProgressView
from causeway.cluster.quality import Cut, choose, parse_quality
from causeway.cluster.ray_local import RayConfig, StopSignal, ray_session
from causeway.cluster.recorder import git_commit
from causeway.datasets.batches import Episode
from causeway.datasets.faults import DatasetError
from causeway.datasets.locations import Location
from causeway.datasets.schema import (
    MANIFEST_NAME,
    JsonScalar,
    Provenance,
    ReferenceReturns,
    TaskEntry,
)
from causeway.datasets.writer import DatasetHeader, DatasetWriter

GENERATOR = "causeway lifetime of a task-conditioned soft actor-critic"
REFERENCE_ROUNDS = 5  # that random and expert reference returns are the means of


@dataclass(frozen=True, kw_only=True)
class LifetimeData:
    """A data set to be cut from a lifetime. Defaults of the cut are SMAC's authors' size."""

    quality: str = "replay"  # or several, as random:1200,end:400
    transitions_per_task: int = 1600  # of a quality that says none; rounded up to whole episodes
    license: str = "CC0-1.0"
    lifetime: LifetimeConfig = field(default_factory=LifetimeConfig)

    def __post_init__(self) -> None:
        if any(cut.quality == "others" for cut in self.cuts):
            self._refuse_bodies()

    def _refuse_bodies(self) -> None:
        """A transition of another body would not have happened in this one."""
        tasks = find_split(load_family(self.lifetime.family), self.lifetime.split).tasks
        if any(task.dynamics for task in tasks):
            raise ValueError(
                "LifetimeData.quality 'others' needs tasks that differ in their rewards alone, "
                f"those of {self.lifetime.family} differ in their dynamics: leave it out"
            )

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """What is cut."""
        return parse_quality(self.quality, self.transitions_per_task)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What came of it."""

    transitions: int
    random_return: float
    expert_return: float
    agent: Path  # the lifetime's folder


def collect_lifetime(
    config: LifetimeData,
    out: str,
    *,
    agent: Path | None,
    workers: int,
    overwrite: bool,
    view: ProgressView,
) -> Collected:
    """Lives the lifetime, or what is left of it, and writes the data set.

    Args:
        config: of both.
        out: the data set's folder, local or as a URI.
        agent: the lifetime's folder; None: `out` with `.agent` behind it.
        workers: Ray actors that play rounds beside each other; 0 plays in this process.
        overwrite: whether a data set that is there already is replaced.
        view: where to show how far it is.

    Raises:
        DatasetError: there is a data set and it is not to be overwritten.
        ConfigError: the agent's folder holds a lifetime of other settings, or none was named.
    """
    place = Location.parse(out)
    if not overwrite:
        _refuse_existing(place)
    torch.set_num_threads(config.lifetime.learner_threads)
    keep_freed_memory()
    folder = agent if agent is not None else _beside(place)
    lifetime = Lifetime(config.lifetime, folder)
    with _players(lifetime, workers) as play:
        _live(lifetime, play, view)
        written = _write(lifetime, config, place, play, overwrite=overwrite, view=view)
    random, expert = (_mean(written.references, name) for name in ("random", "expert"))
    write_curve(
        place,
        f"{config.lifetime.family}, {config.lifetime.split}",
        lifetime.curve,
        {"random actions": random, "final agent": expert},
    )
    return Collected(
        transitions=written.transitions, random_return=random, expert_return=expert, agent=folder
    )


def _refuse_existing(place: Location) -> None:
    """At once, and not when the writer finds it after an hour."""
    if place.child(MANIFEST_NAME).exists():
        raise DatasetError(
            f"{place} must not hold a data set yet, but {MANIFEST_NAME} is there: choose another "
            "folder or ask to overwrite it"
        )


def _beside(place: Location) -> Path:
    if not place.is_local:
        raise ConfigError(
            f"--agent must name a local folder for the lifetime where the data set is not local, "
            f"got none beside {place}"
        )
    return Path(f"{place.path}.agent")


@contextlib.contextmanager
def _players(lifetime: Lifetime, workers: int) -> Iterator[Play]:
    """Who plays: this process, or actors of a Ray that runs for as long."""
    if workers == 0:
        yield local_players(lifetime.casting)
        return
    with ray_session(RayConfig(num_cpus=workers)):
        yield ray_players(lifetime.casting, workers)


def _live(lifetime: Lifetime, play: Play, view: ProgressView) -> None:
    per_round = lifetime.config.updates_per_round
    learning = lifetime.config.rounds - lifetime.config.random_rounds + 1
    view.update(
        phase="the agent's lifetime",
        completed=lifetime.agent.updates,
        total=learning * per_round,
        unit="updates",
        note=f"{lifetime.folder} keeps it: after a stop, the same command goes on",
    )
    rates = _Rates(lifetime)

    def tell(moment: Moment, done: int) -> None:
        if stop.is_set:
            raise KeyboardInterrupt
        updates = moment.updates + done
        updates_per_s, env_steps_per_s = rates.since(updates, moment.env_steps)
        view.update(completed=updates, updates=updates, env_steps=moment.env_steps)
        view.update(updates_per_s=updates_per_s, env_steps_per_s=env_steps_per_s)
        if moment.stochastic_return is not None:
            view.update(behaviour_return=moment.stochastic_return)
        if moment.deterministic_return is not None:
            view.update(deterministic_return=moment.deterministic_return)

    with StopSignal(signal.SIGINT, signal.SIGTERM) as stop:
        lifetime.run(play, tell)


class _Rates:
    """Updates and environment steps per second since the process took the lifetime up."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._began = time.monotonic()
        self._updates, self._env_steps = lifetime.agent.updates, lifetime.replay.count

    def since(self, updates: int, env_steps: int) -> tuple[float, float]:
        seconds = max(1e-6, time.monotonic() - self._began)
        return (updates - self._updates) / seconds, (env_steps - self._env_steps) / seconds


@dataclass(frozen=True, kw_only=True)
class _Written:
    transitions: int
    references: dict[int, ReferenceReturns]


def _write(
    lifetime: Lifetime,
    config: LifetimeData,
    place: Location,
    play: Play,
    *,
    overwrite: bool,
    view: ProgressView,
) -> _Written:
    tasks = lifetime.tasks
    view.update(phase="reference returns", completed=0, total=2 * REFERENCE_ROUNDS, unit="rounds")
    fresh = _FreshRounds(lifetime, play, view)
    references = _references(lifetime, fresh)
    sources = [_source(cut, lifetime, fresh) for cut in config.cuts]
    view.update(phase="writing", completed=0, total=len(tasks), unit="tasks")
    transitions = 0
    with DatasetWriter(place, _header(lifetime, config, references), overwrite) as writer:
        for index, task in enumerate(tasks):
            episodes: list[Episode] = []
            ages: list[int] = []
            for cut, source in zip(config.cuts, sources, strict=True):
                of_cut, age = source.of_task(index, cut)
                episodes += of_cut
                ages += age
            writer.add(task.id, episodes, ages)
            transitions += sum(len(episode) for episode in episodes)
            view.update(completed=index + 1)
    return _Written(transitions=transitions, references=references)


class _FreshRounds:
    """Rounds of the final agent, played once and kept: for references and expert data."""

    def __init__(self, lifetime: Lifetime, play: Play, view: ProgressView) -> None:
        self._lifetime, self._play, self._view = lifetime, play, view
        self._weights = lifetime.weights()
        self._rounds: dict[Manner, list[Round]] = {}

    def at_least(self, count: int, manner: Manner) -> list[Round]:
        """So many rounds or more."""
        rounds = self._rounds.setdefault(manner, [])
        while len(rounds) < count:
            # Numbers that no round of the lifetime had.
            number = self._lifetime.config.rounds + len(rounds)
            rounds.append(self._play(self._weights, manner, number))
            self._view.update(completed=sum(len(r) for r in self._rounds.values()))
        return rounds


@dataclass(frozen=True)
class _Source:
    """Whole episodes that a cut is taken from."""

    lifetime: Lifetime
    rounds: Sequence[Round]
    ages: Sequence[int]  # of each round
    of_others: bool = False  # whether a task gets what was gathered in other ones

    def of_task(self, place: int, cut: Cut) -> tuple[list[Episode], list[int]]:
        """The task's episodes and their ages."""
        found = [
            (number, begin, length)
            for number, played in enumerate(self.rounds)
            for begin, length, task, whole in zip(
                played.begins.tolist(),
                played.length.tolist(),
                played.task,
                played.whole,
                strict=True,
            )
            if (task == place) != self.of_others and whole
        ]
        if self.of_others:  # of an age there is one for each other task: every task gets its own
            np.random.default_rng([self.lifetime.config.seed, place]).shuffle(found)
        age = np.array([self.ages[number] for number, _, _ in found], np.int64)
        length = np.array([steps for _, _, steps in found], np.int64)
        chosen = choose(cut, age, length, self.lifetime.agent.updates)
        episodes = [self._episode(place, *found[index]) for index in chosen.tolist()]
        return episodes, age[chosen].tolist()

    def _episode(self, place: int, number: int, begin: int, length: int) -> Episode:
        replay = self.lifetime.replay
        rows = self.rounds[number].rows[begin : begin + length]
        if self.of_others:
            rows = replay.rewarded_for(place, rows)
        t = replay.layout.transitions(torch.from_numpy(rows[:, : replay.layout.width])[None])
        fields = {f.name: getattr(t, f.name) for f in dataclasses.fields(t)}
        return Episode(**{n: v[0].numpy() for n, v in fields.items() if v is not None})


def _source(cut: Cut, lifetime: Lifetime, fresh: _FreshRounds) -> _Source:
    """Where the cut's episodes are: in the lifetime, or played now by the final agent."""
    if cut.quality != "expert":
        rounds = lifetime.replay.rounds
        ages = [lifetime.age(n) for n in range(len(rounds))]
        return _Source(lifetime, rounds, ages, of_others=cut.quality == "others")
    count = REFERENCE_ROUNDS
    while True:
        rounds = fresh.at_least(count, "deterministic")
        if _fewest_transitions(rounds, len(lifetime.tasks)) >= cut.transitions:
            return _Source(lifetime, rounds, [lifetime.agent.updates] * len(rounds))
        count += 1


def _fewest_transitions(rounds: Sequence[Round], num_tasks: int) -> int:
    """In whole episodes, of the task that has the fewest."""
    steps = np.zeros(num_tasks, np.int64)
    for played in rounds:
        np.add.at(steps, played.task[played.whole], played.length[played.whole])
    return int(steps.min())


def _references(lifetime: Lifetime, fresh: _FreshRounds) -> dict[int, ReferenceReturns]:
    """Random actions and the final agent, or the optimum where the family knows it."""
    random, expert = (
        _task_means(lifetime, fresh.at_least(REFERENCE_ROUNDS, manner))
        for manner in ("random", "deterministic")
    )
    references = {}
    for place, task in enumerate(lifetime.tasks):
        known = lifetime.family.optimal_return(task)
        references[task.id] = ReferenceReturns(
            random=random[place], expert=known if known is not None else expert[place]
        )
    return references


def _task_means(lifetime: Lifetime, rounds: Sequence[Round]) -> list[float | None]:
    together = Round.concatenate(rounds)
    returns = together.returns(lifetime.replay.layout)
    chosen = [together.whole & (together.task == place) for place in range(len(lifetime.tasks))]
    return [float(returns[mine].mean()) if mine.any() else None for mine in chosen]


def _mean(references: Mapping[int, ReferenceReturns], name: str) -> float:
    values = [getattr(reference, name) for reference in references.values()]
    return float(np.mean([value for value in values if value is not None]))


def _header(
    lifetime: Lifetime, config: LifetimeData, references: dict[int, ReferenceReturns]
) -> DatasetHeader:
    family = lifetime.family
    train = {task.id for task in find_split(family, config.lifetime.split).train}
    return DatasetHeader(
        family=config.lifetime.family,
        split=config.lifetime.split,
        observation_size=family.observation_size,
        action_size=family.action_size,
        horizon=family.horizon,
        tasks=tuple(
            TaskEntry(
                id=task.id,
                split_part="train" if task.id in train else "test",
                parameters=task.parameters,
            )
            for task in lifetime.tasks
        ),
        provenance=Provenance(
            generator=GENERATOR,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            options=_flat(to_plain(config)),
            seed=config.lifetime.seed,
            git_commit=git_commit(),
        ),
        license=config.license,
        references=references,
    )


def _flat(options: Mapping[str, object], prefix: str = "") -> dict[str, JsonScalar]:
    """Nested options by dotted names; a list becomes its text."""
    flat: dict[str, JsonScalar] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, (str, int, float, bool)):
            flat[prefix + name] = value
        else:
            flat[prefix + name] = str(value)
    return flat
