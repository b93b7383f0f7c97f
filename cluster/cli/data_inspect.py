"""`causeway data inspect` and `data verify`: what a data set holds, and what is wrong with it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causeway.cluster.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from causeway.datasets.faults import Fault
    from causeway.datasets.store import DatasetStore

DataFolder = Annotated[str, typer.Argument(help="The data set: a folder or a URI.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def inspect(
    path: DataFolder,
    as_json: AsJson = False,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", help="A folder for returns.png and episode.png."),
    ] = None,
    task: Annotated[
        int | None, typer.Option("--task", help="Whose episode is drawn; default: the first.")
    ] = None,
) -> None:
    """Show what a data set holds, task by task."""
    from causeway.datasets.store import DatasetStore

    store = DatasetStore.open(path)
    drawn = [] if pictures is None else _draw(store, pictures, task)
    if as_json:
        print_json({**_facts(store), "pictures": [str(file) for file in drawn]})
        return
    _show(store)
    for file in drawn:
        print_line(f"picture: {file}")


def verify(path: DataFolder, as_json: AsJson = False) -> None:
    """Read every file of a data set and name what is wrong; exit code 1 if anything is."""
    from causeway.cluster.progress import ProgressView
    from causeway.datasets.store import DatasetStore

    store = DatasetStore.open(path)
    with ProgressView(f"verifying {path}") as view:
        view.update(phase="reading", unit="parts")
        faults = store.verify(lambda done, total: view.update(completed=done, total=total))
    parts = sum(len(task.parts) for task in store.manifest.tasks)
    if as_json:
        print_json({"parts": parts, "faults": [_fault_facts(fault) for fault in faults]})
    else:
        for fault in faults:
            print_line(str(fault))
        faulty = {fault.file for fault in store.faults}
        stated = "" if len(faults) == len(store.faults) else ", and misstated statistics"
        print_line(f"{parts} parts read, {len(faulty)} with faults{stated}")
    if faults:
        raise typer.Exit(1)


def _draw(store: "DatasetStore", folder: Path, task: int | None) -> list[Path]:
    from causeway.cluster.data_pictures import draw_pictures
    from causeway.cluster.progress import ProgressView

    chosen = store.manifest.tasks[0].id if task is None else task
    with ProgressView(f"drawing {store.folder}") as view:
        view.update(phase="reading", unit="parts")
        return draw_pictures(
            store, folder, chosen, lambda done, total: view.update(completed=done, total=total)
        )


def _show(store: "DatasetStore") -> None:
    manifest, facts = store.manifest, _facts(store)
    print_line(
        f"{manifest.family}, split {manifest.split}: {len(manifest.tasks)} tasks, "
        f"{facts['transitions']:,} transitions, observation {manifest.observation_size}, "
        f"action {manifest.action_size}, horizon {manifest.horizon}, "
        f"by {manifest.provenance.generator}, license {manifest.license}"
    )
    headings = ("task", "part", "episodes", "transitions", "return", "lowest", "highest", "is")
    print_table(headings, [_row(task) for task in facts["tasks"]])
    for name, value in manifest.provenance.options.items():
        print_line(f"{name.replace('_', ' ')}: {value}")
    for fault in store.faults:
        print_line(f"quarantined: {fault}")


def _facts(store: "DatasetStore") -> dict[str, Any]:
    manifest = store.manifest
    tasks = []
    for task in manifest.tasks:
        statistics = manifest.statistics.get(task.id)
        tasks.append(
            {
                "id": task.id,
                "part": task.split_part,
                "parameters": task.parameters,
                "episodes": statistics.episodes if statistics else 0,
                "transitions": statistics.transitions if statistics else 0,
                "return_mean": statistics.return_mean if statistics else None,
                "return_min": statistics.return_min if statistics else None,
                "return_max": statistics.return_max if statistics else None,
            }
        )
    return {
        "family": manifest.family,
        "split": manifest.split,
        "observation_size": manifest.observation_size,
        "action_size": manifest.action_size,
        "horizon": manifest.horizon,
        "license": manifest.license,
        "provenance": asdict(manifest.provenance),
        "transitions": sum(task["transitions"] for task in tasks),
        "tasks": tasks,
        "faults": [str(fault) for fault in store.faults],
    }


def _fault_facts(fault: "Fault") -> dict[str, Any]:
    return {**asdict(fault), "message": str(fault)}


def _row(task: dict[str, Any]) -> tuple[str, ...]:
    returns = (task["return_mean"], task["return_min"], task["return_max"])
    parameters = ", ".join(f"{name} {value:.3g}" for name, value in task["parameters"].items())
    return (
        str(task["id"]),
        task["part"],
        f"{task['episodes']:,}",
        f"{task['transitions']:,}",
        *("" if value is None else f"{value:.2f}" for value in returns),
        parameters,
    )
