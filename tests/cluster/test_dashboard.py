"""The dashboard in the repository is the one that the catalogue gives, and it shows all of it."""

import json
import re
from pathlib import Path

import yaml

from causeway.cluster.dashboard import dashboard
from causeway.cluster.metrics import CATALOGUE

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
EXPORTED = {
    f"ray_{metric.name}{'_total' if metric.kind == 'counter' else ''}": metric
    for metric in CATALOGUE
}


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions():
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_the_dashboard_that_is_deployed_is_made_from_the_catalogue():
    deployed = json.loads((DEPLOY / "grafana" / "causeway.json").read_text())
    assert deployed == dashboard(), "python -m causeway.cluster.dashboard makes it anew"


def test_every_metric_is_shown_and_nothing_else_is_asked_for():
    asked = {name for text in expressions() for name in re.findall(r"ray_causeway_\w+", text)}
    assert asked == set(EXPORTED)


def test_alerts_ask_for_metrics_that_there_are():
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    names = {name for text in asked for name in re.findall(r"ray_causeway_\w+", text)}
    assert names <= set(EXPORTED)


def test_no_expression_goes_by_a_worker():
    """A worker's id changes with each restart, so a series of its own would break off there."""
    assert all(re.match(r"(max|sum) by \(run(, \w+)?\)", text) for text in expressions())


def test_panels_neither_overlap_nor_leave_the_grid():
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)
