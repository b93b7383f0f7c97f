"""The Kubernetes objects, with and without each overlay: valid, and what the code needs of them."""

import json
import os
import re
import shlex
from pathlib import Path

import jsonpatch
import pytest
import yaml

from causeway.cluster.config import load_run_config
from causeway.cluster.jobs import check_for_cluster
from tests.deploy.checking import DEPLOY, documents, passes, tool

KUBERAY = DEPLOY / "kuberay"
CRDS = "CAUSEWAY_KUBERAY_CRDS"  # a folder with KubeRay's custom resource definitions
OVERLAYS = [(), ("gpu",), ("tls",), ("gpu", "tls")]
OF_RAY = ("RayJob", "RayCluster")
# Two kinds of a base, each under every choice of overlays.
RENDERED = pytest.mark.parametrize(
    "objects",
    [(base, chosen) for base in ("job", "cluster") for chosen in OVERLAYS],
    ids=lambda choice: "-".join((choice[0], *choice[1])),
    indirect=True,
)


def kustomization(folder):
    """What a kustomization asks for."""
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def resources(folder):
    """The objects of a kustomization without components."""
    found = []
    for name in kustomization(folder)["resources"]:
        path = folder / name
        found += resources(path) if path.is_dir() else documents(path)
    return found


def apart(found):
    """A copy in which no two places are one object, as YAML's aliases are."""
    return json.loads(json.dumps(found))


def patched(found, folder):
    """The objects with the component of that folder applied: its patches and its maps of files."""
    component = kustomization(folder)
    assert component["kind"] == "Component"
    found = apart(found)
    for patch in component["patches"]:
        operations = apart(yaml.safe_load((folder / patch["path"]).read_text()))
        for index, each in enumerate(found):
            if each["kind"] == patch["target"]["kind"]:
                found[index] = jsonpatch.apply_patch(each, operations)
    for made in component.get("configMapGenerator", ()):
        assert made["options"] == {"disableNameSuffixHash": True}
        data = {name: (folder / name).read_text() for name in made["files"]}
        meta = {"name": made["name"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
    return found


def rendered(base, overlays):
    """The objects of a base under overlays."""
    found = resources(KUBERAY / base)
    for overlay in overlays:
        found = patched(found, KUBERAY / overlay)
    return found


@pytest.fixture
def objects(request):
    return rendered(*request.param)


def of_ray(objects):
    """The one object of the operator."""
    (found,) = [each for each in objects if each["kind"] in OF_RAY]
    return found


def cluster_of(objects):
    """The specification of its cluster."""
    spec = of_ray(objects)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups_of(cluster):
    """The specifications of head, learner and collectors."""
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def environment(container):
    """A container's variables by name."""
    return {variable["name"]: variable for variable in container["env"]}


@pytest.mark.parametrize("base", ["job", "cluster"])
@pytest.mark.parametrize("overlays", OVERLAYS, ids="-".join)
def test_kustomize_makes_the_same_objects(base, overlays, tmp_path):
    """Of kubectl's own: what the other tests check is what is applied."""
    asked = {
        "resources": [os.path.relpath(KUBERAY / base, tmp_path)],
        "components": [os.path.relpath(KUBERAY / each, tmp_path) for each in overlays],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(asked))
    made = list(yaml.safe_load_all(passes(tool("kubectl"), "kustomize", str(tmp_path))))

    def key(each):
        return each["kind"], each["metadata"]["name"]

    assert sorted(made, key=key) == sorted(rendered(base, overlays), key=key)


def test_what_is_applied_by_default_is_a_job_with_a_gpu():
    chosen = kustomization(KUBERAY)
    assert (chosen["resources"], chosen["components"]) == (["job"], ["gpu"])


@RENDERED
def test_plain_kubernetes_objects_are_valid(objects, tmp_path):
    plain = [each for each in objects if each["kind"] not in OF_RAY]
    assert {"Service", "StatefulSet", "NetworkPolicy", "PersistentVolumeClaim"} <= {
        each["kind"] for each in plain
    }
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump_all(plain))
    passes(tool("kubernetes-validate"), "--strict", str(tmp_path / "plain.yaml"))


@RENDERED
def test_the_pods_of_a_ray_cluster_are_valid_pods(objects, tmp_path):
    """The operator adds to them, so that they must be pods as they stand."""
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}"},
            "spec": group["template"]["spec"],
        }
        for number, group in enumerate(groups_of(cluster_of(objects)))
    ]
    assert len(pods) == 3
    (tmp_path / "pods.yaml").write_text(yaml.safe_dump_all(pods))
    passes(tool("kubernetes-validate"), "--strict", str(tmp_path / "pods.yaml"))


