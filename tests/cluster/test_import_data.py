"""`causeway data import`: a family's tasks from foreign files, asked for what they do not say."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from causeway.actors.tasks.point_robot import PointRobot
from causeway.cluster.cli.main import run
from causeway.datasets.batches import RowLayout
from causeway.datasets.faults import DatasetError
from causeway.datasets.store import DatasetStore
from tests.datasets.importers.layouts import (
    d4rl_arrays,
    write_arrays,
    write_corro,
    write_focal,
    write_hdf5,
)

OK, USER_ERROR, INTERRUPTED = 0, 2, 130
ROOT = Path(__file__).parents[2]
LAYOUT = RowLayout(observation_size=2, action_size=2)
# The command line, which goes no further than two tasks of an import.
STALLS = """
import itertools, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from causeway.cluster.cli.main import run
from causeway.datasets.writer import DatasetWriter
add, calls = DatasetWriter.add, itertools.count()
def add_two(*words):
    if next(calls) == 2:
        print("two tasks", flush=True)
        time.sleep(120)
    add(*words)
DatasetWriter.add = add_two
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def original(tiny_data):
    return DatasetStore.open(tiny_data)


@pytest.fixture
def trajectories(original, tmp_path):
    """Point robots' episodes as FOCAL has them; half of them are train tasks, half test tasks."""
    tasks = (*range(4), *range(40, 44))
    return write_focal(tmp_path / "files", {task: original.episodes(task) for task in tasks})


@pytest.fixture
def call(tmp_path, capsys):
    """Imports into a folder; gives the exit code and what was said."""

    def imported(form, place, *words, family="point-robot"):
        out = str(tmp_path / "out")
        code = run(
            ["data", "import", form, str(place), "--out", out, "--family", family, *map(str, words)]
        )
        captured = capsys.readouterr()
        return code, " ".join(captured.out.split()), " ".join(captured.err.split())

    return imported


def opened(tmp_path):
    return DatasetStore.open(tmp_path / "out", strict=True)


def rows_of(episodes):
    return [LAYOUT.pack(episode).tolist() for episode in episodes]


def test_a_familys_own_tasks_become_the_same_data_set(call, trajectories, original, tmp_path):
    code, out, _ = call("focal", trajectories, "--task-parameters", "family")
    assert code == OK
    assert "cast.observation: float64 to float32" in out
    assert "causeway data inspect" in out
    store = opened(tmp_path)
    manifest = store.manifest
    assert (manifest.family, manifest.split, manifest.horizon) == ("point-robot", "standard", 20)
    assert store.task_ids() == tuple(range(4))
    assert store.task_ids("test") == tuple(range(40, 44))
    for task in store.task_ids(None):
        assert manifest.task(task).parameters == original.manifest.task(task).parameters
        assert rows_of(store.episodes(task)) == rows_of(original.episodes(task))
    options = manifest.provenance.options
    assert (options["format"], options["horizon"], options["horizon_from"]) == (
        "focal",
        20,
        "family",
    )
    assert options["task_parameters"] == "family"
    assert options["clip_actions"] is False
    assert "early_end" not in options  # no option of this format
    assert "terminated" in options["rule.ends"]
    assert manifest.provenance.generator == "causeway data import focal"


def test_what_was_imported_can_be_trained_on(call, trajectories, tmp_path):
    from causeway.cluster.config import load_run_config
    from causeway.cluster.streams import open_data
    from tests.tiny_runs import write_yaml

    assert call("focal", trajectories, "--task-parameters", "family")[0] == OK
    config = load_run_config(write_yaml(tmp_path, tmp_path / "out"))
    assert open_data(config).task_ids() == tuple(range(4))


def test_an_existing_data_set_is_replaced_only_when_that_is_asked_for(call, trajectories, tmp_path):
    words = ("focal", trajectories, "--task-parameters", "family")
    assert call(*words)[0] == OK
    code, _, err = call(*words)
    assert (code, "ask to overwrite it" in err) == (USER_ERROR, True)
    assert call(*words, "--overwrite", "--license", "CC-BY-4.0")[0] == OK
    assert opened(tmp_path).manifest.license == "CC-BY-4.0"


