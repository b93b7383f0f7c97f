"""Commands for a run that is at work: `status`, `scale`, `pause`, `checkpoint`, `events` ..."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causeway.cluster.cli.output import console, print_json, print_line, print_table
from causeway.cluster.config_yaml import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from causeway.cluster.control import Control, Event

STALE_S = 15.0  # a run that has said nothing for so long is taken for dead
POLL_S = 0.5
RunFolder = Annotated[Path, typer.Argument(help="The run's folder.")]


def status(
    folder: RunFolder,
    watch: Annotated[bool, typer.Option("--watch", help="Again every second.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what a run is doing."""
    with _control(folder) as control:
        if as_json:
            print_json(_state(control))
        elif not watch:
            console().print(_table(_state(control)))
        else:
            _watch(control)


def scale(
    folder: RunFolder,
    collectors: Annotated[int, typer.Option("--collectors", min=0, help="How many.")],
) -> None:
    """Change the number of collectors of a run while it goes on."""
    with _control(folder) as control:
        control.set_collectors(collectors)
    print_line(f"asked for {collectors} collectors; 'causeway status {folder}' shows them come")


def pause(folder: RunFolder) -> None:
    """Hold a run's updates and its collectors."""
    with _control(folder) as control:
        control.pause()
    print_line(f"asked to pause; 'causeway unpause {folder}' lets it go on")


def unpause(folder: RunFolder) -> None:
    """Let a paused run go on."""
    with _control(folder) as control:
        control.unpause()
    print_line("asked to go on")


def stop(folder: RunFolder) -> None:
    """End a run in order, with a checkpoint."""
    with _control(folder) as control:
        control.request_stop("causeway stop")
    print_line(f"asked to stop; 'causeway resume {folder}' goes on from its checkpoint")


def checkpoint(
    folder: RunFolder,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.0, help="Seconds to wait for it; 0 only asks.")
    ] = 120.0,
) -> None:
    """Have a run write a checkpoint now; exit code 1 if it has not in time."""
    with _control(folder) as control:
        number = control.request_checkpoint()
        deadline = time.monotonic() + timeout_s
        while control.commands().checkpoint_finished < number:
            if time.monotonic() >= deadline:
                print_line(f"asked for a checkpoint; it was not there after {timeout_s:g} s")
                raise typer.Exit(0 if timeout_s == 0.0 else 1)
            time.sleep(POLL_S)
    print_line(f"{folder} has a checkpoint of this moment")


def events(
    folder: RunFolder,
    last: Annotated[int, typer.Option("--last", min=1, help="How many.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", help="And those that come.")] = False,
) -> None:
    """Show the latest events of a run."""
    with _control(folder) as control:
        found, place = control.latest_events(last), None
        if not follow:
            print_table(("time", "event", ""), [_words(event) for event in found])
            return
        while True:
            for event in found:
                print_line("  ".join(_words(event)))
            place = found[-1].place if found else place
            time.sleep(POLL_S)
            found = control.events(place, max_count=1_000)


def _words(event: "Event") -> tuple[str, str, str]:
    return (
        time.strftime("%H:%M:%S", time.localtime(event.time_s)),
        event.kind,
        ", ".join(f"{name} {value}" for name, value in event.fields.items()),
    )


@contextlib.contextmanager
def _control(folder: Path) -> "Iterator[Control]":
    """The control plane of the run in a folder.

    Raises:
        ConfigError: it is no run's folder, or the run is not at work.
    """
    from causeway.cluster.config import CONFIG_NAME, load_run_config
    from causeway.cluster.control import Control, ControlConfig
    from causeway.cluster.redis_link import LinkConfig, RedisAwayError, connect
    from causeway.cluster.redis_server import RedisServerError, embedded_url

    if not (folder / CONFIG_NAME).exists():
        raise ConfigError(f"{folder} must be the folder of a run, but it has no {CONFIG_NAME}")
    config = load_run_config(folder / CONFIG_NAME)
    url = config.redis.shared_url or embedded_url(folder)
    if url is None:
        raise ConfigError(
            f"the run in {folder} is not at work: no control plane answers there. Serial runs "
            f"have none; a stopped run goes on with 'causeway resume {folder}'"
        )
    try:
        with contextlib.closing(connect(url, LinkConfig())) as client:
            yield Control(client, config.name, ControlConfig())
    except (RedisServerError, RedisAwayError) as error:
        raise ConfigError(
            f"the run in {folder} was not heard from: {error}. If its process has died, "
            f"'causeway resume {folder}' goes on from its last checkpoint"
        ) from error


def _state(control: "Control") -> dict[str, Any]:
    parts = control.heartbeats()
    driver = parts.get("driver")
    if driver is None:
        return {"alive": False}
    return {"alive": driver.age_s < STALE_S, "heard_s_ago": round(driver.age_s, 1), **driver.state}


def _table(state: dict[str, Any]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    for name, value in state.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count}" for key, count in value.items()) or "none"
        shown = f"{value:.1f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    return table


def _watch(control: "Control") -> None:
    from rich.live import Live

    with Live(_table(_state(control)), console=console(), refresh_per_second=2) as live:
        while True:
            time.sleep(1.0)
            live.update(_table(_state(control)))
