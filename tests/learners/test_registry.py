import subprocess
import sys

import pytest

from causeway.learners.registry import algorithms, load_algorithm
from causeway.learners.smac import Smac


def test_an_algorithm_is_found_by_its_name():
    assert load_algorithm("smac") is Smac


def test_a_users_own_algorithm_is_found_by_module_and_class():
    assert load_algorithm("causeway.learners.smac:Smac") is Smac


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match=r"one of .*smac.*got 'smak'\. Did you mean 'smac'\?"):
        load_algorithm("smak")
    with pytest.raises(ValueError, match=r"got 'zzz'\.$"):
        load_algorithm("zzz")


@pytest.mark.parametrize(
    "name", ["no_such_module:Smac", "causeway.learners.smac:Smak", ":", ".x:Y"]
)
def test_what_cannot_be_loaded_is_named(name):
    with pytest.raises(ValueError, match=f"algorithm '{name}' could not be loaded: "):
        load_algorithm(name)


def test_the_list_is_a_copy():
    algorithms().clear()
    assert "smac" in algorithms()


def test_listing_the_algorithms_imports_none_of_them():
    code = (
        "import sys; from causeway.learners.registry import algorithms; algorithms(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