def test_parameters_from_a_file_make_a_split_of_its_own(call, trajectories, tmp_path):
    path = tmp_path / "parameters.json"
    tasks = (*range(4), *range(40, 44))
    path.write_text(json.dumps({str(task): {"goal_x": task, "goal_y": 0.5} for task in tasks}))
    code, *_ = call("focal", trajectories, "--task-parameters", path, "--test-tasks", "2, 41")
    assert code == OK
    store = opened(tmp_path)
    assert store.manifest.split == "imported"
    assert store.task_ids("test") == (2, 41)
    assert store.manifest.task(3).parameters == {"goal_x": 3.0, "goal_y": 0.5}


def test_parameters_under_the_familys_split_must_be_the_familys(call, trajectories, tmp_path):
    split = PointRobot().splits()["standard"]
    true = {
        str(task.id): {n: round(v, 3) for n, v in task.parameters.items()} for task in split.tasks
    }
    path = tmp_path / "parameters.json"
    path.write_text(json.dumps(true))
    words = ("focal", trajectories, "--split", "standard", "--task-parameters", path)
    assert call(*words)[0] == OK
    assert opened(tmp_path).manifest.task(1).parameters == split.train[1].parameters
    true["41"]["goal_x"] += 0.01
    path.write_text(json.dumps(true))
    code, _, err = call(*words, "--overwrite")
    assert code == USER_ERROR
    assert "parameters of task 41 must be those of the family's split 'standard'" in err


