"""Families by name, and a user's own by `module:Class` or `path/file.py:Class`.

A family of ours is its file and a line here.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from causeway.actors.tasks.family import Family, missing_members

_FAMILIES = {
    "point-robot": "causeway.actors.tasks.point_robot:PointRobot",
    "sparse-point-robot": "causeway.actors.tasks.point_robot:SparsePointRobot",
    "cheetah-vel": "causeway.actors.tasks.cheetah_vel:CheetahVel",
    "cheetah-dir": "causeway.actors.tasks.cheetah_dir:CheetahDir",
    "cheetah-mass-damping": "causeway.actors.tasks.cheetah_mass_damping:CheetahMassDamping",
    "ant-dir": "causeway.actors.tasks.ant_dir:AntDir",
    "ant-goal": "causeway.actors.tasks.ant_goal:AntGoal",
    "humanoid-dir": "causeway.actors.tasks.humanoid_dir:HumanoidDir",
    "hopper-params": "causeway.actors.tasks.hopper_params:HopperParams",
    "walker-params": "causeway.actors.tasks.walker_params:WalkerParams",
    "metaworld-reach": "causeway.actors.tasks.meta_world:MetaworldReach",
    "metaworld-push": "causeway.actors.tasks.meta_world:MetaworldPush",
}


def families() -> dict[str, str]:
    """Every family that comes with Causeway: its name and where its class is."""
    return dict(_FAMILIES)


def load_family(name: str) -> Family:
    """The family of that name, or a user's own.

    Args:
        name: a name that `families` lists, `module:Class` of anything importable, or
            `path/file.py:Class`. The file's code is run.

    Raises:
        ValueError: the name leads to no family; the message says which part of it failed.
    """
    location = _FAMILIES.get(name, name)
    place, colon, class_name = location.rpartition(":")
    if not colon:
        raise ValueError(_unknown_name(name))
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    family_class = getattr(module, class_name, None)
    if not isinstance(family_class, type):
        known = sorted(n for n, v in vars(module).items() if _is_own_class(v, module))
        raise ValueError(
            f"family {name!r} must name a class of {place}, which has "
            f"{', '.join(known) or 'none'}: check the part after the colon"
        )
    family = family_class()
    if lacking := missing_members(family):
        raise ValueError(
            f"family {name!r} must have every member of causeway.actors.tasks.family.Family, "
            f"its class lacks {', '.join(lacking)}"
        )
    checked: Family = family
    return checked


def _is_own_class(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _unknown_name(name: str) -> str:
    nearest = difflib.get_close_matches(name, _FAMILIES, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return (
        f"family must be one of {', '.join(_FAMILIES)}, or module:Class or path/file.py:Class "
        f"for one of your own, got {name!r}.{hint}"
    )


def _load_module(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        # A module that exists and lacks one of *its* imports must say so itself.
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"family's module must be importable, got {place!r}: "
            "check the part before the colon and PYTHONPATH, or give path/file.py:Class"
        ) from error


def _load_file(path: Path) -> ModuleType:
    """The module in a file, under a name that two files called alike do not share."""
    if not path.is_file():
        raise ValueError(f"family's file must exist, got {str(path)!r}: check the path")
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"causeway_family_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # for an existing *.py there always is one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up while it loads
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
