"""`causeway families`: the families of tasks that there are."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causeway.cluster.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from causeway.actors.tasks.family import Family, Split


def families(
    name: Annotated[
        str | None, typer.Argument(help="One family, or module:Class of your own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the families of tasks, or show one with its splits."""
    from causeway.actors.tasks.registry import families as known_families
    from causeway.actors.tasks.registry import load_family

    names = list(known_families()) if name is None else [name]
    facts = [_facts(load_family(one)) for one in names]
    if as_json:
        print_json(facts if name is None else facts[0])
    elif name is None:
        print_table(
            ("family", "observation", "action", "horizon", "splits (train / test)", ""),
            [_row(fact) for fact in facts],
        )
    else:
        _show(facts[0])


def _facts(family: "Family") -> dict[str, Any]:
    return {
        "name": family.name,
        "description": (inspect.getdoc(type(family)) or "").partition("\n")[0],
        "observation_size": family.observation_size,
        "action_size": family.action_size,
        "horizon": family.horizon,
        "splits": {name: _split_facts(split) for name, split in family.splits().items()},
    }


def _split_facts(split: "Split") -> dict[str, Any]:
    """How many tasks, and how far each parameter ranges over the train and the test tasks."""
    facts: dict[str, Any] = {"train": len(split.train), "test": len(split.test), "parameters": {}}
    for part, tasks in (("train", split.train), ("test", split.test)):
        for parameter in sorted({name for task in tasks for name in task.parameters}):
            values = [t.parameters[parameter] for t in tasks if parameter in t.parameters]
            ranges = facts["parameters"].setdefault(parameter, {})
            ranges[part] = [min(values), max(values)]
    return facts


def _row(fact: dict[str, Any]) -> tuple[str, ...]:
    splits = ", ".join(f"{n} {s['train']} / {s['test']}" for n, s in fact["splits"].items())
    sizes = (str(fact[key]) for key in ("observation_size", "action_size", "horizon"))
    return (fact["name"], *sizes, splits, fact["description"])


def _show(fact: dict[str, Any]) -> None:
    print_line(f"{fact['name']}: {fact['description']}")
    print_line(
        f"observation {fact['observation_size']}, action {fact['action_size']}, "
        f"horizon {fact['horizon']} environment steps"
    )
    rows = [
        (name, part, str(split[part]), parameter, *(f"{value:.3g}" for value in ranges[part]))
        for name, split in fact["splits"].items()
        for part in ("train", "test")
        for parameter, ranges in split["parameters"].items()
        if part in ranges
    ]
    print_table(("split", "part", "tasks", "parameter", "least", "most"), rows)
