"""Many MuJoCo robots stepped together in native code, each with a model of its own if need be.

A simulator is `Dynamics`: it gives observations and measurements and holds no reward. Its states
are bit for bit those of one `mujoco.MjData` per robot, whatever the number of threads.
"""

from collections.abc import Sequence

import mujoco
import numpy as np
from jaxtyping import Bool, Float32, Float64
from mujoco.batch import Batch, SimulationError

from causeway.actors.robots import Robot
from causeway.actors.tasks.family import Starts, Step, one_for_each

_FIRST_BAD = mujoco.mjtWarning.mjWARN_BADQPOS.value  # then velocity, acceleration, control
_BAD_CONTROL = mujoco.mjtWarning.mjWARN_BADCTRL.value


class Simulator:
    """N robots, each in an episode of its own.

    A robot whose state is no longer finite, or beyond MuJoCo's limit of 1e10, has *diverged*: it is
    put back to its model's pose, counted, and marked in `Step.diverged` and `Step.truncated`. What
    that step answers for it is finite and belongs to no episode.
    """

    def __init__(
        self,
        robot: type[Robot],
        models: Sequence[mujoco.MjModel],
        *,
        horizon: int,
        ends_when_fallen: bool,
        threads: int,
    ) -> None:
        """Sets up the simulations; `reset` comes first.

        Args:
            robot: what to simulate and how to read it.
            models: one for each of the N robots; they may be one and the same, and nobody may edit
                them from here on.
            horizon: steps after which an episode is truncated.
            ends_when_fallen: whether an episode terminates when its robot falls.
            threads: of the native code, 1 or more.
        """
        if not models:
            raise ValueError("models must be one for each robot, got none")
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        first = models[0]
        self.num_envs = len(models)
        self.num_diverged = 0  # since the simulator was made
        self._horizon = horizon
        self._ends_when_fallen = ends_when_fallen
        self._sizes = (robot.observation_size, robot.measurement_size)
        self._frame_skip = robot.frame_skip
        self.step_s = first.opt.timestep * robot.frame_skip
        self._batch = Batch(first, self.num_envs, threads)
        if any(model is not first for model in models):
            self._batch.set_models(models)
        self._noise = (robot.start_noise, robot.starts_normal)
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")
        self._control, self._warnings = self._batch.bind("ctrl"), self._batch.warning[:, :, 1]
        self._control_scale = first.actuator_ctrlrange[:, 1].copy()
        self._robot = robot(self._batch)
        self._running = np.zeros(self.num_envs, bool)
        self._env_steps = np.zeros(self.num_envs, np.int64)
        self._place = np.zeros((self.num_envs, 0))

    def reset(self, generators: Starts) -> Float32[np.ndarray, "N O"]:
        """Starts an episode in every environment."""
        return self.restart(np.ones(self.num_envs, bool), generators)

    def restart(
        self, ended: Bool[np.ndarray, "N"], generators: Starts
    ) -> Float32[np.ndarray, "N O"]:
        """Starts a new episode in the marked environments and leaves the others as they are.

        Args:
            ended: where to start one.
            generators: what starts are drawn from: one, from which the marked environments draw in
                their order, or one for each of the N environments.

        Returns:
            The observations of all N environments.
        """
        ids = np.flatnonzero(ended).astype(np.int32)
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE)
        each = one_for_each(generators, self.num_envs)
        for index in ids.tolist():
            self._perturb(index, each[index])
        self._batch.forward(ids)
        self._running[ids] = True
        self._env_steps[ids] = 0
        self._place = self._robot.place()
        return self._observe()

    def step(self, action: Float32[np.ndarray, "N A"]) -> Step:
        """One step of every robot; actions are clipped to [-1, 1] and scaled to its controls.

        A robot whose episode has ended stands still until it is restarted.
        """
        np.multiply(action, self._control_scale, out=self._control)  # MuJoCo clips
        diverged = self._advance()
        before, self._place = self._place, self._robot.place()
        self._env_steps += 1
        observation = self._observe()
        diverged |= ~np.isfinite(observation).all(axis=1)
        measurement = self._robot.measure(before, self._place, self.step_s)
        nothing = np.zeros(self.num_envs, bool)
        terminated = self._robot.has_fallen() if self._ends_when_fallen else nothing
        truncated = self._env_steps >= self._horizon
        if diverged.any():
            observation = self._put_back(diverged)
            measurement[diverged] = 0.0
            terminated &= ~diverged
            truncated |= diverged
        self._running &= ~(terminated | truncated)
        return Step(
            next_observation=observation,
            measurement=measurement,
            terminated=terminated,
            truncated=truncated,
            diverged=diverged,
        )

    def observe(self) -> Float64[np.ndarray, "N O"]:
        """The observations as they are now, in full precision."""
        observation = np.empty((self.num_envs, self._sizes[0]))
        self._robot.observe(observation)
        return observation

    def state(self, env: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Copies of one robot's model and state, for looking at it; bodies lie where they did."""
        return self._batch.get_model(env), self._batch.get_data(env)

    def _observe(self) -> Float32[np.ndarray, "N O"]:
        observation = np.empty((self.num_envs, self._sizes[0]), np.float32)
        self._robot.observe(observation)
        return observation

    def _perturb(self, index: int, generator: np.random.Generator) -> None:
        """Noise about the model's pose, drawn as gymnasium's environments draw it."""
        noise, is_normal = self._noise
        self._qpos[index] += generator.uniform(-noise, noise, self._qpos.shape[1])
        size = self._qvel.shape[1]
        if is_normal:
            self._qvel[index] += noise * generator.standard_normal(size)
        else:
            self._qvel[index] += generator.uniform(-noise, noise, size)

    def _advance(self) -> Bool[np.ndarray, "N"]:
        """Steps the simulations; gives those whose states MuJoCo found bad."""
        diverged = np.zeros(self.num_envs, bool)
        try:
            # Episodes that fall early leave most of a batch idle: what has ended costs nothing.
            self._batch.step(None if self._running.all() else self._running, self._frame_skip)
        except SimulationError as error:
            diverged[error.ids] = True
        # MuJoCo puts a bad state back by itself, and all that tells it is this count.
        bad = self._warnings[:, _FIRST_BAD:]
        if bad.any():
            if (wrong := self._warnings[:, _BAD_CONTROL] > 0).any():
                index = int(np.flatnonzero(wrong)[0])
                raise ValueError(
                    f"actions must be finite, got {self._control[index]} for environment {index}: "
                    "the policy's weights may have diverged"
                )
            diverged |= bad.any(axis=1)
        return diverged

    def _put_back(self, diverged: Bool[np.ndarray, "N"]) -> Float32[np.ndarray, "N O"]:
        self.num_diverged += int(diverged.sum())
        self._batch.reset(np.flatnonzero(diverged).astype(np.int32))
        self._place = self._robot.place()
        return self._observe()
