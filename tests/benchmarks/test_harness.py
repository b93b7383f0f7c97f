"""The benchmarks' harness: medians, verdicts, the command and its JSON."""

import io
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks.harness import (
    Options,
    Row,
    benchmarks,
    interleaved,
    load,
    print_table,
    timed,
    to_json,
)

ROOT = Path(__file__).resolve().parents[2]


def make_row(**changes):
    given = {"case": "case", "ours": 30.0, "theirs": 10.0, "target": 2.0, "unit": "1/s"}
    return Row.rates(**{**given, **changes})


def run_command(*arguments):
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_measures_are_taken_in_turns_and_the_first_round_is_not_counted():
    taken = []

    def measure(name, figures):
        def next_figure():
            taken.append(name)
            return figures.pop(0)

        return next_figure

    medians = interleaved(measure("a", [9, 1, 2, 30]), measure("b", [9, 5, 4, 6]), rounds=3)
    assert medians == [2, 5]
    assert "".join(taken) == "abbaabba"


def test_several_calls_in_a_row_are_timed_as_one():
    clock = itertools.count().__next__  # ticks whenever it is read
    calls = []
    assert timed(lambda: calls.append(clock()), clock, calls=4)() == pytest.approx(5 / 4)
    assert calls == [1, 2, 3, 4]


def test_a_call_is_timed_by_the_clock_that_is_asked_for():
    wall = timed(lambda: time.sleep(0.05))()
    of_the_processor = timed(lambda: time.sleep(0.05), clock=time.process_time)()
    assert wall >= 0.05
    assert of_the_processor < 0.04


def test_higher_is_better_in_every_kind_of_row():
    assert make_row().ratio == 3.0
    assert make_row(target=3.0).verdict == "met"
    assert make_row(target=3.01).verdict == "missed"
    cost = Row.costs("memory", ours=2.0, theirs=5.0, target=2.0, unit="GB")
    assert (cost.ratio, cost.verdict) == (2.5, "met")
    limit = Row.at_most("latency", measured=0.6, allowed=0.5, unit="ms")
    assert limit.ratio == pytest.approx(5 / 6)
    assert limit.verdict == "missed"
    assert Row.unmeasured("c", target=1.0, unit="s", why="not there").verdict == "not measured"


def test_a_result_has_the_keys_that_are_documented():
    result = json.loads(json.dumps(to_json("name", [make_row(), make_row(note="so")])))
    assert set(result) == {"name", "machine", "versions", "rows"}
    assert set(result["rows"][0]) == {"case", "ratio", "target", "ours", "theirs", "unit"}
    assert result["rows"][1]["note"] == "so"
    assert {"processor", "cores", "memory_gib"} <= set(result["machine"])
    assert "numpy" in result["versions"]


def test_the_table_tells_figures_and_verdicts():
    console = Console(width=160, record=True, file=io.StringIO())
    rows = [make_row(), make_row(ours=12345.6, theirs=0.001234, target=1e9)]
    rows.append(Row.unmeasured("[gpu]", target=1.0, unit="s", why="no CUDA"))
    print_table("name", rows, console)
    text = console.export_text()
    for words in ("3.00 x", "2.00 x", "12,346", "0.00123", "missed", "met", "[gpu]", "no CUDA"):
        assert words in text


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": 1.1}, {"threads": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"Options.{next(iter(options))} must"):
        Options(**options)


def test_counts_shrink_with_the_scale_but_not_below_what_is_needed():
    assert Options(scale=0.25).scaled(100) == 25
    assert Options(scale=0.01).scaled(100, at_least=16) == 16


def test_every_benchmark_says_what_it_measures():
    assert all(what for what in benchmarks().values())
    assert not {"harness", "test_harness", "__main__"} & set(benchmarks())


def test_an_unknown_benchmark_is_refused_by_naming_the_known_ones():
    with pytest.raises(ValueError, match=r"must be one of .*, got 'none'"):
        load("none")
    refused = run_command("none")
    assert refused.returncode == 2
    assert "must be one of" in refused.stderr


def test_the_command_lists_the_benchmarks():
    listed = run_command("list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(benchmarks())


def test_threads_are_set_before_numerical_libraries_are_there():
    code = (
        "from tests.benchmarks.harness import pin_threads; pin_threads(1); import torch;"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()\n"
        "try: pin_threads(2)\n"
        "except RuntimeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "before ['numpy', 'torch'] are imported" in done.stdout
