"""The configuration of a run: the sections that the other modules define, put together.

The hyperparameters belong to the algorithm, so the class of a whole configuration depends on the
algorithm's name: `load_run_config` reads that name first and everything else against it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from causeway.actors.behaviour import ScriptedBehaviour
from causeway.actors.collector import CollectorConfig
from causeway.actors.evaluator import EvaluationConfig
from causeway.cluster.config_io import (
    ConfigError,
    dump_yaml,
    merge,
    parse_overrides,
    read_yaml,
    structure,
)
from causeway.cluster.naming import check_run_name
from causeway.cluster.pool import PoolConfig
from causeway.cluster.ray_local import RayConfig
from causeway.cluster.redis_server import RedisConfig
from causeway.datasets.locations import Location
from causeway.datasets.sampler import SamplerConfig
from causeway.learners.registry import load_algorithm
from causeway.learners.trainer import TrainerConfig

DEFAULT_RUN = Path(__file__).parent / "runs" / "point-robot.yaml"
CONFIG_NAME = "config.yaml"


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """What the run is called and where it goes."""

    name: str | None = None  # None: algorithm, family and seed
    folder: str = "runs"  # the run's own folder is made below it
    algorithm: str = "smac"  # a name of `causeway algorithms`, or the user's own module:Class
    seed: int = 0
    learners: int = 1  # that share the tasks of each meta-batch, each with a GPU of its own if any
    serial: bool = False  # all components in one process, without Ray: bit-for-bit reproducible
    start_from: str | None = None  # the folder of a run whose last weights this one starts with

    def __post_init__(self) -> None:
        if self.name is not None:
            check_run_name(self.name)
        if self.seed < 0:
            raise ValueError(f"RunSection.seed must be at least 0, got {self.seed}")
        if self.learners < 1:
            raise ValueError(f"RunSection.learners must be at least 1, got {self.learners}")
        if self.serial and self.learners > 1:
            raise ValueError(
                f"RunSection.learners must be 1 where serial is true, got {self.learners}: a "
                "serial run is one process"
            )


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Which data set is trained on, and how it is made if it is absent and can be scripted."""

    path: str = "data/point-robot"  # a folder, local or as a URI
    family: str = "point-robot"
    split: str = "standard"
    added_paths: tuple[str, ...] = ()  # more data sets of the family: their training tasks join in
    train_tasks: int | None = None  # of the split, evenly spaced; None: all of them
    strict: bool = False  # refuse to start for a damaged file, rather than quarantine it
    max_fault_share: float = 0.2  # of the parts; a set more damaged than that ends the run
    episodes_per_task: int = 60  # of scripted data
    seed: int = 0  # of scripted data
    behaviour: ScriptedBehaviour = field(default_factory=ScriptedBehaviour)
    cache_folder: str | None = None  # of decoded rows, on each node; None: the user's cache folder
    cache_bytes: int = 20 << 30

    def __post_init__(self) -> None:
        if self.episodes_per_task < 1:
            raise ValueError(
                f"DataSection.episodes_per_task must be at least 1, got {self.episodes_per_task}"
            )
        if self.train_tasks is not None and self.train_tasks < 1:
            raise ValueError(
                f"DataSection.train_tasks must be at least 1 or null, got {self.train_tasks}"
            )
        if not 0.0 <= self.max_fault_share <= 1.0:
            raise ValueError(
                f"DataSection.max_fault_share must lie in [0, 1], got {self.max_fault_share}"
            )


@dataclass(frozen=True, kw_only=True)
class ScheduleSection:
    """How long each stage lasts, and what happens how often meanwhile; all in updates."""

    updates: dict[str, int] = field(default_factory=lambda: {"offline": 50_000, "online": 50_000})
    updates_per_block: int = 50  # between two looks at anything else
    evaluate_every: int = 5_000
    checkpoint_every: int = 5_000
    keep_checkpoints: int = 3
    checkpoint_copies: str | None = None  # where each is copied to, as s3://bucket/runs; None: no
    block_timeout_s: float = 1_800.0  # a block that takes longer: learner or stream hangs
    recoveries: int = 3  # of a lost learner or stream, in a row without a newer checkpoint

    def __post_init__(self) -> None:
        for name in ("updates_per_block", "evaluate_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"ScheduleSection.{name} must be at least 1, got {getattr(self, name)}"
                )
        if not self.block_timeout_s > 0.0:
            raise ValueError(
                f"ScheduleSection.block_timeout_s must be positive, got {self.block_timeout_s}"
            )
        if self.recoveries < 0:
            raise ValueError(
                f"ScheduleSection.recoveries must be at least 0, got {self.recoveries}"
            )
        for stage, updates in self.updates.items():
            if updates < 0:
                raise ValueError(
                    f"ScheduleSection.updates of stage {stage!r} must be at least 0, got {updates}"
                )


