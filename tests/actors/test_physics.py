import copy
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from causeway.actors.robots import Cheetah, Hopper, Walker, load_model
from causeway.actors.tasks.cheetah_mass_damping import CheetahMassDamping
from causeway.actors.tasks.hopper_params import HopperParams
from causeway.actors.tasks.physics import (
    named_parameters,
    random_parameters,
    set_parameters,
)
from causeway.actors.tasks.walker_params import WalkerParams

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


def nominal_parameters(robot):
    """The parameters that a robot has of itself."""
    named = {}
    for field in ("body_mass", "body_inertia", "dof_damping", "geom_friction"):
        named.update(named_parameters(robot, field, getattr(load_model(robot), field)))
    return named


def edited_hopper(parameters):
    """The model that a task's parameters ask for, made by hand."""
    model = mujoco.MjModel.from_xml_path(str(ASSETS / "hopper.xml"))
    for name, value in parameters.items():
        field, owner, *axis = name.split("/")
        if field.startswith("body"):
            index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, owner)
        elif field == "geom_friction":
            index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, owner)
        else:
            joint = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, owner)
            index = model.jnt_dofadr[joint]
        getattr(model, field)[(index, *map(int, axis))] = value
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def test_environments_with_bodies_of_their_own_move_as_those_bodies_alone():
    tasks = HopperParams().splits()["standard"].tasks[:4]
    dynamics = HopperParams.dynamics([task.dynamics for task in tasks], threads=2)
    dynamics.reset(np.random.default_rng(0))
    alone = [(m, mujoco.MjData(m)) for m in (edited_hopper(task.dynamics) for task in tasks)]
    for n, (model, data) in enumerate(alone):
        data.qpos[:], data.qvel[:] = dynamics._qpos[n], dynamics._qvel[n]
        mujoco.mj_forward(model, data)
    actions = np.random.default_rng(1).uniform(-1.0, 1.0, (100, 4, 3)).astype(np.float32)
    running = np.ones(4, bool)
    for action in actions:
        ended = dynamics.step(action).ended
        for n in np.flatnonzero(running):
            model, data = alone[n]
            data.ctrl[:] = action[n]
            mujoco.mj_step(model, data, 4)
            np.testing.assert_array_equal(dynamics._qpos[n], data.qpos)
            np.testing.assert_array_equal(dynamics._qvel[n], data.qvel)
        running &= ~ended
    assert not running.any()
    assert np.ptp(dynamics._qpos[:, 0]) > 1e-3  # bodies do differ


def test_factors_scale_masses_and_damping_and_nothing_else():
    dynamics = CheetahMassDamping.dynamics([{"mass_factor": 1.5, "damping_factor": 0.5}])
    model, nominal = dynamics._batch.get_model(0), load_model(Cheetah)
    np.testing.assert_allclose(model.body_mass, 1.5 * nominal.body_mass)
    np.testing.assert_allclose(model.dof_damping, 0.5 * nominal.dof_damping)
    np.testing.assert_array_equal(model.body_inertia, nominal.body_inertia)
    np.testing.assert_array_equal(model.geom_friction, nominal.geom_friction)
    # What MuJoCo derives from masses follows them.
    np.testing.assert_allclose(model.body_subtreemass, 1.5 * nominal.body_subtreemass)
    assert (model.body_invweight0[1] < nominal.body_invweight0[1]).all()


def test_the_shared_model_stays_as_it_was():
    nominal = copy.copy(load_model(Hopper))
    task = HopperParams().splits()["standard"].train[0]
    HopperParams.dynamics([task.dynamics])
    for field in ("body_mass", "body_inertia", "dof_damping", "geom_friction", "body_subtreemass"):
        np.testing.assert_array_equal(getattr(load_model(Hopper), field), getattr(nominal, field))


def test_without_parameters_a_body_is_the_models_own():
    own, plain = HopperParams.dynamics([{}]), HopperParams.dynamics([{}, {}])
    named = HopperParams.dynamics([nominal_parameters(Hopper)])
    for dynamics in (own, plain, named):
        dynamics.reset(np.random.default_rng(0))
    for action in np.random.default_rng(1).uniform(-1.0, 1.0, (50, 3)).astype(np.float32):
        for dynamics in (own, plain, named):
            dynamics.step(np.tile(action, (dynamics.num_envs, 1)))
        np.testing.assert_array_equal(own.observe()[0], plain.observe()[0])
        np.testing.assert_array_equal(own.observe(), named.observe())


def test_a_tasks_model_is_built_once():
    tasks = WalkerParams().splits()["standard"].train[:2]
    first = WalkerParams.dynamics([task.dynamics for task in tasks])
    again = WalkerParams.dynamics([task.dynamics for task in reversed(tasks)])
    assert first._batch.models[0] is again._batch.models[1]
    assert first._batch.models[0] is not first._batch.models[1]


@pytest.mark.parametrize("robot", [Hopper, Walker])
def test_draws_fill_their_ranges_element_by_element(robot):
    generator = np.random.default_rng(0)
    nominal = nominal_parameters(robot)
    draws = [random_parameters(robot, generator) for _ in range(200)]
    for name, value in nominal.items():
        base = 1.3 if name.startswith("dof_damping") else 1.5
        exponents = [np.log(draw[name] / value) / np.log(base) for draw in draws]
        assert -3.0 <= min(exponents) < -2.6
        assert 2.6 < max(exponents) <= 3.0
    exponents = np.log([list(draw.values()) for draw in draws])
    correlation = np.corrcoef(exponents.T) - np.eye(len(nominal))
    assert np.abs(correlation).max() < 0.4  # each element is drawn by itself


def test_parameters_are_the_bodys_joints_and_geoms():
    names = set(nominal_parameters(Hopper))
    assert len(names) == 4 + 12 + 3 + 15
    assert {"body_mass/torso", "body_inertia/foot/2", "dof_damping/leg_joint"} <= names
    assert {"geom_friction/floor/0", "geom_friction/foot_geom/2"} <= names
    assert not any("world" in name or "root" in name for name in names)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"body_mass/tail": 1.0}, "Hopper's dynamics parameters must be among body_mass/torso"),
        ({"body_mass/torso": -1.0}, "body_mass/torso must be at least 0, got -1"),
        ({"body_mass/torso": np.nan}, "body_mass/torso must be at least 0, got nan"),
    ],
)
def test_parameters_that_no_body_has_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        set_parameters(Hopper, copy.copy(load_model(Hopper)), parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"friction_factor": 1.0}, "among mass_factor, damping_factor, got 'friction_factor'"),
        ({"mass_factor": 0.0}, "mass_factor must be above 0, got 0"),
    ],
)
def test_factors_that_make_no_cheetah_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        CheetahMassDamping.dynamics([parameters])
