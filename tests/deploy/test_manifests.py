"""What is deployed passes the check of its own tool, and says what the code needs it to say."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from causeway.cluster.config import load_run_config
from causeway.cluster.jobs import check_for_cluster

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RAY_FILES = ("rayjob.yaml", "raycluster.yaml")
CRDS = "CAUSEWAY_KUBERAY_CRDS"  # a folder with KubeRay's custom resource definitions


def tool(name):
    """A validator beside this Python or on PATH; the tests that need an absent one are skipped."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def passes(*command, **options):
    answer = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def cluster_of(name):
    (document,) = documents(DEPLOY / "kuberay" / name)
    spec = document["spec"]
    return spec.get("rayClusterSpec", spec)


def groups_of(cluster):
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


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


def test_plain_kubernetes_objects_are_valid():
    files = [str(DEPLOY / "kuberay" / f"{name}.yaml") for name in ("redis", "storage", "network")]
    passes(tool("kubernetes-validate"), "--strict", *files)


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_pods_of_a_ray_cluster_are_valid_pods(name, tmp_path):
    """The operator adds to them, so that they must be pods as they stand."""
    for number, group in enumerate(groups_of(cluster_of(name))):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}}
        pod["spec"] = group["template"]["spec"]
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(pod))
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    assert len(files) == 3
    passes(tool("kubernetes-validate"), "--strict", *files)


@pytest.mark.parametrize("name", RAY_FILES)
def test_ray_objects_are_what_the_operators_schema_says(name, tmp_path):
    if CRDS not in os.environ:
        pytest.skip(f"{CRDS} names no folder with KubeRay's custom resource definitions")
    (document,) = documents(DEPLOY / "kuberay" / name)
    definition = f"ray.io_{document['kind'].lower()}s.yaml"
    (crd,) = documents(Path(os.environ[CRDS]) / definition)
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(version["schema"]["openAPIV3Schema"]))
    passes(
        tool("check-jsonschema"),
        "--schemafile",
        str(schema),
        str(DEPLOY / "kuberay" / name),
    )


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_operator_would_refuse_nothing_that_its_schema_lets_pass(name):
    cluster = cluster_of(name)
    assert "gcsFaultToleranceOptions" in cluster
    for group in groups_of(cluster):
        for container in group["template"]["spec"]["containers"]:
            names = {variable["name"] for variable in container["env"]}
            assert not names & {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS", "RAY_REDIS_PASSWORD"}
        assert not {"redis-password", "labels"} & group["rayStartParams"].keys()
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", RAY_FILES)
def test_a_ray_cluster_survives_what_it_is_made_for(name):
    """The head holds no work, the learner a GPU, collectors a resource; all need the token."""
    cluster = cluster_of(name)
    learner, collectors = cluster["workerGroupSpecs"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert learner["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert json.loads(json.loads(collectors["rayStartParams"]["resources"]))["collector"] == 4
    assert collectors["rayStartParams"]["num-cpus"] == "0"
    assert "tolerations" in collectors["template"]["spec"]
    assert "tolerations" not in learner["template"]["spec"]
    for group, drain_s in ((learner, 120), (collectors, 30)):
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > drain_s


def test_the_job_and_the_standing_cluster_are_the_same_cluster():
    assert cluster_of("rayjob.yaml") == cluster_of("raycluster.yaml")


def test_the_jobs_command_is_one_that_causeway_takes():
    (job,) = documents(DEPLOY / "kuberay" / "rayjob.yaml")
    program, command, file, flag, *overrides = shlex.split(job["spec"]["entrypoint"])
    assert (program, command, flag) == ("causeway", "train", "--or-resume")
    config = load_run_config(DEPLOY / file, overrides)
    check_for_cluster(config)
    assert config.collection.resources == {"collector": 1}
    assert config.collection.cpus_per_collector == 0.0
    assert job["spec"]["metadata"]["run"] == config.name
    assert job["spec"]["metadata"]["family"] == config.data.family
    wait_s = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
    learner = cluster_of("rayjob.yaml")["workerGroupSpecs"][0]["template"]["spec"]
    assert learner["terminationGracePeriodSeconds"] > int(wait_s)


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
