"""The MuJoCo robots: which model each is, how its episodes start, and how its state is read.

Models are gymnasium's own (MIT). Time steps, frame skips, starts and the conditions under which a
robot has fallen are those of gymnasium's environments of version 5, to which stepping agrees.
What is read from bodies, such as `xpos`, is as gymnasium's environments read it: that of the last
substep.

Contact forces on bodies (`cfrc_ext`) are not simulated. A step of MuJoCo leaves them 0 unless a
sensor asks for them, as it did for PEARL's and SMAC's authors. Gymnasium's version 5 computes them
after each step, where they change a reward by little and motion by nothing.
"""

from abc import ABC, abstractmethod
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Float64

from causeway.actors.mujoco_process import prepare_process

try:
    from mujoco.batch import Batch
except ImportError as error:
    raise ImportError(
        f"simulators need MuJoCo 4 or later, for mujoco.batch, got {mujoco.__version__}: "
        "pip install -U mujoco, and Meta-World, which wants 3.3, in an environment of its own"
    ) from error

VELOCITY_LIMIT = 10.0  # of what hoppers and walkers observe


class Robot(ABC):
    """One robot, N times: made for a batch of simulations, which it reads.

    What it gives holds nothing of a task. A *place* is where the robot is, P numbers that are
    compared before and after a step.
    """

    model_file: ClassVar[str]  # among gymnasium's assets
    frame_skip: ClassVar[int]  # MuJoCo's steps in one of ours
    observation_size: ClassVar[int]
    action_size: ClassVar[int]
    measurement_size: ClassVar[int]
    start_noise: ClassVar[float]  # of positions and velocities about the model's own
    starts_normal: ClassVar[bool] = False  # velocities at the start: normal, not uniform

    def __init__(self, batch: Batch) -> None:
        self._qpos, self._qvel = batch.bind("qpos"), batch.bind("qvel")

    @abstractmethod
    def observe(self, out: Float[np.ndarray, "N O"]) -> None:
        """Writes observations into an array of float32 or float64."""

    @abstractmethod
    def place(self) -> Float64[np.ndarray, "N P"]:
        """Where the robots are, in memory of its own."""

    @abstractmethod
    def measure(
        self, before: Float64[np.ndarray, "N P"], after: Float64[np.ndarray, "N P"], step_s: float
    ) -> Float64[np.ndarray, "N M"]:
        """What true rewards read of a step that took `step_s` seconds."""

    def has_fallen(self) -> Bool[np.ndarray, "N"]:
        """Which robots are beyond what a task that ends for it allows; none, where it cannot."""
        return np.zeros(len(self._qpos), bool)


class Cheetah(Robot):
    """Half-cheetah: a planar runner of two legs.

    observation  qpos without x (8), qvel (9), position of the torso (3), as PEARL's; gymnasium's
                 own has the first 17
    measurement  velocity along x, m/s
    """

    model_file = "half_cheetah.xml"
    frame_skip = 5
    observation_size = 20
    action_size = 6
    measurement_size = 1
    start_noise = 0.1
    starts_normal = True

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._torso = batch.bind("xpos")[:, 1]

    def observe(self, out: Float[np.ndarray, "N 20"]) -> None:
        """Writes observations into an array of float32 or float64."""
        out[:, :8] = self._qpos[:, 1:]
        out[:, 8:17] = self._qvel
        out[:, 17:] = self._torso

    def place(self) -> Float64[np.ndarray, "N 1"]:
        """The slider's x."""
        return np.array(self._qpos[:, :1])

    def measure(
        self, before: Float64[np.ndarray, "N 1"], after: Float64[np.ndarray, "N 1"], step_s: float
    ) -> Float64[np.ndarray, "N 1"]:
        """The mean velocity along x."""
        return np.asarray((after - before) / step_s)


class _Hopping(Robot):
    """A planar robot that gymnasium lets fall: qpos without x, qvel clipped to [-10, 10]."""

    frame_skip = 4
    measurement_size = 1
    start_noise = 5e-3

    def observe(self, out: Float[np.ndarray, "N O"]) -> None:
        """Writes observations into an array of float32 or float64."""
        split = self._qpos.shape[1] - 1
        out[:, :split] = self._qpos[:, 1:]
        np.clip(
            self._qvel, -VELOCITY_LIMIT, VELOCITY_LIMIT, out=out[:, split:], casting="same_kind"
        )

    def place(self) -> Float64[np.ndarray, "N 1"]:
        """The slider's x."""
        return np.array(self._qpos[:, :1])

    def measure(
        self, before: Float64[np.ndarray, "N 1"], after: Float64[np.ndarray, "N 1"], step_s: float
    ) -> Float64[np.ndarray, "N 1"]:
        """The mean velocity along x, m/s."""
        return np.asarray((after - before) / step_s)


class Hopper(_Hopping):
    """Hopper: one leg in the plane.

    observation  qpos without x (5), qvel within [-10, 10] (6)
    measurement  velocity along x, m/s
    fallen       height <= 0.7, |angle| >= 0.2, or any other number of the state beyond 100
    """

    model_file = "hopper.xml"
    observation_size = 11
    action_size = 3

    def has_fallen(self) -> Bool[np.ndarray, "N"]:
        """Which robots are beyond what a task that ends for it allows."""
        height, angle = self._qpos[:, 1], self._qpos[:, 2]
        largest = np.maximum(np.abs(self._qpos[:, 2:]).max(1), np.abs(self._qvel).max(1))
        return np.asarray((height <= 0.7) | (np.abs(angle) >= 0.2) | (largest >= 100.0))


