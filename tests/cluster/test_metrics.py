import importlib.util
import json
import re
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import ray

from causeway.cluster.intake import REFUSED
from causeway.cluster.metrics import CATALOGUE, MetricsWriter, RayMetrics, read_metrics


def test_rows_come_back_as_they_were_written_with_their_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"stage": "offline", "updates": 10, "losses": {"critic": 0.5}})
        writer.write({"stage": "online", "updates": np.int64(20), "online_share": np.float32(0.25)})
        first, second = read_metrics(path)  # while the writer is still open
    assert first.pop("time_s") <= second.pop("time_s")
    assert first == {"stage": "offline", "updates": 10, "losses": {"critic": 0.5}}
    assert second == {"stage": "online", "updates": 20, "online_share": 0.25}


def test_a_number_that_is_not_finite_becomes_null_so_that_the_file_stays_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"losses": {"critic": float("nan"), "actor": np.float32("inf")}})
    assert "NaN" not in path.read_text()
    assert read_metrics(path)[0]["losses"] == {"critic": None, "actor": None}


def test_a_resumed_run_goes_on_in_the_same_file_and_time(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write({"updates": 1})
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "time_s": 1000.0}) + '\n{"time_s": 1001.0, "upda')
    with MetricsWriter(path) as writer:
        writer.write({"updates": 2})
    first, second = read_metrics(path)
    assert (first["updates"], second["updates"]) == (1, 2)
    assert 1000.0 <= second["time_s"] < 1060.0


def test_a_file_with_nothing_but_a_torn_line_begins_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"time_s": 5')
    with MetricsWriter(path) as writer:
        writer.write({"updates": 1})
    assert len(read_metrics(path)) == 1


def test_a_field_outside_the_catalogue_is_refused_by_name(tmp_path):
    with (
        MetricsWriter(tmp_path / "metrics.jsonl") as writer,
        pytest.raises(ValueError, match="got speed: add them to CATALOGUE"),
    ):
        writer.write({"speed": 1.0})


def test_every_metric_has_one_name_of_the_right_form_and_says_what_it_is():
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in CATALOGUE:
        assert re.fullmatch(r"causeway_[a-z][a-z_]*[a-z]", metric.name)
        assert metric.help
        assert metric.unit


def scrape(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except urllib.error.URLError:
        return ""


def value(text, name):
    """The value of the series of that beginning, or None."""
    for line in text.splitlines():
        if line.startswith(name):
            return float(line.rsplit(" ", 1)[1])
    return None


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None,
    reason="this Ray exports no metrics: its extra is missing, pip install 'ray[default]'",
)
def test_rays_exporter_shows_gauges_and_counters_under_the_catalogues_names(local_ray):
    metrics = RayMetrics("run-1")
    metrics.record({"updates": 100, "losses": {"critic": 0.5, "actor": None}, "stage": "offline"})
    metrics.record({"updates": 90})  # back to a checkpoint: a counter stands still
    metrics.record({"updates": 130, "online_share": 0.25, "staleness": float("nan")})
    port = ray.nodes()[0]["MetricsExportPort"]
    deadline = time.monotonic() + 60.0
    while value(text := scrape(port), "ray_causeway_updates_total") is None:
        assert time.monotonic() < deadline, "Ray never exported the metrics"
        time.sleep(0.5)
    assert value(text, "ray_causeway_updates_total") == 130.0
    assert value(text, "ray_causeway_online_share") == 0.25
    assert value(text, "ray_causeway_losses") == 0.5
    assert value(text, "ray_causeway_staleness") is None
    series = next(x for x in text.splitlines() if x.startswith("ray_causeway_losses{"))
    assert 'loss="critic"' in series
    assert 'run="run-1"' in series


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None,
    reason="this Ray exports no metrics: its extra is missing, pip install 'ray[default]'",
)
def test_counters_are_there_before_anything_is_counted(local_ray):
    """Else an alert on an increase would miss the first count."""
    RayMetrics("run-2")
    counters = [metric for metric in CATALOGUE if metric.kind == "counter"]
    expected = {
        (f"ray_{metric.name}_total", frozenset({("run", "run-2"), *label}))
        for metric in counters
        for label in ([{(metric.tag, one)} for one in metric.labels] if metric.tag else [set()])
    }
    assert len(expected) > len(counters)
    port, deadline = ray.nodes()[0]["MetricsExportPort"], time.monotonic() + 60.0
    while missing := {one for one in expected if not shows(scrape(port), *one, number=0.0)}:
        assert time.monotonic() < deadline, missing
        time.sleep(0.5)


def shows(text, name, labels, *, number):
    """Whether there is a series of that name with at least these labels, at that number."""
    for line in text.splitlines():
        found = set(re.findall(r'(\w+)="([^"]*)"', line))
        if line.startswith(f"{name}{{") and labels <= found:
            return float(line.rsplit(" ", 1)[1]) == number
    return False


def test_the_labels_that_begin_at_0_are_those_of_refused_commits():
    (dropped,) = [metric for metric in CATALOGUE if metric.field == "shards_dropped"]
    assert {result.value for result in REFUSED} <= set(dropped.labels)
