"""`CausewayConfig`: our run configuration as RLlib's `AlgorithmConfig`, and back."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.util import log_once

from causeway.cluster.config import (
    RunConfig,
    check_fit,
    load_run_config,
    run_config_class,
)
from causeway.cluster.config_io import ConfigError, merge, parse_overrides, structure, to_plain
from causeway.cluster.rllib.module import module_spec

# What a trial's processes take together; it limits how many trials Tune starts side by side.
TRIAL_BYTES = 1_500_000_000


class CausewayConfig(AlgorithmConfig):
    """RLlib's settings plus one run's configuration, at first the README's job; see `causeway`.

    Of RLlib's settings those count that are RLlib's own business: reporting, callbacks, debugging,
    checkpointing, and the resources of a Tune trial. What trains, collects and evaluates is set in
    the run's configuration, and RLlib's counterparts of it are refused.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        from causeway.cluster.rllib.algorithm import Causeway  # it imports this module

        super().__init__(algo_class=algo_class or Causeway)
        self.min_time_s_per_iteration: Any = 1
        self._is_online = False  # RLlib need not look after environment runners: there are none
        self.causeway_run: dict[str, Any] = {}  # plain values, which Tune can copy and show
        self.causeway_search: dict[str, Any] = {}
        self.causeway(run_config=load_run_config(None))

    def causeway(
        self,
        *,
        run_config: RunConfig | None = None,
        path: str | Path | None = None,
        overrides: Sequence[str] = (),
        search: Mapping[str, Any] | None = None,
    ) -> Self:
        """Sets the run's configuration; what is not given stays as it was.

        Relative paths in it are taken from the current folder at this moment.

        Args:
            run_config: the whole of it.
            path: a run's YAML file, in place of `run_config`.
            overrides: words as on the command line, `--section.key=value`, put on top.
            search: values by dotted key, such as `{"hyperparameters.learning_rate":
                tune.grid_search([1e-3, 3e-4])}`: put on top of all once Tune has chosen them.

        Raises:
            ConfigError: it is not valid.
        """
        if run_config is not None and path is not None:
            raise ConfigError("causeway() must be given run_config or path, got both")
        if path is not None:
            config = load_run_config(Path(path), overrides)
        else:
            data = self.causeway_run if run_config is None else to_plain(run_config)
            config = _structured(merge(data, parse_overrides(overrides)))
        self.causeway_run = to_plain(_anchored(config))
        if search is not None:
            self.causeway_search = dict(search)
        return self

    def to_run_config(self) -> RunConfig:
        """The run's configuration as our dataclasses, the searched values in their places.

        Raises:
            ConfigError: it is not valid.
        """
        data = self.causeway_run
        for key, value in self.causeway_search.items():
            for name in reversed(key.split(".")):
                value = {name: value}
            data = merge(data, value)
        return _structured(data)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """How RLlib builds the networks that act."""
        return module_spec(self.to_run_config())

    def validate(self) -> None:
        """Checks everything.

        Raises:
            ConfigError: the run's configuration is not valid.
            ValueError: a setting of RLlib is not valid, or has no meaning here.
        """
        log_once(
            f"{cast(type, self.algo_class).__name__}_on_new_api_stack"
        )  # no advice to use the old one
        super().validate()
        for name, neutral, instead in (
            ("env", None, "data.family"),
            ("num_env_runners", 0, "collection.collectors"),
            ("num_learners", 0, "the section trainer"),
            ("evaluation_interval", None, "schedule.evaluate_every"),
            ("input_", "sampler", "data.path"),
        ):
            if getattr(self, name) != neutral:
                raise ValueError(
                    f"CausewayConfig.{name} must be {neutral!r}, got {getattr(self, name)!r}: "
                    f"in the run's configuration, {instead} says it; see CausewayConfig.causeway"
                )
        if self.to_run_config().run.serial:
            raise ConfigError(
                "run.serial must be false under RLlib, got true: an Algorithm runs on Ray; "
                "for a serial run use 'causeway train'"
            )


def _structured(data: Mapping[str, Any]) -> RunConfig:
    """Our dataclasses from plain values."""
    algorithm = data.get("run", {}).get("algorithm", "smac")
    config = structure(run_config_class(str(algorithm)), data, "CausewayConfig")
    check_fit(config)
    return config


def _anchored(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths: a trial of Tune works in a folder of its own."""
    data = dataclasses.replace(
        config.data,
        path=_absolute(config.data.path),
        cache_folder=config.data.cache_folder and _absolute(config.data.cache_folder),
    )
    run = dataclasses.replace(config.run, folder=_absolute(config.run.folder))
    return config.replace(data=data, run=run)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
