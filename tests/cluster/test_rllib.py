import dataclasses
import json
import math
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import ray
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

from causeway.cluster.checkpoint import CheckpointError, save_checkpoint
from causeway.cluster.config import load_run_config
from causeway.cluster.config_io import ConfigError
from causeway.cluster.control import Control, ControlConfig
from causeway.cluster.redis_link import LinkConfig, connect
from causeway.cluster.redis_server import embedded_url
from causeway.cluster.rllib import Causeway, CausewayConfig, module_spec
from causeway.datasets.batches import ContextBatch
from tests.cluster.rllib_alone import MARK
from tests.tiny_runs import results_of, write_yaml

RETURNS = {"prior_return", "online_context_return", "offline_context_return"}


@pytest.fixture
def tiny(tmp_path, tiny_data):
    """The tiny run as RLlib's configuration; one iteration is one round of the run."""
    config = CausewayConfig().causeway(path=write_yaml(tmp_path, tiny_data))
    return config.reporting(min_time_s_per_iteration=0)


def train_until(algorithm, condition):
    """The results of iterations up to the first that meets the condition."""
    results = [algorithm.train()]
    while not condition(results[-1]):
        assert len(results) < 2_000
        results.append(algorithm.train())
    return results


def causeway_actors():
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["name"].startswith("causeway:")]


def ask_to_stop(run_folder):
    """What `causeway stop` does."""
    client = connect(embedded_url(run_folder), LinkConfig())
    Control(client, run_folder.name, ControlConfig()).request_stop("enough")
    client.close()


# The configuration.


def test_a_run_configuration_comes_back_as_it_was_given(tmp_path, tiny_data):
    given = load_run_config(write_yaml(tmp_path, tiny_data), ["--hyperparameters.discount=0.5"])
    config = CausewayConfig().causeway(run_config=given)
    assert config.to_run_config() == given
    assert CausewayConfig.from_dict(config.to_dict()).to_run_config() == given
    assert CausewayConfig.from_state(config.get_state()).to_run_config() == given
    assert pickle.loads(pickle.dumps(config)).to_run_config() == given


def test_overrides_lie_on_top_of_what_was_set_before(tiny):
    tiny.causeway(overrides=["--run.seed", "9"]).causeway(overrides=["--data.seed=4"])
    found = tiny.to_run_config()
    assert (found.run.seed, found.data.seed, found.schedule.updates_per_block) == (9, 4, 5)


def test_searched_values_come_last_and_in_their_type(tiny):
    tiny.causeway(search={"hyperparameters.discount": 0.25, "run.seed": 7})
    found = tiny.to_run_config()
    assert (found.hyperparameters.discount, found.run.seed) == (0.25, 7)


def test_paths_do_not_depend_on_the_working_folder_of_a_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CausewayConfig().causeway(overrides=["--data.path=logs", "--run.folder=mine"])
    monkeypatch.chdir("/")
    found = config.to_run_config()
    assert found.data.path == str(tmp_path / "logs")
    assert found.run.folder == str(tmp_path / "mine")
    uri = config.causeway(overrides=["--data.path=s3://bucket/logs"]).to_run_config().data.path
    assert uri == "s3://bucket/logs"


@pytest.mark.parametrize(
    ("set_up", "message"),
    [
        (lambda c: c.env_runners(num_env_runners=2), r"num_env_runners .*collection\.collectors"),
        (lambda c: c.learners(num_learners=1), "num_learners must be 0, got 1"),
        (lambda c: c.environment("CartPole-v1"), r"env must be None, .*data\.family"),
        (lambda c: c.evaluation(evaluation_interval=1), r"schedule\.evaluate_every"),
        (lambda c: c.causeway(overrides=["--run.serial=true"]), r"run\.serial must be false"),
        (lambda c: c.causeway(search={"hyperparameters.discount": 2}), r"SmacConfig\.discount"),
        (lambda c: c.causeway(search={"trainer.treads": 2}), "did you mean 'trainer.threads'"),
    ],
)
def test_a_setting_without_a_meaning_is_refused_with_the_one_that_has_it(tiny, set_up, message):
    with pytest.raises(ValueError, match=message):
        set_up(tiny).build_algo()


def test_a_path_and_a_configuration_at_once_are_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="run_config or path, got both"):
        tiny.causeway(run_config=tiny.to_run_config(), path=tmp_path / "tiny.yaml")


