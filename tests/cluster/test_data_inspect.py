"""`causeway data inspect` and `data verify`: facts, pictures, and each fault by name."""

import json
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest

from causeway.cluster.cli.main import run
from causeway.cluster.data_pictures import (
    Sample,
    draw_episode,
    draw_pictures,
    draw_returns,
    median_episode,
)
from causeway.datasets.store import DatasetStore
from causeway.datasets.writer import DatasetWriter
from tests.datasets.factories import make_episodes, make_header, write_dataset

OK, FAILED, USER_ERROR = 0, 1, 2


@pytest.fixture
def copy(tiny_data, tmp_path):
    """A data set that a test may damage."""
    ignored = shutil.ignore_patterns("cache")
    return shutil.copytree(tiny_data, tmp_path / "data", ignore=ignored)


def damage(data, task):
    (part,) = DatasetStore.open(data).parts(task)
    path = data / part.path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    return str(path)


def words_of(capsys):
    return " ".join(capsys.readouterr().out.split())


def size_of(png):
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def test_inspect_shows_tasks_horizon_provenance_and_license(tiny_data, capsys):
    assert run(["data", "inspect", str(tiny_data)]) == OK
    out = words_of(capsys)
    assert "50 tasks, 2,000 transitions, observation 2, action 2, horizon 20" in out
    assert "license CC0-1.0" in out
    assert "goal_x" in out
    assert "episodes per task: 2" in out  # an option of the generator


def test_inspect_for_programs_holds_what_the_manifest_does(tiny_data, capsys):
    assert run(["data", "inspect", str(tiny_data), "--json"]) == OK
    facts = json.loads(capsys.readouterr().out)
    assert (facts["horizon"], facts["observation_size"], facts["pictures"]) == (20, 2, [])
    assert facts["provenance"]["options"]["episodes_per_task"] == 2
    assert len(facts["tasks"]) == 50


def test_inspect_draws_returns_and_an_episode(tiny_data, tmp_path, capsys):
    folder = tmp_path / "pictures"
    words = ["data", "inspect", str(tiny_data), "--pictures", str(folder), "--task", "41", "--json"]
    assert run(words) == OK
    files = [folder / "returns.png", folder / "episode.png"]
    assert json.loads(capsys.readouterr().out)["pictures"] == [str(file) for file in files]
    for file in files:
        width, height = size_of(file)
        assert width > 1500
        assert height > 800


def test_a_task_that_is_not_there_cannot_be_drawn(tiny_data, tmp_path, capsys):
    words = ["data", "inspect", str(tiny_data), "--pictures", str(tmp_path), "--task", "99"]
    assert run(words) == USER_ERROR
    assert "task 99 is not in this data set" in capsys.readouterr().err


def test_pictures_leave_out_what_cannot_be_read(copy, tmp_path, capsys):
    damage(copy, 7)
    assert run(["data", "inspect", str(copy), "--pictures", str(tmp_path / "a")]) == OK
    assert "quarantined" in words_of(capsys)
    words = ["data", "inspect", str(copy), "--pictures", str(tmp_path / "b"), "--task", "7"]
    assert run(words) == USER_ERROR
    assert "task 7 must have an episode that can be read" in capsys.readouterr().err


def titles_of(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.axison]


def test_returns_have_a_panel_for_each_task_on_one_scale(tiny_data):
    store = DatasetStore.open(tiny_data)
    returns = {i: np.array([e.undiscounted_return for e in store.episodes(i)]) for i in range(50)}
    figure = draw_returns(store, returns)
    assert titles_of(figure) == [str(i) for i in range(50)]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    heights = [sum(patch.get_height() for patch in axes.patches) for axes in figure.axes]
    assert heights == [2.0] * 50  # episodes
    assert "point-robot, split standard" in figure.get_suptitle()


def test_of_many_tasks_some_are_drawn_and_that_is_said(tmp_path):
    write_dataset(
        tmp_path, parts=1, episodes=1, header=make_header(train=range(80), test=range(80, 95))
    )
    store = DatasetStore.open(tmp_path)
    figure = draw_returns(store, {i: np.array([float(i)]) for i in range(95)})
    titles = titles_of(figure)
    assert (len(titles), titles[0], titles[-1]) == (60, "0", "94")
    assert figure.get_suptitle().endswith("60 of 95 tasks")


def test_the_episode_drawn_is_the_one_of_the_median_return(tmp_path):
    episodes = make_episodes(7)
    with DatasetWriter(tmp_path / "set", make_header(train=(4,), test=())) as writer:
        writer.add(4, episodes[:3])
        writer.add(4, episodes[3:])
    store = DatasetStore.open(tmp_path / "set")
    draw_pictures(store, tmp_path / "out", 4, lambda done, total: None)
    returns = np.array([episode.undiscounted_return for episode in episodes])
    sample = median_episode(store, 4, returns)
    assert sample.episode.undiscounted_return == np.sort(returns)[3]
    assert returns[sample.number] == sample.episode.undiscounted_return
    title = draw_episode(store, sample).get_suptitle()
    assert f"episode {sample.number + 1} of 7, return {np.sort(returns)[3]:.4g}, truncated" in title


@pytest.mark.parametrize(("features", "is_map"), [(2, False), (8, False), (9, True)])
def test_many_features_are_drawn_as_a_map_and_a_plane_as_a_path(tmp_path, features, is_map):
    header = replace(make_header(train=(0,), test=()), observation_size=features)
    (episode,) = make_episodes(1)
    wide = np.random.default_rng(0).normal(size=(6, features)).astype(np.float32)
    episode = replace(episode, observation=wide, next_observation=wide)
    with DatasetWriter(tmp_path, header) as writer:
        writer.add(0, [episode])
    store = DatasetStore.open(tmp_path)
    sample = Sample(task=store.manifest.task(0), number=0, of=1, episode=episode)
    figure = draw_episode(store, sample)
    assert bool(figure.axes[0].images) == is_map
    assert ("path" in titles_of(figure)) == (features == 2)


def test_verify_names_each_fault_and_ends_with_one(copy, capsys):
    paths = [damage(copy, 7), damage(copy, 30)]
    assert run(["data", "verify", str(copy)]) == FAILED
    out = capsys.readouterr().out
    assert all(f"{path}: sha256 must be" in out for path in paths)
    assert "50 parts read, 2 with faults\n" in out
    assert run(["data", "verify", str(copy), "--json"]) == FAILED
    facts = json.loads(capsys.readouterr().out)
    assert facts["parts"] == 50
    assert [fault["file"] for fault in facts["faults"]] == paths
    assert facts["faults"][0]["message"].startswith(paths[0])


def test_verify_names_misstated_statistics(copy, capsys):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["statistics"]["3"]["return_max"] += 0.5
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert run(["data", "verify", str(copy)]) == FAILED
    out = words_of(capsys)
    assert "column statistics.3.return_max: must be" in out
    assert "50 parts read, 0 with faults, and misstated statistics" in out


def test_verify_of_a_good_data_set_ends_with_none(tiny_data, capsys):
    assert run(["data", "verify", str(tiny_data), "--json"]) == OK
    assert json.loads(capsys.readouterr().out) == {"parts": 50, "faults": []}