class Walker(_Hopping):
    """Walker2d: two legs in the plane.

    observation  qpos without x (8), qvel within [-10, 10] (9)
    measurement  velocity along x, m/s
    fallen       height outside (0.8, 2), or |angle| >= 1
    """

    model_file = "walker2d_v5.xml"
    observation_size = 17
    action_size = 6

    def has_fallen(self) -> Bool[np.ndarray, "N"]:
        """Which robots are beyond what a task that ends for it allows."""
        height, angle = self._qpos[:, 1], self._qpos[:, 2]
        return np.asarray((height <= 0.8) | (height >= 2.0) | (np.abs(angle) >= 1.0))


class Ant(Robot):
    """Ant: a torso on four legs.

    observation  qpos without x and y (13), qvel (14)
    measurement  velocity of the torso along x and y, m/s; its position x, y
    fallen       height of the torso outside [0.2, 1]
    """

    model_file = "ant.xml"
    frame_skip = 5
    observation_size = 27
    action_size = 8
    measurement_size = 4
    start_noise = 0.1
    starts_normal = True

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self._torso = batch.bind("xpos")[:, 1, :2]

    def observe(self, out: Float[np.ndarray, "N 27"]) -> None:
        """Writes observations into an array of float32 or float64."""
        out[:, :13] = self._qpos[:, 2:]
        out[:, 13:] = self._qvel

    def place(self) -> Float64[np.ndarray, "N 2"]:
        """The torso's x and y."""
        return np.array(self._torso)

    def measure(
        self, before: Float64[np.ndarray, "N 2"], after: Float64[np.ndarray, "N 2"], step_s: float
    ) -> Float64[np.ndarray, "N 4"]:
        """Velocity and position."""
        return np.concatenate([(after - before) / step_s, after], axis=1)

    def has_fallen(self) -> Bool[np.ndarray, "N"]:
        """Which robots are beyond what a task that ends for it allows."""
        height = self._qpos[:, 2]
        return np.asarray((height < 0.2) | (height > 1.0))


class PlacedAnt(Ant):
    """An ant that sees where it is.

    observation  qpos (15), qvel (14)
    """

    observation_size = 29

    def observe(self, out: Float[np.ndarray, "N 29"]) -> None:
        """Writes observations into an array of float32 or float64."""
        out[:, :15] = self._qpos
        out[:, 15:] = self._qvel


class Humanoid(Robot):
    """Humanoid: 17 joints on two legs.

    observation  376: qpos without x and y (22), qvel (23), and of all 14 bodies, the world's zeros
                 included, inertia (140) and velocity (84), then forces of actuators (23) and
                 contact forces (84, all 0), as in gymnasium's version 4
    measurement  velocity of the centre of mass along x and y, m/s
    fallen       height of the torso outside (1, 2)
    """

    model_file = "humanoid.xml"
    frame_skip = 5
    observation_size = 376
    action_size = 17
    measurement_size = 2
    start_noise = 1e-2

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        names = ("cinert", "cvel", "qfrc_actuator")
        self._parts = [batch.bind(name).reshape(batch.nsim, -1) for name in names]
        self._centres = batch.bind("xipos")[:, :, :2]
        self._share = batch.model.body_mass / batch.model.body_mass.sum()

    def observe(self, out: Float[np.ndarray, "N 376"]) -> None:
        """Writes observations into an array of float32 or float64."""
        parts = [self._qpos[:, 2:], self._qvel, *self._parts]
        np.concatenate(parts, axis=1, out=out[:, :292], casting="same_kind")
        out[:, 292:] = 0.0

    def place(self) -> Float64[np.ndarray, "N 2"]:
        """The centre of mass's x and y."""
        return np.asarray(np.einsum("b,nbi->ni", self._share, self._centres))

    def measure(
        self, before: Float64[np.ndarray, "N 2"], after: Float64[np.ndarray, "N 2"], step_s: float
    ) -> Float64[np.ndarray, "N 2"]:
        """The mean velocity along x and y."""
        return np.asarray((after - before) / step_s)

    def has_fallen(self) -> Bool[np.ndarray, "N"]:
        """Which robots are beyond what a task that ends for it allows."""
        height = self._qpos[:, 2]
        return np.asarray((height <= 1.0) | (height >= 2.0))


@cache
def load_model(robot: type[Robot]) -> mujoco.MjModel:
    """The robot's model, shared by all who ask: copy it before you edit it.

    Island discovery and the midphase of collision detection are off. Both only save time, in
    models of many bodies; a test holds what they leave equal to the bit.
    """
    prepare_process()
    model = mujoco.MjModel.from_xml_path(str(_assets() / robot.model_file))
    disabled = mujoco.mjtDisableBit.mjDSBL_ISLAND | mujoco.mjtDisableBit.mjDSBL_MIDPHASE
    model.opt.disableflags |= int(disabled)
    return model


def _assets() -> Path:
    """Where gymnasium keeps its models; its environments are not imported for that."""
    found = find_spec("gymnasium")
    assert found is not None  # it is required
    assert found.origin is not None
    return Path(found.origin).parent / "envs" / "mujoco" / "assets"
