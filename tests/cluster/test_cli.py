"""The command line: what it prints, how it ends, and that it answers at once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from causeway import __version__
from causeway.actors.tasks import registry
from causeway.actors.tasks.registry import families as known_families
from causeway.cluster.cli import doctor as doctor_module
from causeway.cluster.cli.algorithms import describe_module
from causeway.cluster.cli.doctor import check_disk, run_checks, usable_cores, usable_memory
from causeway.cluster.cli.invocation import Invocation, overrides_of, split_arguments
from causeway.cluster.cli.main import COMMANDS, Command, is_users_mistake, run
from causeway.cluster.config_io import ConfigError, load_config
from causeway.datasets.faults import DatasetError
from causeway.learners.registry import algorithms as known_algorithms

ROOT = Path(__file__).parents[2]


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


def refuse() -> None:
    """Refuse the configuration."""
    raise ConfigError("learner.discount must be a number, got 'x' (text)")


def refuse_data() -> None:
    """Refuse a data set."""
    raise DatasetError("data/point-robot: manifest.json must be there; collect the data set first")


def break_down() -> None:
    """Fail inside a library."""
    int("not a number of ours")


def break_without_words() -> None:
    """Fail without a message."""
    raise RuntimeError


def break_remotely() -> None:
    """Fail as a remote call does: a long text, and the cause beside it."""
    error = RuntimeError("remote traceback\n" * 40)
    error.cause = OSError("disk full")  # type: ignore[attr-defined]
    raise error


def be_interrupted() -> None:
    """End as by Ctrl-C."""
    raise KeyboardInterrupt


def leave_with_three() -> None:
    """Choose an exit code."""
    raise typer.Exit(3)


def echo(context: typer.Context, name: Annotated[str, typer.Argument()] = "nobody") -> None:
    """Print the name and the overrides."""
    print(name, *overrides_of(context))


group = typer.Typer()
group.command("echo")(echo)
group.command("refuse")(refuse)

TOYS = (
    Command(name="refuse", run=refuse),
    Command(name="refuse-data", run=refuse_data),
    Command(name="break", run=break_down),
    Command(name="wordless", run=break_without_words),
    Command(name="remote", run=break_remotely),
    Command(name="interrupt", run=be_interrupted),
    Command(name="three", run=leave_with_three),
    Command(name="echo", run=echo, takes_overrides=True),
    Command(name="group", run=group, takes_overrides=True),
)


def test_python_dash_m_causeway_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "causeway", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"causeway {__version__}\n", "")


def test_the_command_line_imports_nothing_heavy_before_it_is_asked_to():
    done = python(
        "import sys, causeway.cluster.cli.main\n"
        "heavy = {'torch', 'ray', 'redis', 'numpy', 'pyarrow', 'matplotlib', 'mujoco'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_reader_that_stops_reading_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m causeway families --json | head -c 1",
        shell=True, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[", "")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command_and_overrides(words, capsys):
    assert run(words) == 0
    text = capsys.readouterr().out
    assert all(command.name in text for command in COMMANDS)
    assert "--section.key" in text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_every_command_has_help(command, capsys):
    assert run([command.name, "--help"]) == 0
    assert f"causeway {command.name}" in capsys.readouterr().out


def test_an_unknown_command_is_the_users_mistake_and_guessed_at(capsys):
    assert run(["famlies"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Did you mean 'families'?" in captured.err
    assert "Try 'causeway --help'." in captured.err


def test_an_unknown_option_is_the_users_mistake(capsys):
    assert run(["families", "--colour"]) == 2
    assert "Try 'causeway families --help'." in capsys.readouterr().err


def test_a_refused_configuration_is_one_paragraph_and_code_two(capsys):
    assert run(["refuse"], TOYS) == 2
    captured = capsys.readouterr()
    assert captured.err == "causeway: learner.discount must be a number, got 'x' (text)\n"


def test_a_refused_data_set_is_the_users_mistake(capsys):
    assert run(["refuse-data"], TOYS) == 2
    assert "collect the data set first" in capsys.readouterr().err


def test_a_refusal_inside_a_group_is_told_the_same_way(capsys):
    assert run(["group", "refuse"], TOYS) == 2
    assert "learner.discount" in capsys.readouterr().err


def test_a_failure_is_one_paragraph_and_code_one(capsys):
    assert run(["break"], TOYS) == 1
    message = capsys.readouterr().err
    assert message.startswith("causeway: ValueError: invalid literal for int()")
    assert "--debug" in message
    assert "Traceback" not in message
    assert message.count("\n") == 1


def test_a_failure_without_a_message_still_says_what_it_is(capsys):
    assert run(["wordless"], TOYS) == 1
    assert "RuntimeError: no message." in capsys.readouterr().err


def test_a_remote_failure_tells_its_cause_and_not_the_remote_traceback(capsys):
    assert run(["remote"], TOYS) == 1
    message = capsys.readouterr().err
    assert "OSError: disk full." in message
    assert "remote traceback" not in message


@pytest.mark.parametrize("words", [["--debug", "break"], ["break", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(words, capsys):
    assert run(words, TOYS) == 1
    message = capsys.readouterr().err
    assert "Traceback (most recent call last)" in message
    assert "in break_down" in message


def test_an_interrupt_ends_with_130(capsys):
    assert run(["interrupt"], TOYS) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_command_may_choose_its_exit_code():
    assert run(["three"], TOYS) == 3


def test_overrides_reach_the_command_and_leave_its_arguments_alone(capsys):
    words = ["echo", "--learner.discount", "0.9", "Ada", "--a.b=-1"]
    assert run(words, TOYS) == 0
    assert capsys.readouterr().out == "Ada --learner.discount 0.9 --a.b=-1\n"


def test_overrides_reach_the_commands_of_a_group(capsys):
    assert run(["group", "echo", "--data.seed", "3"], TOYS) == 0
    assert capsys.readouterr().out == "nobody --data.seed 3\n"


def test_overrides_that_a_command_would_drop_are_refused(capsys):
    assert run(["families", "--learner.discount", "0.9"]) == 2
    assert "--learner.discount overrides a configuration, which families" in capsys.readouterr().err
    assert run(["--learner.discount", "0.9"], TOYS) == 2
    assert "overrides go with echo, group" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Invocation()),
        (["train", "x.yaml"], Invocation(words=("train", "x.yaml"))),
        (["--out=./a.b"], Invocation(words=("--out=./a.b",))),
        (["--out", "./a.b"], Invocation(words=("--out", "./a.b"))),
        (["t", "--a.b", "--c"], Invocation(words=("t",), overrides=("--a.b", "--c"))),
        (["t", "--a.b"], Invocation(words=("t",), overrides=("--a.b",))),
        (["t", "--debug"], Invocation(words=("t",), debug=True)),
        (["t", "--", "--a.b", "--debug"], Invocation(words=("t", "--", "--a.b", "--debug"))),
    ],
)
def test_arguments_are_taken_apart_by_their_form(words, expected):
    assert split_arguments(words) == expected


def test_our_own_refusal_is_the_users_mistake_and_a_librarys_is_not():
    with pytest.raises(ValueError, match="learner") as ours:
        load_config(Command, None, ["--learner", "3"])
    with pytest.raises(ValueError, match="literal") as theirs:
        int("x")
    assert is_users_mistake(ours.value)
    assert not is_users_mistake(theirs.value)
    assert not is_users_mistake(ValueError("never raised"))


def test_families_lists_every_family_once(capsys):
    assert run(["families"]) == 0
    words = capsys.readouterr().out.split()
    assert all(words.count(name) == 1 for name in known_families())


def test_families_for_programs_holds_sizes_and_splits(capsys):
    assert run(["families", "point-robot", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["observation_size"], facts["horizon"]) == ("point-robot", 2, 20)
    split = facts["splits"]["standard"]
    assert (split["train"], split["test"]) == (40, 10)
    low, high = split["parameters"]["goal_y"]["test"]
    assert 0.0 <= low <= high <= 1.0


def test_one_family_is_shown_with_its_splits(capsys):
    assert run(["families", "point-robot"]) == 0
    text = capsys.readouterr().out
    assert "horizon 20 environment steps" in text
    assert "goal_x" in text


def test_many_parameters_of_one_kind_are_told_together(capsys):
    assert run(["families", "walker-params"]) == 0
    text = capsys.readouterr().out
    assert "body_mass, 7 of them" in text
    assert "geom_friction, 24 of them" in text
    assert "body_mass/" not in text
    assert "macaw" in text


def test_a_family_whose_package_is_missing_is_listed_with_what_it_needs(
    capsys, monkeypatch, tmp_path
):
    path = tmp_path / "needy.py"
    path.write_text("raise ImportError('simulators need MuJoCo 4')")
    monkeypatch.setitem(registry._FAMILIES, "needy", f"{path}:Needy")
    assert run(["families"]) == 0
    text = capsys.readouterr().out
    assert "needy" in text
    assert "simulators need MuJoCo 4" in text
    assert "cheetah-vel" in text
    assert run(["families", "--json"]) == 0
    facts = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert facts["needy"] == {"name": "needy", "unavailable": "simulators need MuJoCo 4"}
    assert facts["cheetah-vel"]["reward_parameters"] == ["velocity"]
    assert facts["cheetah-vel"]["dynamics_parameters"] == []


def test_an_unknown_family_is_the_users_mistake(capsys):
    assert run(["families", "point-robt"]) == 2
    assert "Did you mean 'point-robot'?" in capsys.readouterr().err


def test_algorithms_lists_every_algorithm_with_the_first_line_of_its_module(capsys):
    assert run(["algorithms", "--json"]) == 0
    facts = {fact["name"]: fact for fact in json.loads(capsys.readouterr().out)}
    assert {name: fact["class"] for name, fact in facts.items()} == known_algorithms()
    for fact in facts.values():
        assert fact["description"]
        assert "arXiv:" in fact["paper"]
        assert fact["departures"]


def test_describing_a_module_does_not_run_it():
    done = python(
        "import sys\n"
        "from causeway.cluster.cli.algorithms import describe_module\n"
        "print(bool(describe_module('causeway.learners.smac')), 'torch' in sys.modules)"
    )
    assert done.stdout == "True False\n", done.stderr


def test_a_module_that_is_not_there_has_no_description():
    assert describe_module("causeway.learners.no_such_algorithm") == ""


@pytest.mark.parametrize("name", sorted(known_algorithms()))
def test_one_algorithm_is_shown_with_its_hyperparameters(name, capsys):
    assert run(["algorithms", name]) == 0
    assert "default" in capsys.readouterr().out
    assert run(["algorithms", name, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["config"]
    assert facts["stages"]
    assert facts["needs"]


@pytest.mark.parametrize(
    ("name", "need"),
    [
        ("pearl", "true rewards in stage online: collection.true_rewards"),
        ("smac", "an environment without rewards in stage online"),
        ("ldm", "contexts in time order: sampler.context_in_order, sampler.context_episodes"),
        ("macaw", "whole episodes, for returns to go"),
    ],
)
def test_what_an_algorithm_needs_is_said(name, need, capsys):
    assert run(["algorithms", name]) == 0
    assert need in " ".join(capsys.readouterr().out.split())


def test_an_unknown_algorithm_is_the_users_mistake(capsys):
    assert run(["algorithms", "smack"]) == 2
    assert "smac" in capsys.readouterr().err


def test_doctor_checks_everything_and_says_what_to_do_about_what_is_not_ok(tmp_path):
    checks = list(run_checks(tmp_path))
    assert [c.name for c in checks] == [
        "python", "packages", "cores", "memory", "shared memory", "disk", "torch", "mujoco",
        "redis server", "ray",
    ]  # fmt: skip
    assert all(c.found for c in checks)
    assert all(c.advice for c in checks if c.level != "ok")


def test_doctor_fails_with_code_one_and_the_other_checks_go_on(capsys, monkeypatch):
    def explode() -> doctor_module.Check:
        raise OSError("no such device")

    monkeypatch.setattr(doctor_module, "check_cores", explode)
    assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "fail cores          OSError: no such device" in text
    assert "memory" in text


def test_doctor_names_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_module.os, "access", lambda *_: False)  # root may write anywhere
    check = check_disk(tmp_path / "not" / "there")
    assert check.level == "fail"
    assert str(tmp_path) in check.found


def test_doctor_for_programs_is_json(capsys):
    assert run(["doctor", "--json"]) in (0, 1)
    assert {c["level"] for c in json.loads(capsys.readouterr().out)} <= {"ok", "warn", "fail"}


def test_a_container_has_no_more_cores_and_memory_than_its_machine():
    free, total = usable_memory()
    assert 0 < free <= total
    assert usable_cores() > 0.0