@RENDERED
def test_ray_objects_are_what_the_operators_schema_says(objects, tmp_path):
    if CRDS not in os.environ:
        pytest.skip(f"{CRDS} names no folder with KubeRay's custom resource definitions")
    document = of_ray(objects)
    definition = f"ray.io_{document['kind'].lower()}s.yaml"
    (crd,) = documents(Path(os.environ[CRDS]) / definition)
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema, instance = tmp_path / "schema.json", tmp_path / "instance.json"
    schema.write_text(json.dumps(version["schema"]["openAPIV3Schema"]))
    instance.write_text(json.dumps(document))
    passes(tool("check-jsonschema"), "--schemafile", str(schema), str(instance))


@RENDERED
def test_the_operator_would_refuse_nothing_that_its_schema_lets_pass(objects):
    cluster = cluster_of(objects)
    assert "gcsFaultToleranceOptions" in cluster
    for group in groups_of(cluster):
        for container in group["template"]["spec"]["containers"]:
            names = environment(container).keys()
            assert len(names) == len(container["env"])
            assert not names & {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS", "RAY_REDIS_PASSWORD"}
        assert not {"redis-password", "labels"} & group["rayStartParams"].keys()
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@RENDERED
def test_a_ray_cluster_survives_what_it_is_made_for(objects):
    """The head holds no work, collectors are on machines that may go, and all need the token."""
    cluster = cluster_of(objects)
    learner, collectors = cluster["workerGroupSpecs"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert json.loads(json.loads(collectors["rayStartParams"]["resources"]))["collector"] == 4
    assert collectors["rayStartParams"]["num-cpus"] == "0"

    def tolerated(group):
        return {each["key"] for each in group["template"]["spec"].get("tolerations", ())}

    assert "causeway/spot" in tolerated(collectors)
    assert "causeway/spot" not in tolerated(learner)
    for group, drain_s in ((learner, 120), (collectors, 30)):
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > drain_s


@pytest.mark.parametrize("overlays", OVERLAYS, ids="-".join)
def test_the_job_and_the_standing_cluster_are_the_same_cluster(overlays):
    assert cluster_of(rendered("job", overlays)) == cluster_of(rendered("cluster", overlays))


@pytest.mark.parametrize("overlays", OVERLAYS, ids="-".join)
def test_the_jobs_command_is_one_that_causeway_takes(overlays):
    objects = rendered("job", overlays)
    job = of_ray(objects)
    program, command, file, flag, *overrides = shlex.split(job["spec"]["entrypoint"])
    assert (program, command, flag) == ("causeway", "train", "--or-resume")
    config = load_run_config(DEPLOY / file, overrides)
    check_for_cluster(config)
    assert config.trainer.device == ("cuda" if "gpu" in overlays else "cpu")
    assert config.collection.resources == {"collector": 1}
    assert config.collection.cpus_per_collector == 0.0
    assert job["spec"]["metadata"]["run"] == config.name
    assert job["spec"]["metadata"]["family"] == config.data.family
    wait_s = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]
    learner = cluster_of(objects)["workerGroupSpecs"][0]["template"]["spec"]
    assert learner["terminationGracePeriodSeconds"] > int(wait_s)


def test_a_gpu_changes_the_learner_alone():
    plain, gpu = (cluster_of(rendered("job", overlays)) for overlays in ((), ("gpu",)))
    learner, before = (each["workerGroupSpecs"].pop(0) for each in (gpu, plain))
    assert gpu == plain
    container = learner["template"]["spec"]["containers"][0]
    for kind in ("requests", "limits"):
        assert container["resources"][kind].pop("nvidia.com/gpu") == "1"
    (toleration,) = learner["template"]["spec"].pop("tolerations")
    assert toleration["key"] == "nvidia.com/gpu"
    assert learner == before
    commands = [of_ray(rendered("job", each))["spec"]["entrypoint"] for each in ((), ("gpu",))]
    assert commands[0].replace("--trainer.device cpu", "--trainer.device cuda") == commands[1]


@pytest.mark.parametrize("base", ["job", "cluster"])
def test_tls_takes_nothing_away_and_reaches_every_process(base):
    plain, tls = (cluster_of(rendered(base, overlays)) for overlays in ((), ("tls",)))
    settings = {variable["name"]: variable for variable in tls["autoscalerOptions"]["env"]}
    assert settings["RAY_USE_TLS"]["value"] == "1"
    (made,) = tls["autoscalerOptions"]["volumeMounts"]
    for group, before in zip(groups_of(tls), groups_of(plain), strict=True):
        pod, old_pod = group["template"]["spec"], before["template"]["spec"]
        (container,), (old,) = pod["containers"], old_pod["containers"]
        given, old_given = environment(container), environment(old)
        url = given["CAUSEWAY_REDIS_URL"]["value"]
        assert url.startswith("rediss://")
        assert url.endswith(f"?ssl_ca_certs={made['mountPath']}/ca.crt")
        assert (
            url.partition("?")[0].replace("rediss", "redis", 1)
            == old_given.pop("CAUSEWAY_REDIS_URL")["value"]
        )
        assert old_given.items() <= given.items()
        assert settings.items() <= given.items()
        files = [v["value"] for name, v in settings.items() if name != "RAY_USE_TLS"]
        assert {Path(file).parent for file in files} == {Path(made["mountPath"])}
        assert made in container["volumeMounts"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {volume["name"] for volume in old_pod["volumes"]} < volumes
        (maker,) = pod["initContainers"]
        mounts = [*container["volumeMounts"], *maker["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == volumes
        assert made in maker["volumeMounts"]
        assert maker["command"][-1] == made["mountPath"]
        known = environment(maker).keys()
        assert set(re.findall(r"\$\((\w+)\)", " ".join(maker["args"]))) == known


def test_tls_leaves_no_plain_port_of_either_redis():
    objects = rendered("job", ("tls",))
    servers = [each for each in objects if each["kind"] == "StatefulSet"]
    assert {each["metadata"]["name"] for each in servers} == {
        "causeway-redis",
        "causeway-gcs-redis",
    }
    for server in servers:
        pod = server["spec"]["template"]["spec"]
        words = pod["containers"][0]["args"]
        given = dict(zip(words[1::2], words[2::2], strict=True))
        assert (given["--port"], given["--tls-port"], given["--appendonly"]) == ("0", "6379", "yes")
        assert f"DNS:{server['metadata']['name']}" in pod["initContainers"][0]["args"]
    address = cluster_of(objects)["gcsFaultToleranceOptions"]["redisAddress"]
    assert address == "rediss://causeway-gcs-redis:6379"


def test_a_pods_certificate_is_good_for_its_names_and_for_no_others(tmp_path):
    openssl, out = tool("openssl"), tmp_path / "tls"
    out.mkdir()
    lines = (KUBERAY / "tls" / "kustomization.yaml").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if "openssl req" in line)
    command = " ".join(line.strip("# \\") for line in lines[start : start + 2])
    passes(*shlex.split(command), cwd=tmp_path)
    script = str(KUBERAY / "tls" / "certificate.sh")
    names = ("DNS:*.space.svc.cluster.local", "IP:10.0.0.7")
    passes("sh", script, str(tmp_path), str(out), *names)
    assert {path.name for path in out.iterdir()} == {"tls.crt", "tls.key", "ca.crt"}
    assert (out / "tls.key").stat().st_mode & 0o077 == 0
    check = (openssl, "verify", "-x509_strict", "-CAfile", str(out / "ca.crt"))
    head = "run-head-svc.space.svc.cluster.local"
    for kind, name in (("ip", "10.0.0.7"), ("ip", "127.0.0.1"), ("hostname", head)):
        for purpose in ("sslserver", "sslclient"):
            passes(*check, "-purpose", purpose, f"-verify_{kind}", name, str(out / "tls.crt"))
    with pytest.raises(AssertionError, match="mismatch"):
        passes(*check, "-verify_ip", "10.0.0.8", str(out / "tls.crt"))