def test_the_command_line_does_not_import_rllib():
    code = (
        "import sys, causeway.cluster.cli.main, causeway.cluster.launch;"
        "sys.exit('ray.rllib' in sys.modules or 'causeway.cluster.rllib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The module.


def test_a_module_acts_as_its_policy_does(tiny):
    module = module_spec(tiny.to_run_config()).build()
    observation, latent = torch.randn(3, 2), torch.randn(3, 2)
    batch = {Columns.OBS: observation, Columns.STATE_IN: {"latent": latent}}
    answer = module.forward_inference(batch)
    expected = module.policy.act(observation, latent, None)
    assert torch.equal(answer[Columns.ACTIONS], expected)
    assert torch.equal(answer[Columns.STATE_OUT]["latent"], latent)
    explored = module.forward_exploration(batch)[Columns.ACTIONS]
    assert explored.abs().max() <= 1.0
    assert not torch.equal(explored, expected)
    over_time = {**batch, Columns.OBS: torch.stack([observation, -observation], dim=1)}
    actions = module.forward_inference(over_time)[Columns.ACTIONS]
    assert actions.shape == (3, 2, 2)
    torch.testing.assert_close(actions[:, 0], expected)


def test_a_module_begins_on_the_prior_and_takes_a_belief(tiny):
    module = module_spec(tiny.to_run_config()).build()
    torch.manual_seed(0)
    assert module.is_stateful()
    assert module.get_initial_state()["latent"].shape == (2,)
    context = ContextBatch(
        observation=torch.randn(3, 5, 2),
        action=torch.rand(3, 5, 2),
        reward=torch.randn(3, 5),
        next_observation=torch.randn(3, 5, 2),
        mask=torch.ones(3, 5, dtype=torch.bool),
    )
    state = {"belief": module.policy.adapt(context)}
    first = module.forward_inference({"obs": torch.zeros(3, 2), "state_in": state})
    then = {"obs": torch.zeros(3, 2), "state_in": first["state_out"]}
    assert torch.equal(module.forward_inference(then)["actions"], first["actions"])
    with pytest.raises(ValueError, match=r"module\.get_initial_state\(\)"):
        module.forward_inference({"obs": torch.zeros(3, 2)})
    trainable = dataclasses.replace(module_spec(tiny.to_run_config()), inference_only=False)
    with pytest.raises(NotImplementedError, match=r"Causeway\.train\(\)"):
        trainable.build().forward_train({})


def test_a_saved_module_is_built_again_from_its_folder(tiny, tmp_path):
    module = module_spec(tiny.to_run_config()).build()
    again = RLModule.from_checkpoint(module.save_to_path(tmp_path / "module"))
    assert again.inference_only
    for name, tensor in module.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], tensor)


# The algorithm.


class Seen(RLlibCallback):
    """Keeps what RLlib tells its callbacks."""

    results: list = []  # noqa: RUF012 - RLlib makes the instance

    def on_train_result(self, *, algorithm, metrics_logger, result, **kwargs):
        self.results.append(result["updates"])


@pytest.mark.ray
@pytest.mark.slow
def test_an_algorithm_trains_to_the_end_of_its_run(local_ray, tiny, tmp_path):
    algorithm = tiny.callbacks(Seen).build_algo()
    first = algorithm.train()
    assert first["returns"].keys() == RETURNS
    results = [first, *train_until(algorithm, lambda result: result["done"])]
    last = results[-1]
    assert (last["stage"], last["updates"]) == ("finished", 40)
    assert last["env_steps"] == last["num_env_steps_sampled_lifetime"] >= 80
    assert {"critic", "actor", "reparameterised"} <= last["losses"].keys()
    assert all(math.isfinite(value) for value in last["returns"].values())
    assert last["training_iteration"] == len(results)
    assert sorted(Seen.results) == Seen.results
    assert Seen.results[-1] == 40
    folder = algorithm.run_folder
    assert folder.parent == tmp_path
    assert results_of(folder)["online"].keys() == RETURNS
    assert results_of(folder)["online"]["prior_return"]["mean"] == last["returns"]["prior_return"]

    evaluated = algorithm.evaluate()
    assert evaluated["updates"] == 40
    assert evaluated["returns"] == pytest.approx(last["returns"])
    assert algorithm.get_module("another") is None
    module = algorithm.get_module()
    assert module.forward_inference(
        {"obs": torch.zeros(1, 2), "state_in": {"latent": torch.zeros(1, 2)}}
    )["actions"].shape == (1, 2)

    assert causeway_actors()
    assert embedded_url(folder) is not None
    algorithm.stop()
    assert causeway_actors() == []
    assert embedded_url(folder) is None
    with pytest.raises(RuntimeError, match="was stopped"):
        algorithm.train()


