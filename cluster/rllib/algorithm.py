"""`Causeway`: RLlib's `Algorithm` around one distributed run.

RLlib gives the driver, the Tune trial, callbacks, result dicts and checkpoint folders; the run
brings its own learner, collectors and evaluator, so RLlib's are never built. The run starts with
the first call that needs it, and each `train()` moves it on for `min_time_s_per_iteration`.
"""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils import force_list
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.result import DONE, TRIAL_INFO
from torch import Tensor

from causeway.cluster.checkpoint import Checkpoint, load_checkpoint
from causeway.cluster.config import CONFIG_NAME, RunConfig
from causeway.cluster.dispatch import POLL_S
from causeway.cluster.evaluation import EvaluationService
from causeway.cluster.learner import make_algorithm
from causeway.cluster.recorder import RETURNS
from causeway.cluster.rllib.config import TRIAL_BYTES, CausewayConfig
from causeway.cluster.rllib.folders import pack, read, unpack
from causeway.cluster.rllib.live import LiveRun, fresh_run, join_ray
from causeway.cluster.rllib.module import module_spec
from causeway.cluster.streams import open_data


class Causeway(Algorithm):
    """Offline meta-RL with online self-supervision, iteration by iteration.

    Each result of `train()` holds `stage`, `updates`, `env_steps`, `losses`, `watched`, `returns`
    (the last evaluation's mean per protocol; NaN before the first) and the other figures of
    `metrics.jsonl`; `done` is true once the run is finished.

    Checkpoints are ours, without pickle: `Causeway.from_checkpoint` reads them, RLlib's
    `Algorithm.from_checkpoint` does not. A restored run goes on in a new folder, so that its
    ledger begins empty: rollouts taken in after the checkpoint are not part of it.

    The main thread must make the first call, because the embedded Redis server lives and dies with
    the thread that starts it.
    """

    _progress_metrics: Any = (
        "stage",
        "updates",
        "env_steps",
        *(f"returns/{name}" for name in RETURNS),
    )

    def __init__(
        self, config: AlgorithmConfig | None = None, env: object = None, **kwargs: Any
    ) -> None:
        trial = config.get(TRIAL_INFO) if isinstance(config, dict) else None
        self._name_suffix = "" if trial is None else f"-{trial.trial_id}"
        super().__init__(config, env, **kwargs)

    @classmethod
    def get_default_config(cls) -> CausewayConfig:
        """RLlib's defaults, and the README's job as the run."""
        return CausewayConfig()

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """What a trial of Tune takes: memory for its processes, and a place for each learner.

        The learners are placed in it. Collectors are placed outside, so that they can become more.
        """
        run = cls.get_default_config().update_from_dict(config).causeway_run
        gpus = {"GPU": 1.0} if run["trainer"]["device"] == "cuda" else {}
        learner = {"CPU": 1.0, **gpus}
        return PlacementGroupFactory([{"memory": TRIAL_BYTES}, *[learner] * run["run"]["learners"]])

    @classmethod
    def from_checkpoint(cls, path: str | Path | Any, filesystem: Any = None, **kwargs: Any) -> Self:
        """An algorithm that goes on from a folder which `save_to_path` has written.

        Args:
            path: the folder, or a checkpoint of Tune.
            filesystem: must be None; only local folders are read.
            kwargs: none.

        Raises:
            CheckpointError: it is no such folder, or damaged.
        """
        _refuse(filesystem=filesystem, **kwargs)
        if hasattr(path, "to_directory"):
            path = path.to_directory()
        config = CausewayConfig(cls).causeway(path=Path(path) / CONFIG_NAME)
        algorithm = cls(config)
        algorithm.restore_from_path(path)
        return algorithm

    def setup(self, config: Any) -> None:
        """Sets up what RLlib's machinery asks for, and neither runners nor learners of RLlib."""
        self._live: LiveRun | None = None
        self._restored_run: tuple[RunConfig, Checkpoint] | None = None
        self._is_stopped = False
        self._started_ray = False
        self._counted_env_steps = 0
        self.callbacks = [make() for make in force_list(config.callbacks_class)]
        self._set_up_metrics()  # type: ignore[no-untyped-call]
        make_callback(
            "on_algorithm_init",
            self.callbacks,
            config.callbacks_on_algorithm_init,
            kwargs={"algorithm": self, "metrics_logger": self.metrics},
        )

    @property
    def run_folder(self) -> Path:
        """The run's own folder; `causeway report` and the other commands take it."""
        return self._running().folder

    def training_step(self) -> None:
        """One round of the run, or a short wait where it is finished."""
        live = self._running()
        if live.run.finished:
            time.sleep(POLL_S)
        else:
            live.step()
        self._log(live.figures())

    def step(self) -> dict[str, Any]:
        """One iteration; tells Tune when the run is finished."""
        self._running()  # so that the first iteration trains as long as the others
        result: dict[str, Any] = super().step()
        result[DONE] = self._running().is_over()
        return result

    def evaluate(self, parallel_train_future: object = None) -> dict[str, Any]:
        """What the weights of this moment earn on the held-out tasks, under each protocol.

        The run evaluates by itself too, on an actor of its own (`schedule.evaluate_every`); this
        evaluates in this process, and first writes a checkpoint.

        Returns:
            The number of updates, and the returns' means and 95 % half-widths over tasks.
        """
        _refuse(parallel_train_future=parallel_train_future)
        updates, weights = self._weights()
        report = EvaluationService(self._running().config).evaluate(updates, weights)
        returns = report.returns()
        return {
            "updates": updates,
            "returns": {name: summary.mean for name, summary in returns.items()},
            "ci95": {name: summary.ci95 for name, summary in returns.items()},
        }

    def get_module(self, module_id: str = DEFAULT_MODULE_ID) -> RLModule | None:
        """The networks that act, with the weights of this moment; first writes a checkpoint."""
        if module_id != DEFAULT_MODULE_ID:
            return None
        _, weights = self._weights()
        module: RLModule = module_spec(self._running().config).build()
        cast(Any, module).policy.load_state_dict(weights)
        return module

    def save_to_path(self, path: str | Path | None = None, **kwargs: Any) -> str:
        """Writes a checkpoint that stands alone, of safetensors, JSON, YAML and Parquet.

        Args:
            path: a local folder; None makes one.
            kwargs: RLlib's other arguments, none of which has a meaning here.

        Returns:
            The folder.
        """
        _refuse(**{name: value for name, value in kwargs.items() if name != "use_msgpack"})
        live = self._running()
        target = Path(tempfile.mkdtemp() if path is None else path)
        pack(live.folder, live.run.save(), self.training_iteration, target)
        return str(target)

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Goes on from a folder that `save_to_path` has written, with this configuration.

        Raises:
            CheckpointError: it is no such folder, or damaged.
        """
        _refuse(**{f"argument_{number}": value for number, value in enumerate(args)}, **kwargs)
        if self._is_stopped:
            raise _stopped()
        checkpoint, iteration = read(Path(path))
        self._close()
        config = fresh_run(self._run_config(), self._name_suffix)
        self._restored_run = config, unpack(Path(path), checkpoint, config.folder)
        self._iteration = iteration
        self._counted_env_steps = 0
        self._metrics.reset()

    def get_state(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the state is tensors in several processes, written by `save_to_path`."""
        raise NotImplementedError("Causeway has no state as a dict: use save_to_path()")

    def set_state(self, state: object) -> NoReturn:
        """Refused, as `get_state` is."""
        raise NotImplementedError("Causeway has no state as a dict: use restore_from_path()")

    def cleanup(self) -> None:
        """Ends the run's actors and its Redis, and Ray where it was started for this."""
        self._is_stopped = True
        self._close()
        if self._started_ray:
            self._started_ray = False
            ray.shutdown()
        if self._storage is None:  # RLlib has made a folder in ~/ray_results, which stays empty
            with contextlib.suppress(OSError):
                Path(self.logdir).rmdir()

    @property
    def _metrics(self) -> MetricsLogger:
        return cast(MetricsLogger, self.metrics)

    def _run_config(self) -> RunConfig:
        return cast(CausewayConfig, self.config).to_run_config()

    def _running(self) -> LiveRun:
        """The run, started if it is not at work yet."""
        if self._is_stopped:
            raise _stopped()
        if self._live is None:
            config, checkpoint = self._restored_run or (None, None)
            if config is None:
                config = fresh_run(self._run_config(), self._name_suffix)
            config, started = join_ray(config)
            self._started_ray |= started
            self._live = LiveRun(config, checkpoint)
            self._restored_run = None
        return self._live

    def _close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.close()

    def _weights(self) -> tuple[int, dict[str, Tensor]]:
        """Updates so far and the inference parts, out of a checkpoint written now."""
        live = self._running()
        checkpoint = load_checkpoint(live.run.save())
        # Without the trainer around it: a checkpoint of a GPU's learner is read here on the CPU.
        algorithm = make_algorithm(live.config, open_data(live.config).layout)
        for name, module in algorithm.modules().items():
            prefix = f"model.{name}."
            module.load_state_dict(
                {
                    key.removeprefix(prefix): tensor
                    for key, tensor in checkpoint.tensors.items()
                    if key.startswith(prefix)
                }
            )
        return checkpoint.state["trainer"]["updates"], algorithm.policy().state_dict()

    def _log(self, figures: dict[str, Any]) -> None:
        """Gives RLlib the figures; what is newest counts, so nothing is averaged."""
        steps = figures["env_steps"]
        self._metrics.log_value(
            (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME),
            steps - self._counted_env_steps,
            reduce="lifetime_sum",
        )
        self._counted_env_steps = steps
        self._metrics.log_dict(figures, reduce="item")


def _refuse(**arguments: object) -> None:
    """Raises ValueError for an argument of RLlib that has no meaning here."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"{name} must be left out, got {value!r}: Causeway has no use for it")


def _stopped() -> RuntimeError:
    return RuntimeError("this algorithm was stopped: build another, or use from_checkpoint()")
