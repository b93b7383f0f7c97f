import subprocess
import sys
import textwrap

import mujoco
import pytest

from causeway.actors import mujoco_process
from causeway.actors.mujoco_process import disable_profiling, prepare_process, restore_profiling

XML = "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"


@pytest.fixture(autouse=True)
def _as_simulators_leave_it():
    prepare_process()
    yield
    restore_profiling()
    disable_profiling()


def timed_s():
    """What MuJoCo's own timer says of a few steps."""
    model = mujoco.MjModel.from_xml_string(XML)
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 50)
    return data.timer[mujoco.mjtTimer.mjTIMER_STEP].duration


def test_the_timer_stops_and_runs_again():
    restore_profiling()
    assert timed_s() > 0.0
    assert disable_profiling()
    assert timed_s() == 0.0
    restore_profiling()
    assert timed_s() > 0.0


def test_a_timer_that_somebody_set_is_left_to_them():
    ticks = []

    def clock():
        ticks.append(None)
        return float(len(ticks))

    mujoco.set_mjcb_time(clock)
    try:
        assert not disable_profiling()
        restore_profiling()
        assert timed_s() > 0.0
        assert ticks
    finally:
        mujoco.set_mjcb_time(None)


@pytest.mark.parametrize("contents", [None, "not a library"])
def test_without_the_librarys_variable_the_timer_keeps_running(contents, tmp_path, monkeypatch):
    restore_profiling()
    if contents is not None:
        (tmp_path / "libmujoco.so.9").write_text(contents)
    monkeypatch.setattr(mujoco_process.mujoco, "__file__", str(tmp_path / "__init__.py"))
    assert not disable_profiling()
    assert timed_s() > 0.0


def test_a_library_without_the_variable_is_passed_over(tmp_path, monkeypatch):
    import _ctypes

    (tmp_path / "libmujoco.so.9").symlink_to(_ctypes.__file__)
    monkeypatch.setattr(mujoco_process.mujoco, "__file__", str(tmp_path / "__init__.py"))
    restore_profiling()
    assert not disable_profiling()
    assert timed_s() > 0.0


def test_no_log_of_mujocos_appears_where_one_works(tmp_path):
    script = """
        import logging
        import numpy as np
        logging.basicConfig(level=logging.DEBUG)
        from causeway.actors.tasks.cheetah_vel import CheetahVel
        dynamics = CheetahVel.dynamics([{}] * 4, threads=2)
        dynamics.reset(np.random.default_rng(0))
        dynamics._qvel[:] = np.nan
        assert dynamics.step(np.zeros((4, 6), np.float32)).diverged.all()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert list(tmp_path.iterdir()) == []
    assert "The simulation is unstable" in done.stderr
    assert done.stdout == ""
