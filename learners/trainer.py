"""The loop: sample, losses, step, and the whole state of it, so that a resumed run is the same run.

The trainer knows one process and one device. Where its blocks come from and where its weights go
is the business of `cluster`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from causeway.datasets.batches import MetaBatch, MetaBlock, RowLayout
from causeway.learners.algorithm import Algorithm, Losses, Stage


class DivergedError(RuntimeError):
    """A loss is not finite: the weights since the last checkpoint cannot be trusted."""


@dataclass(frozen=True, slots=True)
class BlockMeans:
    """What a block of updates minimised and watched, each the mean over its updates."""

    losses: dict[str, float]
    watched: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How the losses are stepped."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"  # of the networks' products, by autocast
    threads: int = 1  # of torch in the learner; with collectors beside it, leave them a core

    def __post_init__(self) -> None:
        """Refuses values that no machine has."""
        if self.threads < 1:
            raise ValueError(f"TrainerConfig.threads must be >= 1, got {self.threads}")

    def torch_device(self) -> torch.device:
        """The device that `auto` means here.

        Raises:
            ValueError: `cuda` was asked for and there is none.
        """
        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise ValueError(
                "TrainerConfig.device is 'cuda' but torch sees no CUDA device: install a CUDA "
                "build of torch, or set the device to 'auto' or 'cpu'"
            )
        return torch.device("cuda" if available and self.device != "cpu" else "cpu")


class Trainer:
    """Steps one algorithm; logs exactly the tensors that it minimised."""

    def __init__(
        self, algorithm: Algorithm, layout: RowLayout, config: TrainerConfig, *, seed: int
    ) -> None:
        self.algorithm, self.layout, self.config = algorithm, layout, config
        self.device = config.torch_device()
        for module in algorithm.modules().values():
            module.to(self.device)
        groups = algorithm.parameter_groups()
        self._rates = [(group["lr"], group.pop("half_life", None)) for group in groups]
        self.optimiser = torch.optim.Adam(groups, fused=True)
        self._seed = seed
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.stage = algorithm.stages()[0]
        self.updates = 0
        self._divergence: str | None = None  # in words, once a loss or a weight is not finite
        # Where several trainers are one: replaces gradients by their mean over all, in place.
        self.mean_gradients: Callable[[list[Tensor]], None] | None = None

    def enter(self, stage: Stage) -> None:
        """Goes over to a stage; what it freezes neither computes gradients nor steps."""
        modules = self.algorithm.modules()
        for name in (*stage.trains, *stage.frozen):
            modules[name].requires_grad_(name in stage.trains)
            modules[name].zero_grad(set_to_none=True)
        self.stage = stage

    def update(self, batch: MetaBatch) -> Losses:
        """One step on the sum of the stage's losses; gives the very tensors that were minimised."""
        with self._autocast():
            losses = self.algorithm.losses(batch, self.stage, self.generator)
        self.optimiser.zero_grad(set_to_none=True)
        self._decay_rates()
        torch.stack(list(losses.minimised.values())).sum().backward()  # type: ignore[no-untyped-call]
        if self.mean_gradients is not None:
            self.mean_gradients([p.grad for p in self._parameters() if p.grad is not None])
        self.optimiser.step()
        self.algorithm.after_update(self.stage)
        self.updates += 1
        return losses.detached()

    def run_block(self, block: MetaBlock) -> BlockMeans:
        """Every update of a block.

        Raises:
            DivergedError: a loss or a weight is not finite. From then on the trainer gives neither
                weights nor a state, until it is loaded from a sound one.
        """
        self._refuse_diverged()
        logs = [self.update(batch) for batch in block.meta_batches(self.layout, self.device)]
        means = BlockMeans(
            losses=_means([log.minimised for log in logs]),
            watched=_means([log.watched for log in logs]),
        )
        self._check_finite(means.losses)
        return means

    def weights(self) -> dict[str, Tensor]:
        """A copy of the inference parts on the CPU, for broadcast; later updates leave it alone."""
        self._refuse_diverged()
        state = self.algorithm.policy().state_dict()
        return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that an equal continuation needs: tensors by name, and what JSON can hold."""
        self._refuse_diverged()
        tensors = self._model_tensors()
        adam = self.optimiser.state_dict()
        for index, slots in adam["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in slots.items()}
        tensors["generator"] = self.generator.get_state()
        copies = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        values = {"updates": self.updates, "stage": self.stage.name, "device": self.device.type}
        return copies, values

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Continues from `state()`: bit for bit on the same kind of device, else with new draws.

        Raises:
            ValueError: the state is of other networks, the first of whose names is given, or of a
                stage that the algorithm lacks. Nothing was loaded.
        """
        stage = self._stage_of(values["stage"])
        self.load_networks(tensors)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = value.clone()
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})
        self.updates = int(values["updates"])
        if values.get("device", self.device.type) == self.device.type:
            self.generator.set_state(tensors["generator"].cpu())
        else:  # the two kinds of generator have no state in common: a new, reproducible stream
            self.generator.manual_seed(self._seed + self.updates)
        self._divergence = None
        self.enter(stage)

    def load_networks(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the networks of a `state()` and nothing else of it: where another run starts.

        Raises:
            ValueError: they are other networks. Nothing was loaded.
        """
        self._check_networks({n: t for n, t in tensors.items() if n.startswith("model.")})
        for name, mine in self._model_tensors().items():
            mine.copy_(tensors[name])

    def _decay_rates(self) -> None:
        """Halves the rate of each group that has a half-life once in so many updates, smoothly."""
        for group, (rate, half_life) in zip(self.optimiser.param_groups, self._rates, strict=True):
            if half_life is not None:
                group["lr"] = rate * 0.5 ** (self.updates / half_life)

    def _model_tensors(self) -> dict[str, Tensor]:
        """Every network's own tensors, not copies, by module and name."""
        return {
            f"model.{module}.{name}": value
            for module, network in self.algorithm.modules().items()
            for name, value in network.state_dict().items()
        }

    def _check_networks(self, theirs: Mapping[str, Tensor]) -> None:
        mine = self._model_tensors()
        for name in (*mine, *theirs):
            here, there = (list(t[name].shape) if name in t else "absent" for t in (mine, theirs))
            if here != there:
                raise ValueError(
                    f"the checkpoint must be of the configured networks, got {there} for "
                    f"{name!r}, which is {here} here: resume with the configuration of its run"
                )

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def _stage_of(self, name: str) -> Stage:
        stages = {stage.name: stage for stage in self.algorithm.stages()}
        if name not in stages:
            raise ValueError(
                f"the checkpoint's stage must be one of {', '.join(stages)}, got {name!r}: "
                "resume with the algorithm of its run"
            )
        return stages[name]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        norms = torch.stack(torch._foreach_norm(self._parameters()))
        if bad or not bool(torch.isfinite(norms).all()):
            self._divergence = (
                f"training diverged in stage {self.stage.name!r} by update {self.updates}: "
                f"{', '.join(bad) or 'a weight'} is not finite. Continue from the last checkpoint "
                "with a smaller learning_rate, or check the data's scale"
            )
            self._refuse_diverged()

    def _refuse_diverged(self) -> None:
        """Lets nothing out of a trainer whose weights mean nothing: no update, weights or state."""
        if self._divergence is not None:
            raise DivergedError(self._divergence)


def _means(logs: list[dict[str, Tensor]]) -> dict[str, float]:
    names = list(logs[0])
    stacked = torch.stack([torch.stack([log[name] for name in names]) for log in logs])
    return dict(zip(names, stacked.float().mean(0).tolist(), strict=True))
