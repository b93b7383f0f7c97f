"""What is deployed passes the check of its own tool, and says what the code needs it to say."""

import re

import yaml

from tests.deploy.checking import DEPLOY, passes, tool


def test_the_image_is_built_as_its_linter_wants_it():
    passes(tool("hadolint"), str(DEPLOY / "Dockerfile"))


def test_the_image_pins_what_is_needed_at_versions_that_the_package_allows():
    lines = (DEPLOY / "constraints.txt").read_text().splitlines()[1:]
    pins = dict(line.split("==") for line in lines)
    assert pins["ray"].startswith("2.60.")
    assert {"torch", "numpy", "pyarrow", "redis", "mujoco"} <= pins.keys()


def test_the_image_copies_files_that_there_are():
    copied = re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    missing = [
        name
        for line in copied
        for name in line.split()
        if not (DEPLOY.parent / name).exists() and name != "LICENSE"
    ]
    assert missing == []


def test_compose_is_what_its_schema_says():
    passes(
        tool("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        str(DEPLOY / "compose.yaml"),
    )


def test_compose_publishes_ports_on_the_loopback_interface_alone():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_ray_node_of_compose_asks_for_the_token():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    nodes = [s for s in services.values() if str(s.get("command", "")).startswith("ray ")]
    assert len(nodes) == 3
    assert all(node["environment"]["RAY_AUTH_MODE"] == "token" for node in nodes)
    assert all(node["init"] for node in nodes)


def test_prometheus_takes_its_configuration_and_its_rules():
    promtool, folder = tool("promtool"), DEPLOY / "prometheus"
    passes(promtool, "check", "config", str(folder / "prometheus.yaml"))
    passes(promtool, "check", "rules", str(folder / "rules.yaml"))


def test_each_alert_fires_when_it_should():
    passes(tool("promtool"), "test", "rules", str(DEPLOY / "prometheus" / "rules_test.yaml"))
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tested = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yaml").read_text())
    cases = [case for test in tested["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
