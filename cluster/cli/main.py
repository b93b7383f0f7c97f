"""The `causeway` command: its commands by name, and how it ends.

Exit codes: 0 done, 1 something failed, 2 the user can mend it, 130 interrupted. Commands import
what is heavy inside their functions, so that `causeway --help` answers at once.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from causeway import __version__
from causeway.cluster.cli.algorithms import algorithms
from causeway.cluster.cli.compare import compare
from causeway.cluster.cli.control import (
    checkpoint,
    events,
    pause,
    scale,
    status,
    stop,
    unpause,
)
from causeway.cluster.cli.data import data
from causeway.cluster.cli.doctor import doctor
from causeway.cluster.cli.export import export
from causeway.cluster.cli.families import families
from causeway.cluster.cli.invocation import Invocation, split_arguments
from causeway.cluster.cli.output import complain, print_line
from causeway.cluster.cli.render import render
from causeway.cluster.cli.report import evaluate, report
from causeway.cluster.cli.submit import submit
from causeway.cluster.cli.train import resume, train
from causeway.cluster.cli.verify import verify
from causeway.cluster.config_yaml import ConfigError

# Typer has carried its own click since 0.26 and does not name this class itself.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word after `causeway`."""

    name: str
    run: Callable[..., Any] | typer.Typer  # a Typer is a group of commands, such as `data`
    takes_overrides: bool = False  # of the configuration, as --section.key value


COMMANDS = (
    Command(name="train", run=train, takes_overrides=True),
    Command(name="resume", run=resume, takes_overrides=True),
    Command(name="submit", run=submit, takes_overrides=True),
    Command(name="status", run=status),
    Command(name="scale", run=scale),
    Command(name="pause", run=pause),
    Command(name="unpause", run=unpause),
    Command(name="checkpoint", run=checkpoint),
    Command(name="stop", run=stop),
    Command(name="events", run=events),
    Command(name="verify", run=verify),
    Command(name="evaluate", run=evaluate, takes_overrides=True),
    Command(name="report", run=report),
    Command(name="compare", run=compare),
    Command(name="render", run=render),
    Command(name="export", run=export),
    Command(name="data", run=data),
    Command(name="doctor", run=doctor),
    Command(name="families", run=families),
    Command(name="algorithms", run=algorithms),
)


def main() -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], commands: Sequence[Command] = COMMANDS) -> int:
    """Runs one command line; returns its exit code.

    Args:
        arguments: the words after `causeway`.
        commands: what there is to run.
    """
    invocation = split_arguments(arguments)
    program = typer.main.get_command(build_app(commands))
    try:
        _refuse_idle_overrides(invocation, commands)
        code = program.main(
            args=list(invocation.words) or ["--help"],
            prog_name="causeway",
            obj=invocation,
            standalone_mode=False,
        )
        sys.stdout.flush()
    except Exception as error:
        return _ended_by(error, invocation)
    except KeyboardInterrupt:
        return _interrupted()
    return code if isinstance(code, int) else 0


def build_app(commands: Sequence[Command]) -> typer.Typer:
    """The commands as one program."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for command in commands:
        if isinstance(command.run, typer.Typer):
            app.add_typer(command.run, name=command.name)
        else:
            app.command(command.name)(command.run)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        print_line(f"causeway {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; fits anywhere.")] = False,
) -> None:
    """Offline meta-reinforcement learning on Ray, with online self-supervision.

    Where a command reads a configuration, --section.key value overrides what its file says.
    """


def _refuse_idle_overrides(invocation: Invocation, commands: Sequence[Command]) -> None:
    """Refuses overrides that the command would silently drop."""
    named = next((word for word in invocation.words if not word.startswith("-")), None)
    if not invocation.overrides or named in {c.name for c in commands if c.takes_overrides}:
        return
    takers = ", ".join(c.name for c in commands if c.takes_overrides) or "no command"
    raise ConfigError(
        f"{invocation.overrides[0]} overrides a configuration, which "
        f"{named or 'causeway alone'} does not read; overrides go with {takers}"
    )


def _ended_by(error: Exception, invocation: Invocation) -> int:
    """Tells an error in one paragraph; returns the exit code it stands for."""
    if isinstance(error, typer.Abort):
        return _interrupted()
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "causeway"
        complain(f"{error.format_message()} Try '{path} --help'.")
        return USER_ERROR
    if invocation.debug:
        traceback.print_exception(error)
    if is_users_mistake(error):
        complain(str(error))
        return USER_ERROR
    # A remote error's text is the whole remote traceback; its cause is what went wrong.
    cause = getattr(error, "cause", None)
    told = cause if isinstance(cause, Exception) and not invocation.debug else error
    advice = "" if invocation.debug else " Run it again with --debug for the traceback."
    complain(f"{type(told).__name__}: {str(told).rstrip('.') or 'no message'}.{advice}")
    return FAILED


def is_users_mistake(error: Exception) -> bool:
    """Whether the user can mend it: a data set or a value that our own check refused in words.

    A `ValueError` that a library raised is no such check, and neither is one in a user's own code.
    """
    from causeway.datasets.faults import DatasetError

    if isinstance(error, (ConfigError, DatasetError)):
        return True
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")).startswith("causeway.")


def _interrupted() -> int:
    complain("interrupted")
    return INTERRUPTED
