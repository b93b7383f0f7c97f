"""The files of Ray's cluster launcher pass its own checks and start what a run needs."""

import json
import shlex

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.deploy.checking import DEPLOY

LAUNCHER = DEPLOY / "launcher"
FILES = ("on-premises.yaml", "aws.yaml")


def given(name):
    return yaml.safe_load((LAUNCHER / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_the_launcher_takes_its_file(name):
    prepared = prepare_config(given(name))
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("name", FILES)
def test_each_node_asks_for_the_token_and_finds_redis_without_showing_its_password(name):
    config = given(name)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "--env RAY_AUTH_TOKEN_PATH=/etc/causeway/token" in config["docker"]["run_options"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert commands[-1].startswith(
            'export CAUSEWAY_REDIS_URL="$(cat /etc/causeway/redis-url)";'
        )
    assert "--head" in config["head_start_ray_commands"][-1]
    assert (
        "--autoscaling-config=~/ray_bootstrap_config.yaml" in config["head_start_ray_commands"][-1]
    )
    assert "--address=$RAY_HEAD_IP:6379" in config["worker_start_ray_commands"][-1]


def test_what_a_machine_on_premises_gives_is_what_its_own_file_says():
    """The launcher knows one kind of machine there; its comments say what the files hold."""
    text = (LAUNCHER / "on-premises.yaml").read_text()
    options = [line.partition("--")[1:] for line in text.splitlines() if "--num-cpus" in line]
    head, learner, collectors = (shlex.split("".join(words), posix=False) for words in options)
    assert head == ["--num-cpus=0"]
    assert learner == ["--num-cpus=8", "--num-gpus=1"]
    assert collectors[0] == "--num-cpus=0"
    assert json.loads(collectors[1].removeprefix("--resources=")) == {"collector": 8}
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert given("on-premises.yaml")[name][-1].endswith("$(cat /etc/causeway/node)")


def test_on_aws_only_collectors_are_on_machines_that_may_be_taken_away():
    config = prepare_config(given("aws.yaml"))
    types = config["available_node_types"]
    assert types.keys() == {"head", "learner", "collectors"}
    spot = {n for n, t in types.items() if "InstanceMarketOptions" in t["node_config"]}
    assert spot == {"collectors"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["collectors"]["resources"] == {"CPU": 0, "collector": 8}
    assert types["learner"]["resources"] == {"CPU": 8, "GPU": 1}
    assert (types["learner"]["min_workers"], types["learner"]["max_workers"]) == (1, 1)
    assert types["collectors"]["min_workers"] == 0
    limits = types["learner"]["max_workers"] + types["collectors"]["max_workers"]
    assert config["max_workers"] == limits
    assert config["head_setup_commands"] == ['pip install --user "boto3>=1.34"']
    assert config["file_mounts"] == {"/etc/causeway": "~/causeway"}