@dataclass(frozen=True, kw_only=True)
class CollectionSection:
    """How unlabelled rollouts are gathered while a stage collects."""

    collectors: int = 2
    tasks_at_once: int = 1  # collections that a collector makes side by side, each in its task
    env_steps_per_update: float = 5.0  # collectors are held back beyond it, never the learner
    warmup_env_steps: int = 5_000  # of the stage's first rollouts, before its first update
    publish_every: int = 50  # updates between two versions of the weights; whole blocks
    max_staleness: int = 2_000  # updates; a rollout that acted on older weights is dropped
    true_rewards: bool = False  # only for an oracle, whose stage asks for the environment's rewards
    cpus_per_collector: float = 1.0  # on a cluster; a local Ray counts none
    resources: dict[str, float] = field(default_factory=dict)  # of each, such as {collector: 1}

    def __post_init__(self) -> None:
        if self.collectors < 0:
            raise ValueError(
                f"CollectionSection.collectors must be at least 0, got {self.collectors}"
            )
        if not self.env_steps_per_update > 0.0:
            raise ValueError(
                "CollectionSection.env_steps_per_update must be positive, got "
                f"{self.env_steps_per_update}"
            )
        for name, least in (
            ("tasks_at_once", 1),
            ("warmup_env_steps", 0),
            ("publish_every", 1),
            ("max_staleness", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"CollectionSection.{name} must be at least {least}, got {getattr(self, name)}"
                )
        if self.max_staleness < self.publish_every:
            raise ValueError(
                "CollectionSection.max_staleness must be at least publish_every "
                f"({self.publish_every}), got {self.max_staleness}: rollouts on the newest weights "
                "that are published would be dropped"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All of a run; `hyperparameters` is the configuration class of the algorithm."""

    run: RunSection = field(default_factory=RunSection)
    data: DataSection = field(default_factory=DataSection)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    collection: CollectionSection = field(default_factory=CollectionSection)
    collector: CollectorConfig = field(default_factory=CollectorConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    hyperparameters: Any = None

    @property
    def name(self) -> str:
        """The run's name."""
        if self.run.name is not None:
            return self.run.name
        plain = self.run.algorithm.rpartition(":")[2].lower()
        family = self.data.family.rpartition(":")[2].lower()
        return f"{plain}-{family}-{self.run.seed}"

    @property
    def checkpoint_copies(self) -> Location | None:
        """Where copies of the run's checkpoints go, if anywhere."""
        place = self.schedule.checkpoint_copies
        return None if place is None else Location.parse(place).child(self.name)

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return Path(self.run.folder) / self.name

    def replace(self, **sections: Any) -> "RunConfig":
        """A copy with other sections."""
        return dataclasses.replace(self, **sections)


@cache
def run_config_class(algorithm: str) -> type[RunConfig]:
    """`RunConfig` with the algorithm's own hyperparameters.

    Raises:
        ConfigError: there is no such algorithm.
    """
    try:
        config_class = load_algorithm(algorithm).Config
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"run.algorithm: {error}") from error
    hyperparameters = ("hyperparameters", config_class, field(default_factory=config_class))
    return dataclasses.make_dataclass(
        "RunConfig", [hyperparameters], bases=(RunConfig,), frozen=True, kw_only=True
    )


def load_run_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """A file's configuration, overrides on top; without a file, the README's main job.

    Raises:
        ConfigError: the file cannot be read, or what it or an override says is not valid.
    """
    path = DEFAULT_RUN if path is None else path
    data = merge(read_yaml(path), parse_overrides(overrides))
    source = f"{path} with the command line" if overrides else str(path)
    section = data.get("run")
    algorithm = section.get("algorithm", "smac") if isinstance(section, dict) else "smac"
    config = structure(run_config_class(str(algorithm)), data, source)
    check_fit(config)
    return config


def check_fit(config: RunConfig) -> None:
    """Raises ConfigError where the run does not fit its algorithm."""
    check_stages(config)
    check_rewards(config)
    check_contexts(config)


def check_stages(config: RunConfig) -> None:
    """Raises ConfigError where sections do not fit together: stages, and parts for learners."""
    if config.sampler.tasks_per_batch % config.run.learners:
        raise ConfigError(
            f"sampler.tasks_per_batch must be a multiple of run.learners ({config.run.learners}), "
            f"got {config.sampler.tasks_per_batch}: each learner takes as many tasks"
        )
    algorithm = load_algorithm(config.run.algorithm)
    known = [stage.name for stage in algorithm.STAGES]
    if sorted(config.schedule.updates) != sorted(known):
        raise ConfigError(
            f"schedule.updates must name the stages of {config.run.algorithm!r}, "
            f"{', '.join(known)}, got {', '.join(config.schedule.updates) or 'none'}"
        )


def check_contexts(config: RunConfig) -> None:
    """Raises ConfigError where the algorithm reads contexts, or sequences, and is given none."""
    algorithm = load_algorithm(config.run.algorithm)
    if getattr(algorithm, "READS_CONTEXT", True) and config.sampler.context_per_task == 0:
        raise ConfigError(
            f"sampler.context_per_task must be at least 1 for {config.run.algorithm!r}, which "
            "learns to read a task from its context; got 0"
        )
    if getattr(algorithm, "READS_IN_ORDER", False) and not config.sampler.context_in_order:
        raise ConfigError(
            f"sampler.context_in_order must be true for {config.run.algorithm!r}, whose encoder "
            "reads transitions in time order; got false: set it, and sampler.context_episodes to 1"
        )


def check_rewards(config: RunConfig) -> None:
    """Raises ConfigError where rollouts would be rewarded otherwise than the algorithm wants it."""
    algorithm = load_algorithm(config.run.algorithm)
    collecting = [s for s in algorithm.STAGES if s.collects and config.schedule.updates[s.name]]
    for stage in collecting:
        if stage.labels == "environment" and not config.collection.true_rewards:
            raise ConfigError(
                f"collection.true_rewards must be true for stage {stage.name!r} of "
                f"{config.run.algorithm!r}, an oracle that reads the environment's rewards; got "
                f"false: set it, or schedule.updates.{stage.name} to 0"
            )
        if stage.labels == "decoder" and config.collection.true_rewards:
            raise ConfigError(
                f"collection.true_rewards must be false for stage {stage.name!r} of "
                f"{config.run.algorithm!r}, which labels its rollouts by itself; got true: only an "
                "oracle, such as pearl, may read the environment's rewards"
            )


def save_run_config(config: RunConfig, folder: Path) -> None:
    """Writes the resolved configuration into the run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_NAME).write_text(dump_yaml(config), encoding="utf-8")
