"""Runs from the command line, in this process: what each command does and how it ends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from causeway.cluster.cli.main import run
from causeway.cluster.launch import existing_run
from causeway.cluster.learner import LearnerService
from causeway.datasets.store import DatasetStore
from causeway.learners.exported import ExportedPolicy
from tests.tiny_runs import results_of, write_yaml

ROOT = Path(__file__).resolve().parents[2]

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


@pytest.fixture
def train(tmp_path, tiny_data):
    """Trains serially; gives the exit code."""
    path = write_yaml(tmp_path, tiny_data)

    def call(*words):
        return run(["train", str(path), "--run.serial", "true", *words])

    return call


def words_of(capsys):
    """What was printed on stdout and stderr, line breaks of the layout undone."""
    captured = capsys.readouterr()
    return " ".join(captured.out.split()), " ".join(captured.err.split())


def test_train_writes_results_report_and_metrics_and_prints_the_returns(trained):
    files = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "results.json", "metrics.jsonl", "evaluations.json"} <= files
    assert results_of(trained)["updates"] == 40
    out = " ".join((trained.parent / "printed").read_text().split())
    for text in ("after offline", "after online", "oracle return", "results.json", "report.html"):
        assert text in out
    mean = results_of(trained)["online"]["online_context_return"]["mean"]
    assert f"{mean:.2f} ±" in out


def test_a_given_name_is_taken_once_and_an_own_one_is_numbered(train, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "demo")
    assert train("--run.name", "demo") == USER_ERROR
    _, err = words_of(capsys)
    assert "run.name 'demo' is taken" in err.replace("\n", " ")
    assert "causeway resume" in err
    short = ("--schedule.updates.offline", "5", "--schedule.updates.online", "0")
    assert train(*short) == OK
    assert train(*short) == OK
    assert (tmp_path / "smac-point-robot-3-2" / "results.json").exists()


def test_train_makes_scripted_data_where_there_are_none(tmp_path, tiny_data):
    path = write_yaml(tmp_path, tiny_data)
    data = tmp_path / "made"
    overrides = ["--data.path", str(data), "--data.episodes_per_task", "2", "--run.serial", "true"]
    short = ["--schedule.updates.offline", "5", "--schedule.updates.online", "0"]
    assert run(["train", str(path), *overrides, *short]) == OK
    assert len(DatasetStore.open(data).task_ids(None)) == 50


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--run.sed", "1"], "did you mean 'run.seed'"),
        (["--sampler.tasks_per_batch", "0"], "tasks_per_batch"),
        (["--data.family", "sparse-point-robot"], "it holds 'point-robot standard'"),
        (["--collection.max_staleness", "1"], "max_staleness must be at least publish_every"),
    ],
)
def test_a_users_mistake_ends_with_two_and_names_the_field(train, capsys, words, told):
    assert train(*words) == USER_ERROR
    _, err = words_of(capsys)
    assert told.lower() in err.lower()


def test_a_name_is_not_lost_to_a_run_that_never_began(train, tmp_path, tiny_data, capsys):
    """A mistake in the data leaves the folder; mended, the run begins with resume."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data, ignore=shutil.ignore_patterns("cache"))
    manifest = (data / "manifest.json").read_text()
    (data / "manifest.json").write_text("{}")
    assert train("--run.name", "early", "--data.path", str(data)) == USER_ERROR
    (data / "manifest.json").write_text(manifest)
    assert run(["evaluate", str(tmp_path / "early")]) == USER_ERROR
    assert "ended before its first" in words_of(capsys)[1]
    assert run(["resume", str(tmp_path / "early")]) == OK
    assert results_of(tmp_path / "early")["updates"] == 40


