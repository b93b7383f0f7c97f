"""Point robots whose simulator takes its time: collectors that wait, as on nodes of their own."""

import time

from causeway.actors.tasks.point_robot import PointDynamics, PointRobot

STEP_S = 0.02  # of all environments of a collector together


class SlowDynamics(PointDynamics):
    """Sleeps before each step."""

    def step(self, action):
        """As a simulator that needs no core of this machine."""
        time.sleep(STEP_S)
        return super().step(action)


class SlowRobot(PointRobot):
    """Point robots on such a simulator."""

    @staticmethod
    def dynamics(tasks_dynamics):
        """One slow point per entry."""
        return SlowDynamics(len(tasks_dynamics), PointRobot.horizon)
