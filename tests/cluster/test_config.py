"""A run's configuration: put together from all sections, and the same again once written."""

from pathlib import Path

import pytest

from causeway.cluster.config import (
    DEFAULT_RUN,
    CollectionSection,
    DataSection,
    RunSection,
    load_run_config,
    run_config_class,
    save_run_config,
)
from causeway.cluster.config_io import ConfigError
from causeway.learners.registry import algorithms, load_algorithm
from causeway.learners.smac import SmacConfig
from tests.tiny_runs import write_yaml


def test_without_a_file_it_is_the_point_robot_demo():
    config = load_run_config(None)
    assert config.data.family == "point-robot"
    assert set(config.schedule.updates) == {"offline", "online"}
    assert isinstance(config.hyperparameters, SmacConfig)
    assert load_run_config(DEFAULT_RUN) == config


def test_overrides_win_over_the_file_and_reach_every_section(tmp_path):
    path = write_yaml(tmp_path, tmp_path / "data")
    overrides = ["--run.seed", "9", "--hyperparameters.discount=0.5", "--schedule.updates.online=7"]
    config = load_run_config(path, overrides)
    assert (config.run.seed, config.hyperparameters.discount) == (9, 0.5)
    assert config.schedule.updates == {"offline": 20, "online": 7}


def test_the_resolved_configuration_reads_back_as_itself(tmp_path):
    config = load_run_config(write_yaml(tmp_path, tmp_path / "data"), ["--run.serial", "true"])
    save_run_config(config, tmp_path / "run")
    assert load_run_config(tmp_path / "run" / "config.yaml") == config


@pytest.mark.parametrize("name", sorted(algorithms()))
def test_the_hyperparameters_are_those_of_the_algorithm_that_is_named(name):
    config = run_config_class(name)()
    assert config.hyperparameters == load_algorithm(name).Config()
    assert config == run_config_class(name)()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["--run.algorithm", "smacc"], r"run\.algorithm: .*smac"),
        (["--run.sede", "1"], r"run\.sede.*seed"),
        (["--hyperparameters.discount", "1.5"], r"discount must lie in \[0, 1\), got 1\.5"),
        (["--hyperparameters.nonesuch", "1"], r"hyperparameters\.nonesuch"),
        (["--schedule.updates.onlin", "3"], r"must name the stages of 'smac', offline, online"),
        (["--collection.collectors", "-1"], "collectors must be at least 0, got -1"),
        (["--collection.collectors", "many"], r"collection\.collectors"),
        (["--run.name", "a/b"], "name"),
    ],
)
def test_what_is_not_valid_is_refused_with_its_name(tmp_path, override, words):
    path = write_yaml(tmp_path, tmp_path / "data")
    with pytest.raises(ConfigError, match=words):
        load_run_config(path, override)


def test_the_name_is_told_by_algorithm_family_and_seed_unless_it_is_given(tmp_path):
    path = write_yaml(tmp_path, tmp_path / "data")
    config = load_run_config(path)
    assert config.name == "smac-point-robot-3"
    assert config.folder == tmp_path / "smac-point-robot-3"
    own = load_run_config(path, ["--data.family", "my/tasks.py:MyRobot", "--run.name", "mine"])
    assert own.name == "mine"
    unnamed = load_run_config(path, ["--data.family", "my/tasks.py:MyRobot"])
    assert unnamed.name == "smac-myrobot-3"


@pytest.mark.parametrize(
    ("section", "given", "words"),
    [
        (RunSection, {"seed": -1}, r"RunSection\.seed must be at least 0, got -1"),
        (DataSection, {"episodes_per_task": 0}, "episodes_per_task must be at least 1, got 0"),
        (DataSection, {"max_fault_share": 1.5}, r"must lie in \[0, 1\], got 1\.5"),
        (CollectionSection, {"env_steps_per_update": 0.0}, r"must be positive, got 0\.0"),
        (CollectionSection, {"warmup_env_steps": -1}, "warmup_env_steps must be at least 0"),
        (CollectionSection, {"publish_every": 0}, "publish_every must be at least 1, got 0"),
        (
            CollectionSection,
            {"publish_every": 50, "max_staleness": 49},
            "max_staleness must be at least publish_every",
        ),
    ],
)
def test_sections_refuse_values_that_no_run_can_have(section, given, words):
    with pytest.raises(ValueError, match=words):
        section(**given)


RUNS = sorted((Path(__file__).resolve().parents[2] / "deploy" / "runs").glob("*.yaml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_experiments_file_is_a_configuration_of_its_algorithm(path):
    config = load_run_config(path)
    assert config.run.algorithm in algorithms()


def test_only_a_method_that_reads_no_context_may_be_given_none(tmp_path):
    without = ["--sampler.context_per_task=0"]
    path = next(path for path in RUNS if path.stem == "macaw-point-robot")
    with pytest.raises(ConfigError, match=r"sampler\.context_per_task must be at least 1 for"):
        load_run_config(path, without)
    run = path.read_text(encoding="utf-8").partition("hyperparameters:")[0]
    other = tmp_path / "run.yaml"
    other.write_text(run.replace("algorithm: macaw", "algorithm: multi-task-awr"), encoding="utf-8")
    assert load_run_config(other, without).sampler.context_per_task == 0


@pytest.mark.parametrize("name", ["ldm", "domino"])
def test_a_method_that_reads_sequences_is_refused_without_any(name):
    path = next(path for path in RUNS if path.stem == f"{name}-point-robot")
    with pytest.raises(ConfigError, match=r"sampler\.context_in_order must be true for"):
        load_run_config(path, ["--sampler.context_in_order=false"])
