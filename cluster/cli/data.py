"""`causeway data`: making, inspecting and verifying data sets."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from causeway.cluster.cli.data_collect import collect
from causeway.cluster.cli.data_import import import_foreign
from causeway.cluster.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from causeway.datasets.store import DatasetStore

data = typer.Typer(help="Make, import, inspect and verify data sets.", no_args_is_help=True)
data.command()(collect)
data.command("import")(import_foreign)
DataFolder = Annotated[str, typer.Argument(help="The data set: a folder or a URI.")]


@data.command()
def inspect(
    path: DataFolder,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what a data set holds, task by task."""
    from causeway.datasets.store import DatasetStore

    store = DatasetStore.open(path)
    facts = _facts(store)
    if as_json:
        print_json(facts)
        return
    manifest = store.manifest
    print_line(
        f"{manifest.family}, split {manifest.split}: {len(manifest.tasks)} tasks, "
        f"{facts['transitions']:,} transitions, observation {manifest.observation_size}, "
        f"action {manifest.action_size}, by {manifest.provenance.generator}, {manifest.license}"
    )
    headings = ("task", "part", "episodes", "transitions", "return", "lowest", "highest", "is")
    print_table(headings, [_row(task) for task in facts["tasks"]])
    for fault in store.faults:
        print_line(f"quarantined: {fault}")


@data.command()
def verify(path: DataFolder) -> None:
    """Read every file of a data set and name what is wrong; exit code 1 if anything is."""
    from causeway.datasets.store import DatasetStore

    store = DatasetStore.open(path)
    faults = store.verify()
    for fault in faults:
        print_line(str(fault))
    parts = sum(len(task.parts) for task in store.manifest.tasks)
    print_line(f"{parts} parts read, {len(faults)} with faults")
    if faults:
        raise typer.Exit(1)


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
        "transitions": sum(task["transitions"] for task in tasks),
        "tasks": tasks,
        "faults": [str(fault) for fault in store.faults],
    }


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
