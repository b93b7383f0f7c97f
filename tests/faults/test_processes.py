"""`causeway train` as a process of its own: interrupted, killed, and gone on with."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from causeway.cluster.checkpoint import load_latest
from causeway.cluster.cli.main import run as causeway
from causeway.cluster.launch import existing_run
from causeway.cluster.metrics import read_metrics
from causeway.cluster.streams import open_data
from tests.tiny_runs import assert_exact, ledger_of, online_parts, results_of, write_yaml

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0  # for a process on a machine that is busy with others
NAME = "demo"
RAYS_AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")  # notice the loss themselves, in a minute
SERIAL = ("--run.serial", "true", "--schedule.updates.online", "1000000")
ENDLESS = ("--schedule.updates.online", "1000000", "--schedule.evaluate_every", "1000000")


@pytest.fixture
def start(tmp_path):
    """Starts `causeway` as a process at the head of a group of its own, as a terminal does."""
    processes = []

    def call(*words):
        log = (tmp_path / f"log-{len(processes)}").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "causeway", *words],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        processes.append(process)
        return process

    yield call
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def said(folder):
    """The end of what the last process printed."""
    return max(folder.glob("log-*")).read_text()[-2000:]


def wait_for(process, folder, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {said(folder)}"
        assert time.monotonic() < deadline, said(folder)
        time.sleep(0.05)


def updates_of(run):
    path = run / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return rows[-1]["updates"] if rows else 0


def shorten(run, updates):
    """Makes the run's online stage end after so many updates, for its resumption to finish."""
    path = run / "config.yaml"
    text = path.read_text()
    assert "online: 1000000" in text
    path.write_text(text.replace("online: 1000000", f"online: {updates}"))


def stat_of(pid):
    """Of a process: its name, its parent, and when it began; None for one that has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(") ")
    state, parent, *fields = rest.split()
    return None if state in "ZX" else (name, int(parent), fields[17])


def descendants_of(pid):
    """Every process that this one has started, also through others, with what tells it."""
    found = {int(path.name): stat_of(path.name) for path in Path("/proc").glob("[0-9]*")}
    family, before = {pid}, 0
    while len(family) > before:
        before = len(family)
        family |= {child for child, stat in found.items() if stat and stat[1] in family}
    return {child: found[child] for child in family - {pid}}


def left_of(family, patience_s):
    """Those of the processes that have not ended after so long."""

    def alive():
        now = {pid: stat_of(pid) for pid in family}
        return {p: s for p, s in now.items() if s and (s[0], s[2]) == family[p][::2]}

    deadline = time.monotonic() + patience_s
    while (left := alive()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def finish(start, run, folder):
    """Resumes a run in a process and waits for its end."""
    process = start("resume", str(run))
    assert process.wait(PATIENCE_S) == 0, said(folder)
    assert {"offline", "online"} <= results_of(run).keys()
    assert (run / "report.html").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_serial_run_asked_to_end_leaves_a_checkpoint(start, tmp_path, tiny_data, number, code):
    """An order that was obeyed ends with 0, as those expect who evict and stop jobs."""
    process = start("train", str(write_yaml(tmp_path, tiny_data)), *SERIAL, "--run.name", NAME)
    run = tmp_path / NAME
    wait_for(process, tmp_path, lambda: updates_of(run) >= 30)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == code, said(tmp_path)
    checkpoint, faults = load_latest(run)
    assert (checkpoint.state["trainer"]["updates"], faults) == (updates_of(run), [])
    assert f"causeway resume {run}" in " ".join(said(tmp_path).split())
    shorten(run, updates_of(run))
    assert causeway(["resume", str(run)]) == 0
    assert results_of(run)["updates"] == updates_of(run)


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_ends_a_distributed_run_in_order_and_resume_finishes_it(start, tmp_path, tiny_data):
    process = start("train", str(write_yaml(tmp_path, tiny_data)), *ENDLESS, "--run.name", NAME)
    run = tmp_path / NAME
    wait_for(process, tmp_path, lambda: len(online_parts(run)) >= 5)
    family = descendants_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to every process of the group
    assert process.wait(PATIENCE_S) == 130, said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert not left_of(family, patience_s=10)
    assert causeway(["status", str(run)]) == 2
    config, checkpoint, faults = existing_run(run)
    updates = checkpoint.state["trainer"]["updates"]
    assert (updates, faults) == (updates_of(run), [])
    committed = ledger_of(run, NAME)
    assert_exact(committed, run, open_data(config).layout)

    shorten(run, updates + 50)
    finish(start, run, tmp_path)
    records = ledger_of(run, NAME)
    assert records[: len(committed)] == committed
    assert_exact(records, run, open_data(config).layout)
    assert results_of(run)["updates"] == updates + 70
    assert sum(r.rows for r in records) == results_of(run)["self_supervised_transitions"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_takes_everything_with_it_and_resume_loses_no_shard(
    start, tmp_path, tiny_data
):
    process = start("train", str(write_yaml(tmp_path, tiny_data)), *ENDLESS, "--run.name", NAME)
    run = tmp_path / NAME
    wait_for(process, tmp_path, lambda: len(online_parts(run)) >= 20)
    family = descendants_of(process.pid)
    process.kill()
    process.wait()
    ours = {pid: stat for pid, stat in family.items() if stat[0] not in RAYS_AGENTS}
    assert len(ours) > 5
    assert not left_of(ours, patience_s=30)
    assert causeway(["status", str(run)]) == 2

    config, checkpoint, faults = existing_run(run)
    assert faults == []
    committed = ledger_of(run, NAME)
    known = {entry["sequence"] for entry in checkpoint.state["run"]["stream"]["online"]}
    assert len(committed) >= max(20, len(known))
    shorten(run, checkpoint.state["trainer"]["updates"] + 50)
    finish(start, run, tmp_path)
    records = ledger_of(run, NAME)
    assert records[: len(committed)] == committed
    assert_exact(records, run, open_data(config).layout)
    assert sum(r.rows for r in records) == results_of(run)["self_supervised_transitions"]
