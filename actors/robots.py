"""The MuJoCo robots: which model each is, how its episodes start, and how its state is read.

Models are gymnasium's own (MIT). Time steps, frame skips, starts and the conditions under which a
robot has fallen are those of gymnasium's environments of version 5, to which stepping agrees.
What is read from bodies (`xpos`, `xipos`, contact forces) is as gymnasium leaves it: that of the
last substep's beginning.
"""

from abc import ABC, abstractmethod
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Float64
from mujoco.batch import Batch

from causeway.actors.mujoco_process import prepare_process

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
    reads_contact_forces: ClassVar[bool] = False

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
    reads_contact_forces = False

    def __init__(self, batch: Batch) -> None:
        self._qpos, self._qvel = batch.bind("qpos"), batch.bind("qvel")
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


@cache
def load_model(robot: type[Robot]) -> mujoco.MjModel:
    """The robot's model, shared by all who ask: copy it before you edit it.

    Island discovery and the midphase of collision detection are off. Both only save time, in
    models of many bodies; a test holds what they leave equal to the bit.
    """
    prepare_process()
    path = _assets() / robot.model_file
    model = _with_contact_forces(path) if robot.reads_contact_forces else _plain(path)
    disabled = mujoco.mjtDisableBit.mjDSBL_ISLAND | mujoco.mjtDisableBit.mjDSBL_MIDPHASE
    model.opt.disableflags |= int(disabled)
    return model


def _plain(path: Path) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(path))


def _with_contact_forces(path: Path) -> mujoco.MjModel:
    """The model with a sensor, without which MuJoCo's steps do not compute contact forces."""
    spec = mujoco.MjSpec.from_file(str(path))
    site = spec.worldbody.first_body().add_site(name="contact_forces")
    spec.add_sensor(
        type=mujoco.mjtSensor.mjSENS_ACCELEROMETER,
        objtype=mujoco.mjtObj.mjOBJ_SITE,
        objname=site.name,
    )
    return spec.compile()


def _assets() -> Path:
    """Where gymnasium keeps its models; its environments are not imported for that."""
    found = find_spec("gymnasium")
    assert found is not None  # it is required
    assert found.origin is not None
    return Path(found.origin).parent / "envs" / "mujoco" / "assets"
