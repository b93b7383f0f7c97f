"""Bodies that differ: physical parameters of a robot's model by name, and random draws of them.

A parameter is one number of the model, named `field/object` or `field/object/axis`:

    body_mass/torso       kg
    body_inertia/torso/0  kg m^2, about the first principal axis of the body
    dof_damping/leg_joint N m s / rad
    geom_friction/floor/0 of sliding; 1 is torsion, 2 rolling
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import mujoco
import numpy as np

from causeway.actors.robots import Robot, load_model

# How the random-parameter families of PEARL and MACAW vary each field, element by element: times
# base^u, u uniform in [-3, 3]. Elements that are 0, such as the world's mass, stay 0.
VARIED = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}
LARGEST_EXPONENT = 3.0


def random_parameters(robot: type[Robot], generator: np.random.Generator) -> dict[str, float]:
    """One draw of all varied parameters of the robot."""
    model, drawn = load_model(robot), {}
    for field, base in VARIED.items():
        nominal = getattr(model, field)
        exponent = generator.uniform(-LARGEST_EXPONENT, LARGEST_EXPONENT, nominal.shape)
        drawn.update(named_parameters(robot, field, nominal * base**exponent))
    return drawn


def named_parameters(robot: type[Robot], field: str, values: np.ndarray) -> dict[str, float]:
    """A whole field's values by name, without those that are 0."""
    return {
        name: float(values[place])
        for name, (of, place) in _places(robot).items()
        if of == field and values[place] != 0.0
    }


def set_parameters(
    robot: type[Robot], model: mujoco.MjModel, parameters: Mapping[str, float]
) -> None:
    """Writes parameters into a model, which must not be the shared one.

    Raises:
        ValueError: a name that the robot does not have, or a value that is negative.
    """
    places = _places(robot)
    for name, value in parameters.items():
        if name not in places:
            raise ValueError(
                f"{robot.__name__}'s dynamics parameters must be among {', '.join(places)}; "
                f"got {name!r}"
            )
        if not 0.0 <= value < np.inf:
            raise ValueError(f"dynamics parameter {name} must be at least 0, got {value}")
        field, place = places[name]
        getattr(model, field)[place] = value


@cache
def _places(robot: type[Robot]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Where each of the robot's parameters stands in the model: field and index, by name."""
    model = load_model(robot)
    return {
        "/".join([field, names(model, place[0]), *map(str, place[1:])]): (field, place)
        for field, names in _NAMES.items()
        for place in _indices(getattr(model, field))
    }


def _indices(values: np.ndarray) -> Iterator[tuple[int, ...]]:
    """The places of a field that are not 0."""
    return (tuple(place) for place in np.argwhere(values != 0.0).tolist())


_NAMES: dict[str, Callable[[mujoco.MjModel, int], str]] = {
    "body_mass": lambda model, index: model.body(index).name,
    "body_inertia": lambda model, index: model.body(index).name,
    "dof_damping": lambda model, index: model.joint(model.dof_jntid[index]).name,
    "geom_friction": lambda model, index: model.geom(index).name,
}