def test_numbers_in_names_are_parameters_where_the_format_has_them(call, original, tmp_path):
    tasks = {task: original.episodes(task) for task in (1, 2)}
    place = write_corro(tmp_path / "files", tasks)
    assert call("corro", place)[0] == OK
    store = opened(tmp_path)
    assert store.manifest.task(2).parameters == {"goal_0": 0.5, "goal_1": -0.5}
    assert store.manifest.provenance.options["task_parameters"] == "the files' names"
    code, _, err = call("corro", place, "--split", "standard", "--overwrite")
    assert (code, "must be those of the family's split" in err) == (USER_ERROR, True)
    assert call("corro", place, "--task-parameters", "none", "--overwrite")[0] == OK
    assert opened(tmp_path).manifest.task(2).parameters == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "task parameters must be given, files of the format focal do not have those of tasks"),
        (("--task-parameters", "absent.json"), "'family', 'none' or a JSON file, reading"),
        (
            ("--task-parameters", "none", "--test-tasks", "9"),
            "test tasks must be among [0, 1, 2, 3, 40, 41, 42, 43], got [9]",
        ),
        (
            ("--task-parameters", "family", "--test-tasks", "2"),
            "test tasks of split 'standard' are the family's own",
        ),
        (("--task-parameters", "family", "--split", "odd"), "must be one of standard, got 'odd'"),
        (("--task-parameters", "none", "--test-tasks", "two"), "must be numbers with commas"),
        (("--task-parameters", "none", "--early-end", "no"), "must be terminated or truncated"),
        (
            ("--task-parameters", "none", "--early-end", "truncated"),
            "--early-end is not for the format focal, which takes none of these options",
        ),
        (("--task-parameters", "none", "--horizon", "5"), "at most the horizon of 5 steps, got 20"),
        (("--task-parameters", "none", "--action-bound", "0"), "action_bound must be finite and"),
    ],
)  # fmt: skip
def test_a_users_mistake_ends_with_two_and_says_what_to_give(
    call, trajectories, tmp_path, monkeypatch, words, told
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("focal", trajectories, *words)
    assert (code, out) == (USER_ERROR, "")
    assert told in err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unknown_format_or_family_is_guessed_at(call, trajectories):
    code, _, err = call("focel", trajectories)
    assert (code, "Did you mean 'focal'?" in err) == (USER_ERROR, True)
    code, _, err = call("focal", trajectories, family="point-robt")
    assert (code, "Did you mean 'point-robot'?" in err) == (USER_ERROR, True)


def test_tasks_that_the_family_does_not_have_are_refused(call, original, tmp_path):
    place = write_focal(tmp_path / "files", {73: original.episodes(0)})
    code, _, err = call("focal", place, "--task-parameters", "family")
    assert code == USER_ERROR
    assert "task 73 (goal_idx73) must be one of split 'standard', which has 0 to 49" in err


def test_files_of_another_robot_are_refused(call, tmp_path):
    from tests.datasets.importers.layouts import make_walks

    path = write_hdf5(tmp_path / "x.hdf5", d4rl_arrays(make_walks((6, 6))))
    code, _, err = call("d4rl", path, "--task-parameters", "none")
    assert code == USER_ERROR
    assert "must have shape (6, 2), with the family's sizes, got (6, 3)" in err


@pytest.mark.parametrize(
    "contents",
    [
        "[]",
        "{}",
        '{"0": 3}',
        '{"0": {"goal_x": "east"}}',
        '{"0": {"goal_x": NaN}}',
        "{",
        "[" * 9999,
    ],
)
def test_a_file_of_parameters_must_give_finite_numbers(call, original, tmp_path, contents):
    place = write_focal(tmp_path / "files", {0: original.episodes(0)})
    (tmp_path / "p.json").write_text(contents)
    code, _, err = call("focal", place, "--task-parameters", tmp_path / "p.json")
    assert (code, str(tmp_path / "p.json") in err) == (USER_ERROR, True)


def test_an_assumed_horizon_that_no_episode_reaches_is_asked_for(call, original, tmp_path):
    """Point robots that were collected with a shorter time limit than the family's."""
    from tests.datasets.importers.layouts import shortened

    episodes = [shortened(episode, 12) for task in range(3) for episode in original.episodes(task)]
    place = write_focal(tmp_path / "files", {0: episodes})
    code, _, err = call("focal", place, "--task-parameters", "none")
    assert code == USER_ERROR
    assert "6 of 6 episodes stop at 12, and none goes further: give --horizon 12" in err
    assert call("focal", place, "--task-parameters", "none", "--horizon", "12")[0] == OK
    store = opened(tmp_path)
    assert store.manifest.horizon == 12
    assert store.manifest.provenance.options["horizon_from"] == "option"
    assert all(episode.truncated[-1] for episode in store.episodes(0))


def test_a_mistake_in_a_file_names_it_and_leaves_no_data_set(call, original, tmp_path):
    from tests.datasets.importers.layouts import corro_arrays

    arrays = corro_arrays(original.episodes(0))
    arrays["actions"][7, 1] = 3.0
    write_arrays(tmp_path / "files" / "seed_0", arrays)
    code, _, err = call("corro", tmp_path / "files", "--task-parameters", "none")
    assert code == USER_ERROR
    assert "seed_0, column actions.npy, row 7: must lie in [-1, 1], got 3.0 in feature 1" in err
    with pytest.raises(DatasetError, match=r"has no manifest\.json|no such folder"):
        opened(tmp_path)
    code, out, _ = call("corro", tmp_path / "files", "--task-parameters", "none", "--clip-actions")
    assert (code, "clipped action values: 1" in out) == (OK, True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_import_is_no_data_set_and_can_be_begun_again(original, tmp_path, number):
    episodes = original.episodes(0) * 6
    place = write_focal(tmp_path / "files", dict.fromkeys(range(50), episodes))
    words = [
        "data", "import", "focal", str(place), "--out", str(tmp_path / "out"),
        "--family", "point-robot", "--task-parameters", "family",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", STALLS, *words],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "two tasks\n", process.communicate()[1]
    assert list((tmp_path / "out").rglob("*.parquet"))
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (INTERRUPTED if number == signal.SIGINT else -number)
    with pytest.raises(DatasetError, match=r"it has no manifest\.json.*interrupted"):
        DatasetStore.open(tmp_path / "out")
    assert run(words) == OK
    assert len(opened(tmp_path).task_ids(None)) == 50
