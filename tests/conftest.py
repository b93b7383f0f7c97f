"""Shared set-up: one thread for torch, shapes checked at run time, an order for two processes."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MUJOCO_GL", "egl")  # pictures without a window; read once, at import
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only
os.environ.pop("COLUMNS", None)  # the processes of xdist are given one: tables are as wide as piped

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["causeway.datasets.batches", "causeway.learners"], "beartype.beartype")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the longest files go first, so that both processes end together."""
    first = ("learning", "ray")
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in first])


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A small data set of point robots, made once; tests must not change it."""
    from tests.tiny_runs import make_data

    return make_data(tmp_path_factory.mktemp("point-robot"))
