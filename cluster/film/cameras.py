"""How environments are looked at: robots in MuJoCo's scene, points on a map, or as they show it.

A camera sees what collectors must not: the task's goal stands in the picture.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import Float32, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from causeway.actors.tasks.family import Dynamics, Task
from causeway.actors.tasks.point_robot import goal_of
from causeway.cluster.report.style import COLOURS

Picture = UInt8[np.ndarray, "H W 3"]

MAP_STEP_S = 0.1  # a step of a point has no time of its own
_GOAL = (0.90, 0.62, 0.0, 1.0)
_DOTS_PER_INCH = 100
_LEAST_BRIGHT, _SKY = 190, 242  # of the ground, of 255


class FilmError(ValueError):
    """What keeps a film from being made, and what to do about it."""


class Camera(Protocol):
    """Looks at N environments, one for each of N tasks."""

    step_s: float  # how much time an environment's step takes

    def look(self, env: int, observation: Float32[np.ndarray, "O"], env_steps: int) -> Picture:
        """One environment as it is now, after so many steps of its episode."""
        ...


@runtime_checkable
class Robots(Protocol):
    """Environments of MuJoCo's that tell their state, such as a `Simulator`."""

    num_envs: int
    step_s: float

    def state(self, env: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Copies of one's model and state."""
        ...


def find_camera(
    dynamics: Dynamics, tasks: Sequence[Task], *, planar: bool, width: int, height: int
) -> Camera:
    """What can look at such environments.

    Args:
        dynamics: the environments.
        tasks: theirs, one for each.
        planar: whether an observation is a point in the plane.
        width: of pictures, in pixels.
        height: of pictures.

    Raises:
        FilmError: nothing can.
    """
    if isinstance(dynamics, Robots):
        return RobotCamera(dynamics, tasks, width, height)
    if hasattr(dynamics, "picture"):
        return OwnCamera(dynamics)
    if planar:
        return MapCamera(tasks, width, height)
    raise FilmError(
        f"environments must be simulated robots, points in the plane, or have a method picture(n) "
        f"that gives [H, W, 3] bytes, to be filmed; {type(dynamics).__name__} are none of these"
    )


class RobotCamera:
    """MuJoCo's robots, from the side where they move in a plane, from above where they do not."""

    def __init__(self, robots: Robots, tasks: Sequence[Task], width: int, height: int) -> None:
        self._robots, self._tasks = robots, tasks
        self._models = [_plain(robots.state(env)[0]) for env in range(robots.num_envs)]
        self._renderers = [_renderer(model, width, height) for model in self._models]
        self._start = [np.zeros(3) for _ in tasks]
        self.step_s = robots.step_s

    def look(self, env: int, observation: Float32[np.ndarray, "O"], env_steps: int) -> Picture:
        """One robot as it is now, after so many steps of its episode."""
        model, renderer, task = self._models[env], self._renderers[env], self._tasks[env]
        _, data = self._robots.state(env)
        mujoco.mj_forward(model, data)
        torso = data.xpos[1].copy()
        if env_steps == 0:
            self._start[env] = torso
        renderer.update_scene(data, _view(model, torso, task))
        for costly in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[costly] = 0  # without a GPU, five sixths of a picture's time
        _mark(renderer.scene, task, torso, self._start[env], env_steps * self.step_s)
        return np.asarray(renderer.render())


class OwnCamera:
    """Environments that give pictures of themselves, of whatever size."""

    def __init__(self, dynamics: Any) -> None:
        self._dynamics = dynamics
        self.step_s = getattr(dynamics, "step_s", MAP_STEP_S)

    def look(self, env: int, observation: Float32[np.ndarray, "O"], env_steps: int) -> Picture:
        """One environment as it is now."""
        try:
            picture = np.asarray(self._dynamics.picture(env))
        except ValueError as error:
            raise FilmError(str(error)) from error
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise FilmError(
                "picture(n) must give bytes [H, W, 3], got "
                f"{picture.dtype} {list(picture.shape)} from {type(self._dynamics).__name__}"
            )
        return picture


class MapCamera:
    """Points in the plane, with where they have been in their episode."""

    step_s = MAP_STEP_S

    def __init__(self, tasks: Sequence[Task], width: int, height: int) -> None:
        size = (width / _DOTS_PER_INCH, height / _DOTS_PER_INCH)
        goals = [_goal(task) for task in tasks]
        known = [goal for goal in goals if goal is not None]
        reach = max((float(np.abs(goal).max()) for goal in known), default=0.5)
        self._panels = [_Panel(size, goal, known, 1.25 * reach) for goal in goals]

    def look(self, env: int, observation: Float32[np.ndarray, "O"], env_steps: int) -> Picture:
        """One point as it is now, after so many steps of its episode."""
        return self._panels[env].draw(observation, is_first=env_steps == 0)


class _Panel:
    """One point's map; it grows where the point leaves it."""

    def __init__(
        self,
        size: tuple[float, float],
        goal: np.ndarray | None,
        others: Sequence[np.ndarray],
        reach: float,
    ) -> None:
        self._figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, facecolor=COLOURS["shade"])
        self._canvas = FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set_axis_off()
        unit = 72.0 * min(size)  # points
        for other in others:
            self._axes.plot(*other, marker="*", markersize=unit / 20, color=COLOURS["grid"])
        if goal is not None:
            self._axes.plot(*goal, marker="*", markersize=unit / 10, color=COLOURS["goal"])
        (self._path,) = self._axes.plot([], [], color=COLOURS["after"], linewidth=unit / 90)
        (self._point,) = self._axes.plot(
            [], [], marker="o", markersize=unit / 20, color=COLOURS["ink"]
        )
        self._shape = np.array(size) / min(size)  # the shorter side shows just the reach
        self._reach, self._seen = reach, np.zeros((0, 2))

    def draw(self, position: np.ndarray, *, is_first: bool) -> Picture:
        """The map with the point where it is."""
        self._seen = np.concatenate([self._seen[:0] if is_first else self._seen, position[None]])
        self._reach = max(self._reach, 1.1 * float(np.abs(position).max()))
        across, up = self._reach * self._shape
        self._axes.set(xlim=(-across, across), ylim=(-up, up))
        self._path.set_data(*self._seen.T)
        self._point.set_data(*position[:, None])
        canvas: Any = self._canvas  # without types
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _plain(model: mujoco.MjModel) -> mujoco.MjModel:
    """The model on a light ground under a light sky, on which a robot and its goal stand out."""
    grounds = model.geom_matid[model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE]
    for texture in np.unique(model.mat_texid[grounds[grounds >= 0]]).tolist():
        if texture >= 0:
            texels = _texels(model, texture)
            texels[:] = _LEAST_BRIGHT + texels * ((255 - _LEAST_BRIGHT) / 255.0)
    for texture in np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX).tolist():
        _texels(model, texture)[:] = _SKY
    model.vis.headlight.ambient[:] = 0.3
    return model


