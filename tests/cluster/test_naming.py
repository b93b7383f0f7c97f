import pytest

from causeway.cluster.naming import actor_name, check_run_name, redis_key


def test_names_carry_the_run():
    assert redis_key("run-1", "ledger") == "causeway:{run-1}:ledger"
    assert actor_name("run-1", "collector", 3) == "causeway:run-1:collector-3"
    assert actor_name("run-1", "weights") == "causeway:run-1:weights"


@pytest.mark.parametrize("run", ["", "a b", "a:b", "a{b}", "a/b"])
def test_a_run_name_that_would_break_keys_is_refused(run):
    with pytest.raises(ValueError, match="a run's name must consist of"):
        check_run_name(run)