def test_resume_goes_on_from_the_checkpoint_and_gives_the_same_results(trained, tmp_path):
    folder = tmp_path / "demo"
    shutil.copytree(trained, folder)
    (folder / "results.json").unlink()
    for path in sorted((folder / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    _, checkpoint, _ = existing_run(folder)
    assert checkpoint.state["trainer"]["updates"] < 40
    assert run(["resume", str(folder)]) == OK
    one, other = results_of(trained), results_of(folder)
    one.pop("wall_seconds"), other.pop("wall_seconds")
    assert one == other


def test_resume_tells_of_a_damaged_checkpoint_and_falls_back(trained, tmp_path, capsys):
    folder = tmp_path / "demo"
    shutil.copytree(trained, folder)
    newest = max((folder / "checkpoints").iterdir())
    (newest / "state.json").write_text("{}")
    assert run(["resume", str(folder)]) == OK
    assert "must have sha256" in " ".join(words_of(capsys))


def test_resume_refuses_what_is_no_run_and_a_run_under_another_name(trained, tmp_path, capsys):
    assert run(["resume", str(tmp_path / "nowhere")]) == USER_ERROR
    assert "must be the folder of a run" in words_of(capsys)[1]
    shutil.copytree(trained, tmp_path / "other")
    assert run(["resume", str(tmp_path / "other")]) == USER_ERROR
    assert "holds the run 'demo'" in words_of(capsys)[1]


def test_a_run_may_move_with_its_name(trained, tmp_path):
    folder = tmp_path / "elsewhere" / "demo"
    shutil.copytree(trained, folder)
    config, _, _ = existing_run(folder)
    assert config.folder == folder


def test_evaluate_agrees_with_the_run_itself(trained, capsys):
    assert run(["evaluate", str(trained), "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    results = results_of(trained)
    protocols = {"online": "online_prior", "offline": "offline"}
    assert found == {"updates": 40, "protocols": protocols, **results["online"]}
    assert run(["evaluate", str(trained)]) == OK
    assert "after 40 updates" in words_of(capsys)[0]


def test_an_exported_policy_acts_and_adapts_where_nothing_of_a_run_can_be_imported(
    trained, tmp_path, capsys
):
    folder = tmp_path / "policy"
    assert run(["export", str(trained), "--to", str(folder)]) == OK
    assert str(folder) in "".join(capsys.readouterr().out.split())
    ours = ExportedPolicy.load(folder, seed=3)
    assert (ours.description.algorithm, ours.description.updates) == ("smac", 40)
    alone = subprocess.run(
        [sys.executable, "-m", "tests.cluster.alone", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    played = json.loads(alone.stdout)
    np.testing.assert_allclose(ours.act([0.0, 0.0]), played["before"], rtol=1e-6)
    assert played["adapted"] != played["before"]
    learner = LearnerService(existing_run(trained)[0], ours.description.layout)
    learner.load(existing_run(trained)[1])
    for name, tensor in learner.policy().state_dict().items():
        assert torch.equal(ours._policy.state_dict()[name], tensor), name


def test_export_needs_a_checkpoint_and_an_empty_folder(trained, tmp_path, capsys):
    (tmp_path / "notes").write_text("mine")
    assert run(["export", str(trained), "--to", str(tmp_path)]) == USER_ERROR
    assert "must be empty or not be there" in words_of(capsys)[1]
    assert (tmp_path / "notes").read_text() == "mine"
    shutil.copytree(trained, tmp_path / "demo", ignore=shutil.ignore_patterns("checkpoints"))
    assert run(["export", str(tmp_path / "demo"), "--to", str(tmp_path / "to")]) == USER_ERROR
    assert "must have a checkpoint to be exported" in words_of(capsys)[1]


def test_report_is_one_page_and_its_figures_can_be_had_apart(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "demo")
    assert run(["report", str(tmp_path / "demo"), "--pictures", str(tmp_path / "png")]) == OK
    page = tmp_path / "demo" / "report.html"
    assert str(page) in "".join(capsys.readouterr().out.split())
    assert "<html" in page.read_text()
    assert list((tmp_path / "png").glob("*.png"))


def test_data_are_collected_once_inspected_and_verified(tmp_path, capsys):
    out = str(tmp_path / "data")
    collect = ["data", "collect", "--out", out, "--episodes-per-task", "2", "--seed", "5"]
    assert run(collect) == OK
    assert run(collect) == USER_ERROR
    assert "overwrite" in words_of(capsys)[1]
    assert run([*collect, "--overwrite"]) == OK
    capsys.readouterr()
    assert run(["data", "inspect", out, "--json"]) == OK
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["split"], len(facts["tasks"])) == ("point-robot", "standard", 50)
    assert (facts["transitions"], facts["faults"]) == (50 * 2 * 20, [])
    assert run(["data", "inspect", out]) == OK
    assert "50 tasks, 2,000 transitions" in words_of(capsys)[0]
    assert run(["data", "verify", out]) == OK
    assert "50 parts read, 0 with faults" in words_of(capsys)[0]


def test_verify_names_a_damaged_part_and_ends_with_one(tiny_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data, ignore=shutil.ignore_patterns("cache"))
    store = DatasetStore.open(data)
    (part,) = store.parts(7)
    content = bytearray((data / part.path).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (data / part.path).write_bytes(bytes(content))
    assert run(["data", "verify", str(data)]) == FAILED
    out, _ = words_of(capsys)
    assert part.path in out.replace(" ", "")
    assert "50 parts read, 1 with faults" in out


def test_a_run_trains_on_around_a_damaged_part(train, tiny_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data, ignore=shutil.ignore_patterns("cache"))
    (part,) = DatasetStore.open(data).parts(7)
    (data / part.path).write_bytes(b"")
    assert train("--data.path", str(data), "--data.cache_folder", str(tmp_path / "cache")) == OK
    strict = ("--data.strict", "true", "--run.name", "strict")
    assert train("--data.path", str(data), *strict) == USER_ERROR


@pytest.mark.parametrize(
    "command", [["status"], ["scale", "--collectors", "3"], ["pause"], ["unpause"], ["stop"]]
)
def test_a_run_that_is_not_at_work_is_told_apart_and_ends_with_two(
    trained, tmp_path, capsys, command
):
    word, *options = command
    assert run([word, str(trained), *options]) == USER_ERROR
    assert "is not at work" in words_of(capsys)[1]
    assert run([word, str(tmp_path), *options]) == USER_ERROR
    assert "must be the folder of a run" in words_of(capsys)[1]


def test_a_run_whose_process_died_is_told_so(trained, tmp_path, capsys):
    folder = tmp_path / "demo"
    shutil.copytree(trained, folder)
    (folder / "redis").mkdir()
    (folder / "redis" / "url").write_text(f"unix://{folder}/redis/redis.sock\n")
    assert run(["status", str(folder)]) == USER_ERROR
    err = words_of(capsys)[1]
    assert "was not heard from" in err
    assert "causeway resume" in err
