import pytest

from causeway.actors.tasks.family import Split, Task, find_split
from causeway.actors.tasks.point_robot import PointRobot
from causeway.actors.tasks.registry import families, load_family

OWN_FAMILY = """
from dataclasses import dataclass
from causeway.actors.tasks.point_robot import PointRobot


@dataclass(frozen=True)
class Goal:
    x: float


class MyRobot(PointRobot):
    name = "my-robot"


class Incomplete:
    name = "incomplete"
    observation_size = 2
"""


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_FAMILY)
    return path


@pytest.mark.parametrize("name", families())
def test_every_family_loads_under_its_own_name(name):
    assert load_family(name).name == name


def test_the_list_of_families_is_a_copy():
    families().clear()
    assert "point-robot" in families()


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match=r"point-robot, sparse-point-robot.*Did you mean 'point-r"):
        load_family("point-robt")


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match="got 'xyz'") as caught:
        load_family("xyz")
    assert "Did you mean" not in str(caught.value)


def test_a_users_class_loads_from_a_module():
    assert isinstance(load_family("causeway.actors.tasks.point_robot:PointRobot"), PointRobot)


def test_a_users_class_loads_from_a_file_once(own_file):
    family = load_family(f"{own_file}:MyRobot")
    assert family.name == "my-robot"
    assert type(load_family(f"{own_file}:MyRobot")) is type(family)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"must exist, got '.*absent\.py'"):
        load_family(f"{tmp_path}/absent.py:MyRobot")


def test_a_file_that_fails_to_load_fails_again(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_family(f"{path}:MyRobot")


def test_a_missing_class_lists_those_that_the_file_defines(own_file):
    with pytest.raises(ValueError, match="which has Goal, Incomplete, MyRobot"):
        load_family(f"{own_file}:MyRobt")


def test_a_class_that_is_no_family_is_told_what_it_lacks(own_file):
    with pytest.raises(ValueError, match="lacks action_size, measurement_size, horizon, splits"):
        load_family(f"{own_file}:Incomplete")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="must be importable, got 'no_such_place"):
        load_family("no_such_place.families:MyRobot")


def test_a_module_that_lacks_one_of_its_own_imports_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "needy_family.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_family("needy_family:MyRobot")


def test_an_unknown_split_lists_the_known_ones():
    assert find_split(PointRobot(), "standard") == PointRobot().splits()["standard"]
    with pytest.raises(ValueError, match="must be one of standard, got 'smac'"):
        find_split(PointRobot(), "smac")


def test_a_split_refuses_one_id_for_two_tasks():
    with pytest.raises(ValueError, match=r"\[3\] more than once"):
        Split(train=(Task(id=3), Task(id=4)), test=(Task(id=3),))