@pytest.mark.ray
@pytest.mark.slow
def test_a_saved_algorithm_goes_on_elsewhere(local_ray, tiny, tmp_path):
    algorithm = tiny.build_algo()
    before = train_until(algorithm, lambda result: result["env_steps"] > 0)[-1]
    folder = algorithm.run_folder
    ask_to_stop(folder)
    assert algorithm.train()["done"]
    path = tmp_path / "saved"
    assert algorithm.save_to_path(path) == str(path)
    algorithm.stop()
    assert {file.suffix for file in path.rglob("*") if file.is_file()} <= {
        *(".safetensors", ".json", ".jsonl", ".yaml", ".parquet")
    }
    saved = json.loads(next(path.glob("checkpoints/*/manifest.json")).read_text())["updates"]
    assert saved >= before["updates"]

    by_tune = tiny.build_algo()
    by_tune.restore(str(path))
    assert by_tune.training_iteration == algorithm.training_iteration
    by_tune.stop()

    again = Causeway.from_checkpoint(path)
    assert again.training_iteration == algorithm.training_iteration
    results = train_until(again, lambda result: result["done"])
    assert results[0]["training_iteration"] == algorithm.training_iteration + 1
    assert results[0]["updates"] >= saved
    assert results[0]["env_steps"] >= before["env_steps"]
    assert math.isfinite(results[0]["returns"]["prior_return"])
    assert results[-1]["updates"] == 40
    assert again.run_folder != folder
    rows = (again.run_folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["updates"] for row in rows] == [5, 10, 15, 20, 25, 30, 35, 40]
    again.stop()


@pytest.mark.parametrize("fault", ["absent", "no state", "damaged"])
def test_a_folder_that_is_no_checkpoint_is_refused_by_name(tiny, tmp_path, fault):
    path = tmp_path / "saved"
    folder = path / "checkpoints" / "update-00000001"
    save_checkpoint(path, 1, {"x": torch.zeros(2)}, {}, keep=1)
    if fault == "absent":
        shutil.rmtree(path)
    if fault == "damaged":
        (folder / "tensors.safetensors").write_bytes(b"?")
    algorithm = tiny.build_algo()
    named = {"absent": "no usable checkpoint", "no state": "rllib.json", "damaged": "sha256"}
    with pytest.raises(CheckpointError, match=named[fault]):
        algorithm.restore_from_path(path)
    algorithm.stop()
    assert [entry.name for entry in tmp_path.glob("smac-*")] == []


def test_what_rllib_would_do_otherwise_is_refused(tiny, tmp_path):
    algorithm = tiny.build_algo()
    with pytest.raises(ValueError, match="component must be left out"):
        algorithm.restore_from_path(tmp_path, component="learner_group")
    with pytest.raises(ValueError, match="filesystem must be left out"):
        algorithm.save_to_path(tmp_path, filesystem=object())
    with pytest.raises(NotImplementedError, match=r"save_to_path\(\)"):
        algorithm.get_state()
    algorithm.stop()


@pytest.mark.ray
@pytest.mark.slow
def test_an_algorithm_starts_ray_itself_and_leaves_no_process(tmp_path, tiny_data):
    command = [sys.executable, "-m", "tests.cluster.rllib_alone"]
    found = subprocess.run(
        [*command, str(write_yaml(tmp_path, tiny_data))],
        env={**os.environ, MARK: tmp_path.name},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    answer = json.loads(found.splitlines()[-1])
    assert answer["updates"] >= 0
    assert (answer["iteration"], answer["built"], answer["ray"]) == (1, 0, False)
    assert answer["at_work"] > 5
    assert answer["left"] == []


def test_a_trial_asks_for_a_place_for_each_learner_and_none_for_itself(tmp_path, tiny_data):
    one = CausewayConfig().causeway(path=write_yaml(tmp_path, tiny_data))
    place = {"CPU": 1.0}
    assert Causeway.default_resource_request(one).bundles[1:] == [place]
    two = one.copy().causeway(overrides=["--run.learners=2", "--trainer.device=cuda"])
    main, *places = Causeway.default_resource_request(two).bundles
    assert places == [{**place, "GPU": 1.0}] * 2
    assert main.keys() == {"memory"}
