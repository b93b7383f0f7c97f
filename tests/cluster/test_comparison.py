"""Runs side by side: who is grouped with whom, which scale, which interval, what is refused."""

import json
import math

import numpy as np
import pytest

from causeway.cluster.cli.main import run as causeway
from causeway.cluster.report.comparison import compare
from causeway.cluster.report.comparison_figure import draw_comparison
from causeway.cluster.report.evaluated import EVALUATED, keep_evaluated, read_evaluated
from causeway.cluster.report.run_data import ReportError
from causeway.cluster.report.style import to_png
from tests.cluster.report_run import summary, write_run

T_OF_TWO_DEGREES = 4.303  # Student's, at 97.5 %
BY = "run.algorithm"


def finished(folder, *, algorithm="smac", seed=0, train_tasks=40, changes=None, **given):
    """The folder of a run whose tasks' returns are known."""
    write_run(folder, seed=seed, **given)
    results = json.loads((folder / "results.json").read_text())
    results |= {"algorithm": algorithm, "protocols": {"online": "online_prior"}} | (changes or {})
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.yaml").write_text(
        f"run: {{algorithm: {algorithm}, seed: {seed}}}\ndata: {{train_tasks: {train_tasks}}}\n"
    )
    return folder


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def seeds(tmp_path):
    return [finished(tmp_path / f"smac-{seed}", seed=seed) for seed in (2, 0, 1)]


def test_scores_lie_between_random_and_oracle_and_their_interval_is_over_seeds(seeds):
    found = compare(seeds, by=BY, stage=None)
    (group,) = found.groups
    assert (group.label, group.seeds, found.stages) == ("smac", (0, 1, 2), ("online",))
    by_hand = []
    for folder in sorted(seeds):
        told = results_of(folder)
        low, high = told["random_return"]["mean"], told["oracle_return"]["mean"]
        by_hand.append((told["online"]["online_context_return"]["mean"] - low) / (high - low))
    score = group.scores["online_prior"]
    assert score.per_run == pytest.approx(by_hand)
    assert score.mean == pytest.approx(np.mean(by_hand))
    half_width = T_OF_TWO_DEGREES * np.std(by_hand, ddof=1) / math.sqrt(3)
    assert score.ci95 == pytest.approx(half_width, rel=1e-3)


def test_a_lone_run_has_its_interval_over_tasks(tmp_path):
    folder = finished(tmp_path / "one")
    (group,) = compare([folder], by=BY, stage="offline").groups
    told = results_of(folder)["offline"]["offline_context_return"]
    assert group.returns["offline"].ci95 == told["ci95"]
    assert group.returns["offline"].mean == told["mean"]


def test_the_stage_is_each_runs_last_unless_one_is_named(tmp_path):
    folders = [finished(tmp_path / "a"), finished(tmp_path / "b", seed=1, stages=("offline",))]
    assert compare(folders, by=BY, stage=None).stages == ("online", "offline")
    assert compare(folders, by=BY, stage="offline").stages == ("offline",)
    with pytest.raises(ReportError, match=r"--stage must be one that .*b has results of.*offline"):
        compare(folders, by=BY, stage="online")


def test_what_evaluate_found_later_is_one_protocol_more(seeds):
    values = {}
    updates = results_of(seeds[0])["updates"]
    protocols = {"online": "online_prior", "offline": "offline_shifted"}
    for number in (updates - 1, updates):
        values[number] = summary(np.linspace(-9.0, -8.0, 10) + updates - number)
        told = {
            "updates": number,
            "protocols": protocols,
            "offline_context_return": values[number],
        }
        keep_evaluated(seeds[0], told)
        keep_evaluated(seeds[0], told)
    assert [one["updates"] for one in read_evaluated(seeds[0])] == [updates - 1, updates]
    found = compare(seeds, by=BY, stage=None)
    assert found.protocols == ("no context", "offline", "offline_shifted", "online_prior")
    assert found.groups[0].returns["offline_shifted"].per_run == (values[updates]["mean"],)
    # The same evaluation says nothing of an earlier stage's end.
    assert "offline_shifted" not in compare(seeds, by=BY, stage="offline").protocols