def _texels(model: mujoco.MjModel, texture: int) -> UInt8[np.ndarray, "_"]:
    """A texture's bytes, to be written to."""
    begin = model.tex_adr[texture]
    size = model.tex_height[texture] * model.tex_width[texture] * model.tex_nchannel[texture]
    texels: np.ndarray = model.tex_data[begin : begin + size]
    return texels


def _renderer(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # what a missing driver raises differs from one to the next
        raise FilmError(
            "filming robots needs OpenGL without a window, which could not be had "
            f"({str(error).strip().splitlines()[0]}): install a driver, as with "
            "'apt-get install libegl1 libgl1-mesa-dri', and set MUJOCO_GL to egl or osmesa"
        ) from error


def _view(model: mujoco.MjModel, torso: np.ndarray, task: Task) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    camera.azimuth = 90.0
    if model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE:
        camera.lookat[:] = (torso[0], 0.0, 0.6)
        camera.distance, camera.elevation = 3.2, -10.0
    elif _goal(task) is not None:  # the whole field, goals included
        camera.lookat[:] = 0.0
        camera.distance, camera.elevation = 9.0, -60.0
    else:
        camera.lookat[:] = (torso[0], torso[1], 0.5)
        camera.distance, camera.elevation = 6.5, -35.0
    return camera


def _mark(
    scene: mujoco.MjvScene, task: Task, torso: np.ndarray, start: np.ndarray, seconds: float
) -> None:
    """Puts what the task asks for into the scene."""
    wanted = task.reward
    goal = _goal(task)
    if goal is not None:
        _add(scene, mujoco.mjtGeom.mjGEOM_SPHERE, (0.25, 0.0, 0.0), (*goal, 0.25))
    elif "velocity" in wanted:  # a post that runs ahead as fast as the robot is to run
        where = start[0] + wanted["velocity"] * seconds
        _add(scene, mujoco.mjtGeom.mjGEOM_CYLINDER, (0.04, 0.8, 0.0), (where, 0.6, 0.8))
    elif "angle" in wanted or "direction" in wanted:
        angle = wanted.get("angle", 0.0 if wanted.get("direction", 1.0) > 0.0 else np.pi)
        end = torso + 1.8 * np.array([np.cos(angle), np.sin(angle), 0.0])
        geom = _add(scene, mujoco.mjtGeom.mjGEOM_ARROW, (0.0, 0.0, 0.0), torso)
        rise = np.array([0.0, 0.0, 0.7])
        mujoco.mjv_connector(geom, mujoco.mjtGeom.mjGEOM_ARROW, 0.08, torso + rise, end + rise)


def _add(
    scene: mujoco.MjvScene,
    kind: mujoco.mjtGeom,
    size: Sequence[float],
    at: Sequence[float] | np.ndarray,
) -> Any:
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(
        geom, kind, np.array(size), np.array(at), np.eye(3).ravel(), np.array(_GOAL, np.float32)
    )
    geom.emission = 0.6  # its own light: the same colour from all sides
    scene.ngeom += 1
    return geom


def _goal(task: Task) -> np.ndarray | None:
    """Where in the plane the task's goal is, if that is what it asks for."""
    if "goal_x" not in task.reward or "goal_y" not in task.reward:
        return None
    return goal_of(task.reward)
