"""A lifetime's rounds, its folder, and data sets cut from it; the command that makes them."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from causeway.cluster.cli.main import run
from causeway.cluster.collect_lifetime import LifetimeData, collect_lifetime
from causeway.cluster.config_io import ConfigError, load_config
from causeway.cluster.lifetime import Lifetime, LifetimeConfig
from causeway.cluster.players import local_players, ray_players
from causeway.cluster.progress import ProgressView
from causeway.datasets.faults import DatasetError
from causeway.datasets.store import DatasetStore
from causeway.learners.conditioned_sac import ConditionedSacConfig

AGENT = ConditionedSacConfig(hidden=(48, 48), learning_rate=3e-3, discount=0.9)
TINY = LifetimeConfig(
    family="point-robot",
    split="standard",
    rounds=6,
    updates_per_round=20,
    batch_tasks=10,
    batch_transitions=8,
    evaluate_every=2,
    agent=AGENT,
)
TINY_HOPPERS = dataclasses.replace(
    TINY, family="hopper-params", rounds=3, envs_per_task=1, updates_per_round=4
)


class StoppedError(Exception):
    """As if the process had died in the middle of an update."""


def live(config, folder, stop_after=None):
    """Lives until the end, or dies that many updates after it was taken up; gives the lifetime."""
    lifetime = Lifetime(config, folder)
    update, done = lifetime.agent.update, []

    def mortal(*arguments):
        if stop_after is not None and len(done) >= stop_after:
            raise StoppedError
        done.append(1)
        return update(*arguments)

    lifetime.agent.update = mortal
    with contextlib.suppress(StoppedError):
        lifetime.run(local_players(lifetime.casting), lambda moment, updates: None)
    return lifetime


def assert_same_life(one, other):
    assert one.agent.updates == other.agent.updates
    for name, tensor in one.agent.state().items():
        assert torch.equal(tensor, other.agent.state()[name]), name
    assert len(one.replay.rounds) == len(other.replay.rounds)
    for mine, its in zip(one.replay.rounds, other.replay.rounds, strict=True):
        for field in dataclasses.fields(mine):
            np.testing.assert_array_equal(getattr(mine, field.name), getattr(its, field.name))
    for mine, its in zip(one.curve, other.curve, strict=True):
        assert dataclasses.replace(mine, time_s=0.0) == dataclasses.replace(its, time_s=0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return live(TINY, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def data_config():
    return LifetimeData(
        quality="replay",
        transitions_per_task=60,
        lifetime=dataclasses.replace(TINY, rounds=20, updates_per_round=100, batch_tasks=16),
    )


@pytest.fixture(scope="module")
def grown(tmp_path_factory, data_config):
    """The folder of a lifetime that is over, for cuts."""
    folder = tmp_path_factory.mktemp("grown")
    live(data_config.lifetime, folder)
    return folder


def cut(config, folder, out, **options):
    given = {"agent": folder, "workers": 0, "overwrite": False, **options}
    with ProgressView("test") as view:
        collected = collect_lifetime(config, str(out), view=view, **given)
    return collected, DatasetStore.open(str(out))


def mean_return(store):
    return np.mean([s.return_mean for s in store.manifest.statistics.values()])


@pytest.mark.parametrize("deaths", [(30,), (0, 70, 5)])
def test_an_interrupted_lifetime_becomes_what_it_would_have_been(tmp_path, whole, deaths):
    for stop_after in deaths:
        assert not live(TINY, tmp_path, stop_after).is_over
    again = live(TINY, tmp_path)
    assert again.is_over
    assert_same_life(again, whole)


def test_a_lifetime_that_is_over_can_be_made_longer_but_not_shorter(tmp_path, whole):
    short = dataclasses.replace(TINY, rounds=3)
    assert live(short, tmp_path).is_over
    assert_same_life(live(TINY, tmp_path), whole)
    with pytest.raises(ConfigError, match="rounds 6, not 3"):
        Lifetime(short, tmp_path)


@pytest.mark.slow
def test_hoppers_with_bodies_of_their_own_go_on_too(tmp_path):
    expected = live(TINY_HOPPERS, tmp_path / "whole")
    assert {bool(w) for played in expected.replay.rounds for w in played.whole} == {True, False}
    live(TINY_HOPPERS, tmp_path / "cut", stop_after=6)
    assert_same_life(live(TINY_HOPPERS, tmp_path / "cut"), expected)


def test_the_seed_decides_everything(tmp_path, whole):
    assert_same_life(live(TINY, tmp_path / "same"), whole)
    other = live(dataclasses.replace(TINY, seed=1), tmp_path / "other")
    assert not np.array_equal(other.replay.rounds[0].rows, whole.replay.rounds[0].rows)
    assert not torch.equal(
        other.agent.state()["policy.observation_mean"],
        whole.agent.state()["policy.observation_mean"],
    )


def test_the_agent_is_as_old_as_its_updates(whole):
    assert [whole.age(number) for number in range(6)] == [0, 20, 40, 60, 80, 100]
    assert whole.agent.updates == 120
    assert [moment.updates for moment in whole.curve] == [0, 20, 40, 60, 80, 100]


def test_the_curve_has_a_deterministic_return_every_so_many_rounds(whole):
    known = [moment.deterministic_return is not None for moment in whole.curve]
    assert known == [False, False, True, False, True, False]


def test_a_folder_of_another_lifetime_is_refused(whole):
    other = dataclasses.replace(TINY, seed=3, agent=dataclasses.replace(AGENT, discount=0.8))
    with pytest.raises(ConfigError, match=r"seed 0, not 3; agent\.discount 0\.9, not 0\.8"):
        Lifetime(other, whole.folder)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 9])
def test_ray_actors_play_what_this_process_plays(local_ray, whole, workers):
    config = dataclasses.replace(TINY, envs_per_task=2)  # three groups
    lifetime = Lifetime(config, whole.folder.parent / f"ray-{workers}")
    assert lifetime.casting.num_groups == 3
    here, there = local_players(lifetime.casting), ray_players(lifetime.casting, workers)
    for manner in ("random", "stochastic", "deterministic"):
        expected = here(lifetime.weights(), manner, 4)
        actual = there(lifetime.weights(), manner, 4)
        for field in dataclasses.fields(expected):
            np.testing.assert_array_equal(
                getattr(actual, field.name), getattr(expected, field.name)
            )


def test_older_agents_data_are_better(tmp_path, grown, data_config):
    returns = {}
    for quality in ("random", "start", "middle", "end", "expert"):
        config = dataclasses.replace(data_config, quality=quality)
        collected, store = cut(config, grown, tmp_path / quality)
        returns[quality] = mean_return(store)
    assert list(returns.values()) == sorted(returns.values()), returns
    assert returns["expert"] - returns["random"] > 5.0
    assert collected.random_return < returns["start"]


def test_a_cut_has_whole_episodes_and_says_how_old_the_agent_was(tmp_path, grown, data_config):
    config = dataclasses.replace(data_config, quality="random:40,end:40,expert:20")
    _, store = cut(config, grown, tmp_path / "data")
    assert store.verify() == []
    manifest = store.manifest
    for task in manifest.tasks:
        (part,) = task.parts
        assert part.rows == 100
        assert part.episodes == len(part.ages) == 5
        assert part.ages[:2] == (0, 0)
        assert all(age >= 2 / 3 * 2000 for age in part.ages[2:4])
        assert part.ages[4] == 2000


def test_a_cut_of_others_is_rewarded_for_the_task_that_gets_it(tmp_path, grown, data_config):
    config = dataclasses.replace(data_config, quality="others:100")
    _, store = cut(config, grown, tmp_path / "data")
    _, own = cut(data_config, grown, tmp_path / "own")
    towards = []
    for task in store.manifest.tasks:
        goal = np.array([task.parameters["goal_x"], task.parameters["goal_y"]])
        (episodes,) = store.iterate_parts(task.id)
        assert sum(len(episode) for episode in episodes) == 100
        for episode in episodes:
            distance = np.linalg.norm(episode.next_observation - goal, axis=1)
            np.testing.assert_allclose(episode.reward, -distance, atol=1e-5)
        towards.append(episodes[-1].next_observation[-1])
    assert len(np.unique(np.round(towards, 3), axis=0)) > 25  # tasks do not all get the same ones
    assert mean_return(store) < mean_return(own)


def test_bodies_cannot_exchange_their_episodes(data_config):
    lifetime = dataclasses.replace(data_config.lifetime, family="hopper-params", split="standard")
    with pytest.raises(ValueError, match="differ in their rewards alone, those of hopper-params"):
        dataclasses.replace(data_config, quality="others", lifetime=lifetime)


def test_a_cut_tells_where_it_is_from(tmp_path, grown, data_config):
    _, store = cut(data_config, grown, tmp_path / "data")
    manifest = store.manifest
    assert (manifest.family, manifest.split, manifest.license) == (
        "point-robot",
        "standard",
        "CC0-1.0",
    )
    assert manifest.provenance.seed == 0
    assert manifest.provenance.options["quality"] == "replay"
    assert manifest.provenance.options["lifetime.rounds"] == 20
    assert manifest.provenance.options["lifetime.agent.discount"] == 0.9
    parts = [task.split_part for task in manifest.tasks]
    assert (parts.count("train"), parts.count("test")) == (40, 10)
    for task in manifest.tasks:
        reference = manifest.references[task.id]
        assert reference.random < manifest.statistics[task.id].return_mean < reference.expert
    curve = json.loads((tmp_path / "data" / "learning-curve.json").read_text())
    assert len(curve["rounds"]) == 20
    assert (tmp_path / "data" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")


def test_another_cut_of_a_lifetime_that_is_over_trains_nothing(tmp_path, grown, data_config):
    files = {path: path.stat().st_mtime_ns for path in grown.rglob("*") if path.is_file()}
    first, _ = cut(data_config, grown, tmp_path / "one")
    cut(data_config, grown, tmp_path / "two")
    assert files == {path: path.stat().st_mtime_ns for path in grown.rglob("*") if path.is_file()}
    assert first.agent == grown
    for task in DatasetStore.open(str(tmp_path / "one")).manifest.tasks:
        again = DatasetStore.open(str(tmp_path / "two")).manifest.task(task.id)
        assert [part.sha256 for part in again.parts] == [part.sha256 for part in task.parts]


def test_a_data_set_that_is_there_stays_unless_told_otherwise(tmp_path, grown, data_config):
    cut(data_config, grown, tmp_path / "data")
    with pytest.raises(DatasetError, match="must not hold a data set yet"):
        cut(data_config, grown, tmp_path / "data")
    smaller = dataclasses.replace(data_config, transitions_per_task=20)
    collected, _ = cut(smaller, grown, tmp_path / "data", overwrite=True)
    assert collected.transitions == 50 * 20


def write_tiny_file(folder):
    file = folder / "tiny.yaml"
    file.write_text(
        "quality: replay\ntransitions_per_task: 40\n"
        "lifetime: {family: point-robot, split: standard, rounds: 4, updates_per_round: 5,\n"
        "  batch_tasks: 5, batch_transitions: 4, agent: {hidden: [8]}}\n"
    )
    return file


def test_the_command_collects_and_tells_what_came_of_it(tmp_path, capsys):
    out = tmp_path / "data"
    words = ["data", "collect", str(write_tiny_file(tmp_path)), "--out", str(out)]
    assert run([*words, "--seed", "5", "--quality", "random:20,expert:20"]) == 0
    told = capsys.readouterr().out
    assert "2,000 transitions; return of random actions -" in told
    assert f"{out}.agent keeps the agent's lifetime" in told.replace("\n", "")
    manifest = DatasetStore.open(str(out)).manifest
    assert manifest.provenance.seed == 5
    assert manifest.provenance.options["quality"] == "random:20,expert:20"


def test_a_family_without_a_script_is_collected_by_an_agent(tmp_path, capsys):
    words = ["data", "collect", "--family", "cheetah-dir", "--rounds", "1", "--by", "script"]
    assert run([*words, "--out", str(tmp_path / "data")]) == 2
    assert "--rounds would be of an agent's data" in capsys.readouterr().err
    assert run(["data", "collect", "--family", "ant-goal", "--by", "script", "--out", "x"]) == 2
    assert "needs points in the plane" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_in_order_and_the_same_command_goes_on(tmp_path, sent):
    file = write_tiny_file(tmp_path)
    file.write_text(
        file.read_text().replace(
            "rounds: 4, updates_per_round: 5", "rounds: 40, updates_per_round: 60"
        )
    )
    words = ["data", "collect", str(file), "--out", str(tmp_path / "data")]
    command = [sys.executable, "-m", "causeway", *words]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "data.agent" / "checkpoints"
    while not list(checkpoints.glob("update-*")):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(sent)
    told = first.communicate(timeout=60)[1]
    assert first.returncode == 130
    assert "the same command goes on" in told
    assert not (tmp_path / "data").exists()
    done = len(list((tmp_path / "data.agent" / "rounds").glob("*.npz")))
    assert done < 40
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data.agent" / "rounds").glob("*.npz")}
    assert run(words) == 0
    assert DatasetStore.open(str(tmp_path / "data")).verify() == []
    kept = [path for path, written in before.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= len(before) - 1  # the round at work may be played again


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quality", "best"], "quality must be one of random, start"),
        (["--family", "cheetah-vle", "--by", "agent"], "Did you mean 'cheetah-vel'"),
        (["--family", "cheetah-vel", "--split", "nope"], "must be one of smac, macaw"),
        (["--by", "hand"], "--by must be script or agent, got 'hand'"),
        (["--rounds", "3", "--episodes-per-task", "3"], "say --transitions-per-task instead"),
        (["nowhere.yaml"], "there is no such file"),
    ],
)
def test_what_the_command_cannot_do_is_refused_in_words(tmp_path, capsys, words, message):
    assert run(["data", "collect", *words, "--out", str(tmp_path / "data")]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"own_share": 0.0}, r"own_share must lie in \(0, 1\], got 0.0"),
        ({"envs_per_task": 0}, "envs_per_task must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LifetimeConfig(**wrong)


def test_the_files_in_deploy_are_configurations():
    files = sorted((Path(__file__).parents[2] / "deploy" / "runs" / "data").glob("*.yaml"))
    assert files
    for file in files:
        config = load_config(LifetimeData, file)
        assert config.cuts