def test_runs_are_grouped_by_any_setting_and_numbers_are_put_in_order(tmp_path):
    folders = [
        finished(tmp_path / f"{tasks}-{seed}", train_tasks=tasks, seed=seed)
        for tasks in (20, 5, 10)
        for seed in (0, 1)
    ]
    found = compare(folders, by="data.train_tasks", stage=None)
    assert [group.label for group in found.groups] == [5, 10, 20]
    assert all(group.seeds == (0, 1) for group in found.groups)
    assert found.numeric
    (axes,) = draw_comparison(found).axes
    assert axes.get_xscale() == "log"
    across, up = (np.asarray(one, float) for one in axes.lines[0].get_data())
    np.testing.assert_allclose(across, [5, 10, 20], rtol=0.05)  # intervals lie side by side
    means = [group.scores["no context"].mean for group in found.groups]
    np.testing.assert_allclose(up, means)


def test_methods_are_drawn_beside_their_names_with_every_run(tmp_path, seeds):
    found = compare([*seeds, finished(tmp_path / "p", algorithm="pearl")], by=BY, stage=None)
    assert not found.numeric
    figure = draw_comparison(found)
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["smac", "pearl"]
    marks = [line for line in axes.lines if line.get_marker() == "|"]
    assert sorted(len(line.get_xdata()) for line in marks) == [1, 1, 1, 3, 3, 3]
    assert to_png(figure).startswith(b"\x89PNG")


def test_without_an_oracle_returns_are_compared(seeds):
    folder = finished(seeds[0], seed=2, changes={"oracle_return": None})
    found = compare([folder, *seeds[1:]], by=BY, stage=None)
    assert not found.normalised
    assert found.groups[0].scores == found.groups[0].returns


@pytest.mark.parametrize(
    ("changes", "by", "message"),
    [
        ({"family": "ant-dir"}, BY, "must have one family, got 'point-robot' in .*smac-2"),
        ({"split": "ldm"}, BY, "must have one split, got 'standard'"),
        ({"seed": 2}, BY, "must have different seeds, got seed 2 in .*smac-2 and in .*other"),
        ({"offline": None, "online": None}, BY, "must have results.*causeway resume"),
        ({}, "data.tasks", "there is no 'tasks', there is train_tasks"),
        ({}, "data", "must name a single value"),
        ({}, "run.seed.more", "there is no 'more', there is nothing below it"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(seeds, tmp_path, changes, by, message):
    other = finished(tmp_path / "other", seed=7, changes=changes)
    with pytest.raises(ReportError, match=message):
        compare([*seeds, other], by=by, stage=None)


def test_a_damaged_file_of_evaluations_is_named(seeds):
    (seeds[0] / EVALUATED).write_text('{"evaluations": 3}')
    with pytest.raises(ReportError, match=rf"{EVALUATED} must hold a list of evaluations"):
        compare(seeds, by=BY, stage=None)


def test_the_command_prints_tables_and_writes_the_picture(seeds, tmp_path, capsys):
    words = ["compare", *map(str, seeds)]
    picture = tmp_path / "new" / "compared.png"
    assert causeway([*words, "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "point-robot, split standard, scores at the end of stage online" in out
    assert "0, 1, 2" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert causeway([*words, "--markdown", "--returns"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| algorithm | seeds | no context | offline | online_prior |"
    assert [line.count("|") for line in lines] == [6, 6, 6]
    assert causeway([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["groups"][0]["seeds"] == [0, 1, 2]
    assert causeway([*words, "--stage", "vae"]) == 2
    assert "--stage must be one" in " ".join(capsys.readouterr().err.split())
