"""The report: right numbers, honest words, one file, something to read however young the run."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from causeway.actors.summary import Summary, summarise
from causeway.cluster.report.build import build_report, render
from causeway.cluster.report.figures import draw_all, per_episode, smoothed
from causeway.cluster.report.findings import (
    ONLINE_CONTEXT,
    difference,
    direction,
    gap,
    headline,
    number,
    rows,
    share_of_possible,
)
from causeway.cluster.report.run_data import ReportError, read_run, read_summary, series
from causeway.cluster.report.style import COLOURS, to_svg
from tests.cluster.report_run import REPEATS, TASKS, write_run

ALL_FIGURES = ["adaptation", "contexts", "paths", "returns", "losses", "machinery"]
VOID = {"meta", "link", "br", "img", "path", "use", "rect", "circle", "line", "image", "stop"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers ids, references and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.uses, self.links, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        for name in ("src", "href", "xlink:href"):
            if name in values:
                (self.uses if values[name].startswith("#") else self.links).append(values[name])
        self.uses += re.findall(r"url\((#[^)]+)\)", " ".join(v or "" for v in values.values()))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder, the text and the parsed page of a finished run."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    text = build_report(folder, pictures=folder / "pictures").read_text(encoding="utf-8")
    return folder, text, Page(text)


def change_results(folder, **changes):
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_page_is_one_well_formed_file_that_fetches_nothing(finished):
    folder, text, page = finished
    assert page.open == []
    assert page.links == []
    assert "<script" not in text
    assert "@import" not in text
    assert not list(folder.glob("*.partial"))


def test_inner_references_of_the_figures_lead_somewhere_and_stay_apart(finished):
    _, _, page = finished
    assert page.uses
    assert {use.removeprefix("#") for use in page.uses} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_holds_every_figure_table_and_the_configuration(finished):
    _, text, page = finished
    assert all(f'<figure id="{name}"' in text for name in ALL_FIGURES)
    for words in (
        "smac on point-robot", "Returns in held-out tasks", "Shift between beliefs", "14.3",
        "Every held-out task", "goal_x", "discount: 0.99", "0123456789abcdef", "120,000",
        "5 min 12 s",
    ):  # fmt: skip
        assert words in page.text


def test_the_table_shows_the_numbers_of_the_results(finished):
    folder, _, page = finished
    results = json.loads((folder / "results.json").read_text())
    for stage in ("offline", "online"):
        for value in results[stage].values():
            shown = f"{value['mean']:.2f} ± {value['ci95']:.2f}".replace("-", "\N{MINUS SIGN}")
            assert shown in page.text


def test_a_run_that_goes_on_from_another_shows_what_it_kept_of_its_tasks(finished, tmp_path):
    assert "older run's tasks" not in finished[1]
    folder = write_run(tmp_path / "goes-on", stages=("offline",))
    before, after, change = ({"prior_return": value(one)} for one in (-9.0, -9.5, -0.5))
    change_results(folder, old={"before": before, "after": after, "change": change})
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    table = text[text.index("older run's tasks") :].replace("\N{MINUS SIGN}", "-")
    assert "No context -9.00 ± 0.20 -9.50 ± 0.20 -0.50 ± 0.20" in table


def value(mean):
    """A number of results with its interval."""
    return {"mean": mean, "ci95": 0.2, "per_task": []}


def test_colours_in_the_page_are_variables_that_light_and_dark_both_define(finished):
    _, text, _ = finished
    style, body = text.split("</style>")
    for name, value in COLOURS.items():
        assert f"--{name}: {value};" in style
        assert style.count(f"--{name}: #") == 2
        assert value not in body
    assert set(re.findall(r"var\(--(\w+)\)", body)) <= set(COLOURS)


def test_text_of_a_run_is_never_markup(tmp_path):
    folder = write_run(tmp_path / "run")
    change_results(folder, algorithm="<script>alert(1)</script>", family="&amp;")
    (folder / "config.yaml").write_text("name: </pre><img src=x>\n")
    run = read_run(folder)
    text = render(run, draw_all(run)[:1])
    assert "<script" not in text
    assert "<img" not in text
    assert Page(text).open == []


def test_pictures_are_written_beside_when_asked_for(finished):
    folder, _, _ = finished
    pictures = sorted((folder / "pictures").iterdir())
    assert [p.stem for p in pictures] == sorted(ALL_FIGURES)
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_the_same_run_gives_the_same_page(finished, tmp_path):
    folder, text, _ = finished
    again = build_report(folder).read_text(encoding="utf-8")
    assert again == text


def test_a_run_without_an_online_stage_is_reported_as_what_it_is(tmp_path):
    folder = write_run(tmp_path, stages=("offline",))
    page = Page(render(read_run(folder), []))
    assert "earns" in headline(read_run(folder))
    assert "after offline training." in page.text
    assert [d.name for d in draw_all(read_run(folder))] == ALL_FIGURES


def test_a_run_that_has_only_begun_shows_how_far_it_has_come(tmp_path):
    folder = write_run(tmp_path)
    (folder / "results.json").unlink()
    (folder / "evaluations.json").unlink()
    page = Page(render(read_run(folder), []))
    assert "no results yet" in page.text
    assert "not in this report: results.json, evaluations.json" in page.text
    assert [d.name for d in draw_all(read_run(folder))] == ["losses", "machinery"]


def test_a_family_that_is_not_planar_has_no_paths(tmp_path):
    folder = write_run(tmp_path)
    path = folder / "evaluations.json"
    evaluations = json.loads(path.read_text())
    for stage in evaluations["stages"].values():
        stage["online_prior"] |= {"paths_first": [], "paths_last": []}
        stage["shift"] = None  # beliefs that are no Gaussians
    path.write_text(json.dumps(evaluations))
    assert "paths" not in [d.name for d in draw_all(read_run(folder))]
    assert "Shift between beliefs" not in render(read_run(folder), [])


def test_unknown_reference_returns_leave_out_shares_and_lines(tmp_path):
    folder = write_run(tmp_path)
    change_results(folder, oracle_return=None, random_return=None)
    run = read_run(folder)
    assert all(row.online_share is None for row in rows(run))
    text = render(run, [])
    assert "Oracle" not in text
    assert "Percentages" not in text


def test_half_a_last_line_of_metrics_is_left_out(tmp_path):
    folder = write_run(tmp_path)
    path = folder / "metrics.jsonl"
    whole = len(path.read_text().splitlines())
    path.write_text(path.read_text() + '{"time_s": 3.0, "upd')
    assert len(read_run(folder).metrics) == whole


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("metrics.jsonl", '{"updates": 1}\n{"upd\n{"updates": 3}\n', r"metrics\.jsonl, line 2"),
        ("metrics.jsonl", "3\n", r"metrics\.jsonl, line 1, must hold a JSON object, got '3'"),
        ("results.json", '{"seed": ', r"results\.json must be JSON"),
        ("evaluations.json", "[]", r"evaluations\.json must hold a JSON object, got list"),
    ],
)
def test_a_damaged_file_is_named(name, text, complaint, tmp_path):
    folder = write_run(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(ReportError, match=complaint):
        build_report(folder)


def test_a_folder_that_is_no_runs_is_refused(tmp_path):
    with pytest.raises(ReportError, match="it holds none of results"):
        build_report(tmp_path)
    with pytest.raises(ReportError, match="there is no such folder"):
        build_report(tmp_path / "absent")


def test_changes_are_taken_task_by_task():
    before, after = summarise([-10.0, -20.0, -30.0]), summarise([-9.0, -18.9, -29.1])
    change = difference(after, before)
    assert change.per_task == pytest.approx((1.0, 1.1, 0.9))
    assert change.ci95 < 0.3 < before.ci95  # the tasks' own spread has cancelled


def test_a_change_without_its_tasks_has_no_interval():
    bare = Summary(mean=-3.0, ci95=None, per_task=())
    assert difference(summarise([-1.0, -2.0]), bare) == Summary(mean=1.5, ci95=None, per_task=())
    assert difference(bare, None) is None


def test_the_gap_is_what_own_experience_earns_less(tmp_path):
    run = read_run(write_run(tmp_path))
    offline, own = (run.results["offline"][n]["mean"] for n in
                    ("offline_context_return", "online_context_return"))  # fmt: skip
    assert gap(run, "offline").mean == pytest.approx(offline - own)
    assert gap(run, "online").mean < gap(run, "offline").mean


def test_shares_run_from_random_to_the_oracle(tmp_path):
    run = read_run(write_run(tmp_path))
    oracle, random = run.summary(None, "oracle_return"), run.summary(None, "random_return")
    assert share_of_possible(run, oracle) == 1.0
    assert share_of_possible(run, random) == 0.0


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ([-4.0, -5.1, -6.0, -6.9], "Self-supervision raised"),
        ([-14.0, -15.1, -16.0, -16.9], "Self-supervision lowered"),
        ([-9.0, -12.0, -10.5, -12.5], "Self-supervision made no clear difference"),
    ],
)
def test_the_headline_claims_no_more_than_the_interval_allows(after, words, tmp_path):
    folder = write_run(tmp_path)
    before = summarise([-9.5, -10.5, -11.5, -12.4])
    change_results(
        folder,
        offline={ONLINE_CONTEXT: before.to_json()},
        online={ONLINE_CONTEXT: summarise(after).to_json()},
    )
    assert headline(read_run(folder)).startswith(words)


def test_a_change_without_an_interval_is_never_called_clear():
    assert direction(Summary(mean=5.0, ci95=None, per_task=())) == "unclear"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (-7.5551, "\N{MINUS SIGN}7.56"),
        (1234.5, "1,234"),
        (0.0123, "0.012"),
        (Summary(mean=-7.5, ci95=0.61, per_task=()), "\N{MINUS SIGN}7.50 ± 0.61"),
        (Summary(mean=812.34, ci95=25.2, per_task=()), "812.3 ± 25.2"),
    ],
)
def test_numbers_show_as_many_places_as_their_interval_deserves(value, text):
    assert number(value).replace("\N{NO-BREAK SPACE}", " ") == text


def test_episodes_are_summarised_over_tasks_after_repeats():
    returns = np.zeros((TASKS, REPEATS, 3))
    returns[:, 0, 1] = np.arange(TASKS) * REPEATS
    curve = per_episode(returns.tolist())
    assert [episode.mean for episode in curve] == [0.0, np.arange(TASKS).mean(), 0.0]
    assert curve[1].per_task == tuple(range(TASKS))
    assert per_episode(None) == []


def test_a_long_series_is_thinned_to_means_and_gaps_are_left_out():
    losses = ({"critic": float(i), "kl": math.nan} for i in range(1000))
    metrics = tuple({"updates": i, "losses": row} for i, row in enumerate([*losses, {}]))
    updates, values = series(metrics, "updates", "losses", "critic", max_points=100)
    assert len(updates) == 100
    np.testing.assert_allclose(values, updates)
    assert values[0] == np.arange(10).mean()
    assert len(series(metrics, "updates", "losses", "kl")[0]) == 0
    assert len(series((), "updates", "losses", "critic")[0]) == 0


def test_a_running_mean_keeps_a_constant_and_the_length():
    np.testing.assert_allclose(smoothed(np.full(500, 3.0)), 3.0)
    assert smoothed(np.array([1.0])).tolist() == [1.0]


@pytest.mark.parametrize("value", [None, "x", True, math.nan, {"mean": None}, {}])
def test_what_is_no_number_is_no_summary(value):
    assert read_summary(value) is None


def test_a_bare_number_is_a_summary_without_an_interval():
    assert read_summary(-5) == Summary(mean=-5.0, ci95=None, per_task=())


def test_a_single_held_out_task_has_no_intervals_and_still_a_report(tmp_path):
    folder = write_run(tmp_path)
    one = {"mean": -5.0, "ci95": None, "per_task": [-5.0]}
    names = ("prior_return", "online_context_return", "offline_context_return")
    stage = dict.fromkeys(names, one)
    change_results(folder, offline=stage, online=stage, oracle_return=None, random_return=None)
    assert "\N{MINUS SIGN}5.00" in Page(render(read_run(folder), [])).text


def test_figures_keep_their_text_as_text(tmp_path):
    drawing = draw_all(read_run(write_run(tmp_path)))[0]
    assert "episode of adaptation</text>" in to_svg(drawing.figure, drawing.name)
