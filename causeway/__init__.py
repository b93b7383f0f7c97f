"""Offline meta-reinforcement learning on Ray, with online self-supervision."""

__version__ = "0.1.0"
