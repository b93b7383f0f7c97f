"""`causeway data import`: a data set from files of another project."""

from pathlib import Path
from typing import Annotated, Any

import typer

from causeway.cluster.cli.output import print_line

_KEYS = "Arrays of a composite observation to take, in order, with commas (minari)."


def import_foreign(
    form: Annotated[
        str, typer.Argument(metavar="FORMAT", help="macaw, focal, corro, minari, d4rl or rllib.")
    ],
    place: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="The files; {task} in it stands for the number of each task."
        ),
    ],
    out: Annotated[str, typer.Option("--out", help="A folder, or a URI such as s3://...")],
    family: Annotated[str, typer.Option("--family", help="Whose tasks they are.")],
    task_parameters: Annotated[
        str | None,
        typer.Option(
            "--task-parameters",
            metavar="FILE|family|none",
            help="A JSON file, the family's own by number, or none.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="The family's, or a name of your own.")
    ] = None,
    test_tasks: Annotated[
        str, typer.Option("--test-tasks", help="Held-out tasks by number, such as 2,7,15.")
    ] = "",
    horizon: Annotated[
        int | None, typer.Option("--horizon", min=1, help="Time limit, if not the family's.")
    ] = None,
    action_bound: Annotated[
        float, typer.Option("--action-bound", help="Largest action in the files.")
    ] = 1.0,
    clip_actions: Annotated[
        bool, typer.Option("--clip-actions", help="Cut actions off beyond it.")
    ] = False,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Take episodes whose steps do not connect.")
    ] = False,
    early_end: Annotated[
        str | None,
        typer.Option(
            "--early-end",
            metavar="terminated|truncated",
            help="What an unmarked end before the horizon was (corro).",
        ),
    ] = None,
    ignore_terminals: Annotated[
        bool, typer.Option("--ignore-terminals", help="They mark no end (corro).")
    ] = False,
    observation_keys: Annotated[str, typer.Option("--observation-keys", help=_KEYS)] = "",
    license_: Annotated[
        str, typer.Option("--license", help="Of the data, for the manifest.")
    ] = "not stated",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Make a data set from another project's files; docs/data.md describes the formats."""
    from causeway.cluster.import_data import ImportRequest, import_data
    from causeway.cluster.progress import ProgressView

    if early_end not in (None, "terminated", "truncated"):
        raise typer.BadParameter(f"--early-end must be terminated or truncated, got {early_end!r}.")
    request = ImportRequest(
        format=form,
        place=place,
        out=out,
        family=family,
        task_parameters=task_parameters,
        split=split,
        test_tasks=_numbers(test_tasks),
        horizon=horizon,
        action_bound=action_bound,
        clip_actions=clip_actions,
        allow_gaps=allow_gaps,
        early_end=early_end,  # type: ignore[arg-type]  # checked above
        ignore_terminals=ignore_terminals,
        observation_keys=tuple(key.strip() for key in observation_keys.split(",") if key.strip()),
        license=license_,
    )
    with ProgressView(f"{form} data from {Path(place).name}") as view:
        view.update(phase="importing", unit="MB")
        notes = import_data(
            request,
            overwrite=overwrite,
            progress=lambda done, total: view.update(
                completed=done // 1_000_000, total=max(1, total // 1_000_000)
            ),
        )
    _tell(out, notes)


def _numbers(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words):
        raise typer.BadParameter(f"--test-tasks must be numbers with commas, got {text!r}.")
    return tuple(int(word) for word in words)


def _tell(out: str, notes: dict[str, Any]) -> None:
    for name, value in notes.items():
        print_line(f"{name.replace('_', ' ')}: {value}")
    print_line(f"{out} holds the data set; 'causeway data inspect {out}' shows it and its rules")
