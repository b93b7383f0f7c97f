"""What MuJoCo keeps once for the whole process: a timer that costs time, and where warnings go.

Both are set when the first simulator is made, and only where nobody else has set them.
"""

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

import mujoco

_LOGGER = logging.getLogger(__name__)


@cache
def prepare_process() -> None:
    """Makes MuJoCo fast and quiet in this process; only the first call does anything.

    Its warnings go to this module's logger, at level DEBUG, in place of a file MUJOCO_LOG.TXT in
    the working directory. A state that diverges is reported by simulators themselves.
    """
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(lambda message: _LOGGER.debug("MuJoCo: %s", message))
    disable_profiling()


def disable_profiling() -> bool:
    """Stops MuJoCo's profiling timer, which takes 15 to 20 % of a small model's step.

    MuJoCo's bindings install a native callback that reads the clock several times per step, for
    `MjData.timer` alone, and `mujoco.set_mjcb_time(None)` only restores it. So the library's own
    variable is cleared. A callback that somebody set from Python stays.

    Returns:
        Whether the timer is off. Where the library has no such variable it is left as it is.
    """
    callback = _time_callback()
    if callback is None or mujoco.get_mjcb_time() is not None:
        return False
    callback.value = None
    return True


def restore_profiling() -> None:
    """Makes MuJoCo's timer run again, as after its import."""
    if mujoco.get_mjcb_time() is None:
        mujoco.set_mjcb_time(None)


def _time_callback() -> Any:
    """The library's variable `mjcb_time`, or None where it cannot be reached."""
    for path in sorted(Path(mujoco.__file__).parent.glob("libmujoco.so*")):
        try:
            return ctypes.c_void_p.in_dll(ctypes.CDLL(str(path)), "mjcb_time")
        except (OSError, ValueError):  # not loadable, or without the variable
            continue
    return None
