"""`CausewayModule`: a trained policy as RLlib's `RLModule`, for export and for acting with it."""

from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.torch_utils import convert_to_torch_tensor
from torch import Tensor

from causeway.actors.tasks.registry import load_family
from causeway.cluster.config import RunConfig
from causeway.cluster.config_io import structure, to_plain
from causeway.datasets.policy import AdaptivePolicy
from causeway.learners.registry import load_algorithm

LATENT, BELIEF = "latent", "belief"


class CausewayModule(TorchRLModule, InferenceOnlyAPI):
    """The inference parts of an algorithm; `module.policy` is the `AdaptivePolicy` itself.

    A batch holds `obs` [N, O], or [N, T, O] as RLlib's connectors give it to modules with a state,
    and `state_in`, which says what the policy takes the task to be:

        {"latent": [N, ...]}   act on this latent
        {"belief": [N, ...]}   draw a latent from this belief first, one per row

    The answer holds `actions` in [-1, 1] and `state_out` with the latent, to be given back in the
    next step. The initial state is a latent from the prior. To adapt, call
    `module.policy.adapt(context)` between episodes and give its belief as the state.
    Inference is deterministic given the latent, exploration is not. On the CPU.

    `save_to_path` and `RLModule.from_checkpoint` write and read RLlib's own format, which holds
    pickles: load such a folder only if you trust who made it.
    """

    policy: AdaptivePolicy

    def setup(self) -> None:
        """Builds the networks that `model_config` names; see `module_spec`."""
        settings = cast(dict[str, Any], self.model_config)
        algorithm = load_algorithm(settings["algorithm"])
        hyperparameters = structure(
            algorithm.Config, settings["hyperparameters"], "CausewayModule.model_config"
        )
        sizes = (_size(self.observation_space), _size(self.action_space))
        self.policy = algorithm(*sizes, hyperparameters).policy()
        seed = int(torch.randint(2**62, ()))  # so that torch.manual_seed governs the draws
        self._generator = torch.Generator().manual_seed(seed)

    def get_non_inference_attributes(self) -> list[str]:
        """None: there is nothing here that acting does not need."""
        return []

    def get_initial_state(self) -> dict[str, Tensor]:
        """A latent drawn from the prior, without the batch's axis."""
        return {LATENT: self.policy.draw(self.policy.prior(1), self._generator)[0]}

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The policy's weights as arrays."""
        return cast(dict[str, Any], convert_to_numpy(self.policy.state_dict()))

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes the policy's weights."""
        self.policy.load_state_dict(convert_to_torch_tensor(state))

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, None)

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, self._generator)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError(
            "a CausewayModule acts and is not trained by RLlib: train with Causeway.train()"
        )

    def _act(self, batch: dict[str, Any], generator: torch.Generator | None) -> dict[str, Any]:
        observation, latent = batch[Columns.OBS], self._latent(batch.get(Columns.STATE_IN) or {})
        if observation.ndim == 2:
            action = self.policy.act(observation, latent, generator)
        else:
            num_steps = observation.shape[1]
            each = latent.repeat_interleave(num_steps, dim=0)
            action = self.policy.act(observation.flatten(0, 1), each, generator)
            action = action.reshape(-1, num_steps, action.shape[-1])
        return {Columns.ACTIONS: action, Columns.STATE_OUT: {LATENT: latent}}

    def _latent(self, state: dict[str, Tensor]) -> Tensor:
        if LATENT in state:
            return state[LATENT]
        if BELIEF in state:
            return self.policy.draw(state[BELIEF], self._generator)
        raise ValueError(
            f"a batch's {Columns.STATE_IN} must hold {LATENT!r} or {BELIEF!r}, got "
            f"{', '.join(state) or 'nothing'}: begin with module.get_initial_state()"
        )


def _size(space: Any) -> int:
    """The number of values in a space of ours, which are flat."""
    (size,) = space.shape
    return int(size)


def module_spec(config: RunConfig) -> RLModuleSpec:
    """How RLlib builds the networks that act in a run's environments."""
    family = load_family(config.data.family)
    return RLModuleSpec(
        module_class=CausewayModule,
        observation_space=gym.spaces.Box(-np.inf, np.inf, (family.observation_size,)),
        action_space=gym.spaces.Box(-1.0, 1.0, (family.action_size,)),
        inference_only=True,
        model_config={
            "algorithm": config.run.algorithm,
            "hyperparameters": to_plain(config.hyperparameters),
        },
    )
