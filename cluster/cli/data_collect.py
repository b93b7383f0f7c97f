"""`causeway data collect`: a data set by a scripted behaviour or from an agent's lifetime."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causeway.cluster.cli.output import print_line
from causeway.cluster.cli.train import INTERRUPTED

if TYPE_CHECKING:
    from causeway.cluster.collect_lifetime import LifetimeData

BY_AGENT = "Data of an agent that learns online"
SCRIPTED = "Scripted data"


def collect(
    out: Annotated[str, typer.Option("--out", help="A folder, or a URI such as s3://...")],
    file: Annotated[
        Path | None,
        typer.Argument(help="YAML of an agent's data, such as deploy/runs/data/*.yaml."),
    ] = None,
    family: Annotated[str | None, typer.Option("--family", help="Default: point-robot.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Default: the family's first.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default: 0.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="script|agent", help="Default: script where the family has one."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    episodes_per_task: Annotated[
        int | None, typer.Option("--episodes-per-task", min=1, rich_help_panel=SCRIPTED)
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            help="random, start, middle, end, replay or expert; or several with their sizes, "
            "such as random:1200,end:400.",
            rich_help_panel=BY_AGENT,
        ),
    ] = None,
    transitions_per_task: Annotated[
        int | None, typer.Option("--transitions-per-task", min=1, rich_help_panel=BY_AGENT)
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="How long the agent lives.", rich_help_panel=BY_AGENT),
    ] = None,
    agent: Annotated[
        Path | None,
        typer.Option(
            "--agent",
            help="The lifetime's folder; default: OUT.agent. Another cut of it trains nothing.",
            rich_help_panel=BY_AGENT,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=0,
            help="Ray actors that play rounds beside each other; 0 plays in this process.",
            rich_help_panel=BY_AGENT,
        ),
    ] = 0,
) -> None:
    """Make a data set: by a script, or from the lifetime of an agent that is told its task."""
    for_agent = {
        "FILE": file,
        "--quality": quality,
        "--transitions-per-task": transitions_per_task,
        "--rounds": rounds,
        "--agent": agent,
        "--workers": workers or None,
    }
    if _is_by_agent(by, family, for_agent):
        if episodes_per_task is not None:
            raise typer.BadParameter(
                "--episodes-per-task is of scripted data; say --transitions-per-task instead."
            )
        lifetime = {"family": family, "split": split, "seed": seed, "rounds": rounds}
        config = _configure(file, lifetime, quality, transitions_per_task)
        _by_agent(config, out, agent, workers, overwrite)
        return
    if given := [name for name, value in for_agent.items() if value is not None]:
        raise typer.BadParameter(
            f"{', '.join(given)} would be of an agent's data, and --by is script."
        )
    _by_script(
        {
            "path": out,
            "family": family,
            "split": split,
            "episodes_per_task": episodes_per_task,
            "seed": seed,
        },
        overwrite,
    )


def _is_by_agent(by: str | None, family: str | None, for_agent: dict[str, Any]) -> bool:
    if by not in (None, "script", "agent"):
        raise typer.BadParameter(f"--by must be script or agent, got {by!r}.")
    if by is not None:
        return by == "agent"
    from causeway.actors.behaviour import has_script
    from causeway.actors.tasks.registry import load_family

    return any(v is not None for v in for_agent.values()) or (
        family is not None and not has_script(load_family(family))
    )


def _by_script(options: dict[str, Any], overwrite: bool) -> None:
    from causeway.cluster.collect_data import collect_data
    from causeway.cluster.config import DataSection
    from causeway.cluster.progress import ProgressView

    section = DataSection(**_given(options))
    with ProgressView(f"data of {section.family}") as view:
        view.update(phase="collecting data", unit="tasks")
        collect_data(
            section,
            overwrite=overwrite,
            progress=lambda done, total: view.update(completed=done, total=total),
        )
    _tell(section.path)


def _configure(
    file: Path | None,
    lifetime: dict[str, Any],
    quality: str | None,
    transitions_per_task: int | None,
) -> "LifetimeData":
    """The file's configuration, with the command line's words on top."""
    from causeway.actors.tasks.registry import load_family
    from causeway.cluster.collect_lifetime import LifetimeData
    from causeway.cluster.config_io import load_config

    if lifetime["family"] is not None and lifetime["split"] is None:
        lifetime["split"] = next(iter(load_family(lifetime["family"]).splits()))
    config = load_config(LifetimeData, file)
    cut = {"quality": quality, "transitions_per_task": transitions_per_task}
    return dataclasses.replace(
        config,
        **_given(cut),
        lifetime=dataclasses.replace(config.lifetime, **_given(lifetime)),
    )


def _by_agent(
    config: "LifetimeData", out: str, agent: Path | None, workers: int, overwrite: bool
) -> None:
    from causeway.cluster.collect_lifetime import collect_lifetime
    from causeway.cluster.progress import ProgressView

    with ProgressView(f"data of {config.lifetime.family}, {config.lifetime.split}") as view:
        try:
            collected = collect_lifetime(
                config, out, agent=agent, workers=workers, overwrite=overwrite, view=view
            )
        except KeyboardInterrupt:
            view.print("stopped after its last whole round; the same command goes on")
            raise typer.Exit(INTERRUPTED) from None
    print_line(
        f"{collected.transitions:,} transitions; return of random actions "
        f"{collected.random_return:.1f}, of the final agent {collected.expert_return:.1f}"
    )
    print_line(f"{collected.agent} keeps the agent's lifetime: other cuts of it train nothing")
    _tell(out)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _tell(out: str) -> None:
    print_line(f"{out} holds the data set; 'causeway data inspect {out}' shows it")
