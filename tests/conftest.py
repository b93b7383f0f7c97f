"""Shared set-up: one thread for torch, shapes checked at run time, an order for two processes."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook(["causeway.datasets.batches", "causeway.learners"], "beartype.beartype")
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps each file's tests, and all that start a Ray, in one process; the longest go first."""
    ranks = {"ray": 0, "learning": 1}
    ranked = []
    for item in items:
        kind = next((name for name in ranks if item.get_closest_marker(name)), None)
        item.add_marker(pytest.mark.xdist_group("ray" if kind == "ray" else str(item.path)))
        ranked.append((ranks.get(kind or "", len(ranks)), item))
    items[:] = [item for _, item in sorted(ranked, key=lambda pair: pair[0])]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A small data set of point robots, made once; tests must not change it."""
    from tests.tiny_runs import make_data

    return make_data(tmp_path_factory.mktemp("point-robot"))
