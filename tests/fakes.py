"""Small stand-ins with the real shapes: policies that no one trained, families of a few lines."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from causeway.actors.tasks.family import Split, Starts, Step, Task, one_for_each
from causeway.datasets.batches import ContextBatch


class SeekingPolicy:
    """Walks to where it believes the goal is: the best place that its context has seen.

    Its belief is a Gaussian over the goal's position, [N, 2, 2]; a latent is a goal. Its one weight
    is how fast it walks. It keeps what it was asked, for tests to look at.
    """

    def __init__(self, size: int = 2, gain: float = 1.0, action_noise: float = 0.3) -> None:
        self.size = size
        self.gain = torch.tensor([gain])
        self.action_noise = action_noise
        self.contexts: list[ContextBatch] = []  # of every `adapt`
        self.label_contexts: list[ContextBatch] = []
        self.drawn: list[Tensor] = []  # the beliefs of every `draw`
        self.were_actions_drawn: list[bool] = []

    def prior(self, num_tasks: int) -> Tensor:
        shape = (num_tasks, self.size)
        return torch.stack([torch.zeros(shape), torch.ones(shape)], dim=1)

    def adapt(self, context: ContextBatch) -> Tensor:
        self.contexts.append(context)
        return self._belief(context)

    def draw(self, belief: Tensor, generator: torch.Generator) -> Tensor:
        self.drawn.append(belief)
        noise = torch.randn(belief[:, 0].shape, generator=generator)
        return belief[:, 0] + belief[:, 1].sqrt() * noise

    def act(self, observation: Tensor, latent: Tensor, generator: torch.Generator | None) -> Tensor:
        self.were_actions_drawn.append(generator is not None)
        action = self.gain * (latent - observation) / 0.1
        if generator is not None:
            noise = torch.randn(action.shape, generator=generator)
            action = action.clamp(-1.0, 1.0) + self.action_noise * noise
        return action.clamp(-1.0, 1.0)

    def label(
        self,
        context: ContextBatch,
        observation: Tensor,
        action: Tensor,
        next_observation: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        self.label_contexts.append(context)
        belief = self._belief(context)
        noise = torch.randn(belief[:, 0].shape, generator=generator)
        goal = belief[:, 0] + belief[:, 1].sqrt() * noise
        return -(next_observation - goal[:, None]).norm(dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        return {"gain": self.gain.clone()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        self.gain = state_dict["gain"]

    def _belief(self, context: ContextBatch) -> Tensor:
        reward = context.reward.masked_fill(~context.mask, -torch.inf)
        best = reward.argmax(dim=1)
        mean = context.next_observation[torch.arange(len(best)), best]
        variance = 1e-4 * torch.ones_like(mean) / context.mask.sum(1, keepdim=True)
        return torch.stack([mean, variance], dim=1)


class LedgeDynamics:
    """N points on lines: beyond its edge a point falls, and its episode terminates.

    A point whose edge is not a number diverges at every step.
    """

    horizon = 8

    def __init__(self, edges: Sequence[float]) -> None:
        self.num_envs = len(edges)
        self._edges = np.array(edges)[:, None]
        self._start = np.zeros((self.num_envs, 1))
        self._position = self._start
        self._env_steps = 0

    def reset(self, generators: Starts) -> np.ndarray:
        each = one_for_each(generators, self.num_envs)
        self._position = np.stack([one.uniform(-0.05, 0.05, 1) for one in each])
        self._env_steps = 0
        return self._position.astype(np.float32)

    def step(self, action: np.ndarray) -> Step:
        before = self._position
        self._position = before + 0.1 * action
        self._env_steps += 1
        return Step(
            next_observation=self._position.astype(np.float32),
            measurement=self._position - before,
            terminated=(self._position >= self._edges)[:, 0],
            truncated=np.full(self.num_envs, self._env_steps >= self.horizon),
            diverged=np.isnan(self._edges)[:, 0],
        )


class LedgeRobot:
    """Tasks differ in dynamics (where the edge is) and reward (what a step to the right pays)."""

    name = "ledge-robot"
    observation_size = 1
    action_size = 1
    measurement_size = 1  # how far the step went
    horizon = LedgeDynamics.horizon

    def splits(self) -> dict[str, Split]:
        tasks = [
            Task(id=i, reward={"pay": pay}, dynamics={"edge": edge})
            for i, (pay, edge) in enumerate([(1.0, 0.15), (1.0, 0.35), (-1.0, 9.0), (2.0, 0.25)])
        ]
        return {"standard": Split(train=tuple(tasks[:2]), test=tuple(tasks[2:]))}

    @staticmethod
    def dynamics(tasks_dynamics: Sequence[Mapping[str, float]]) -> LedgeDynamics:
        return LedgeDynamics([parameters["edge"] for parameters in tasks_dynamics])

    def reward(
        self,
        task_rewards: Sequence[Mapping[str, float]],
        observation: np.ndarray,
        action: np.ndarray,
        next_observation: np.ndarray,
        measurement: np.ndarray,
    ) -> np.ndarray:
        pay = np.array([parameters["pay"] for parameters in task_rewards])
        pay = pay.reshape(len(pay), *[1] * (observation.ndim - 2))
        return (pay * measurement[..., 0]).astype(np.float32)

    def optimal_return(self, task: Task) -> None:
        return None
