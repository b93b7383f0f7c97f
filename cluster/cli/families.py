"""`causeway families`: the families of tasks that there are."""

import inspect
from collections.abc import Iterator
from itertools import groupby
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

    if name is not None:
        facts = _facts(load_family(name))
        if as_json:
            print_json(facts)
        else:
            _show(facts)
        return
    every = [_facts_or_why_not(one) for one in known_families()]
    if as_json:
        print_json(every)
    else:
        headings = ("family", "obs.", "act.", "horizon", "differ in", "splits (train / test)", "")
        print_table(headings, [_row(facts) for facts in every])


def _facts_or_why_not(name: str) -> dict[str, Any]:
    """A family's facts; what is missing for them where it cannot be loaded here."""
    from causeway.actors.tasks.registry import load_family

    try:
        return _facts(load_family(name))
    except ImportError as error:
        return {"name": name, "unavailable": str(error)}


def _facts(family: "Family") -> dict[str, Any]:
    splits = family.splits()
    tasks = [task for split in splits.values() for task in split.tasks]
    return {
        "name": family.name,
        "description": (inspect.getdoc(type(family)) or "").partition("\n")[0],
        "observation_size": family.observation_size,
        "action_size": family.action_size,
        "horizon": family.horizon,
        "reward_parameters": sorted({name for task in tasks for name in task.reward}),
        "dynamics_parameters": sorted({name for task in tasks for name in task.dynamics}),
        "splits": {name: _split_facts(split) for name, split in splits.items()},
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


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    if "unavailable" in facts:
        return (facts["name"], "", "", "", "", "", facts["unavailable"])
    splits = ", ".join(f"{n} {s['train']} / {s['test']}" for n, s in facts["splits"].items())
    kinds = ("reward", "dynamics")
    differ_in = " and ".join(kind for kind in kinds if facts[f"{kind}_parameters"])
    sizes = (str(facts[key]) for key in ("observation_size", "action_size", "horizon"))
    return (facts["name"], *sizes, differ_in, splits, facts["description"])


def _show(facts: dict[str, Any]) -> None:
    print_line(f"{facts['name']}: {facts['description']}")
    print_line(
        f"observation {facts['observation_size']}, action {facts['action_size']}, "
        f"horizon {facts['horizon']} environment steps"
    )
    headings = ("split", "part", "tasks", "of", "parameter", "least", "most")
    print_table(headings, list(_parameter_rows(facts)))


def _parameter_rows(facts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row for each parameter; those of one kind, named `kind/which`, in one."""
    for name, split in facts["splits"].items():
        for part in ("train", "test"):
            ranges = {p: r[part] for p, r in split["parameters"].items() if part in r}
            for kind, members in groupby(sorted(ranges), key=lambda p: p.partition("/")[0]):
                group = list(members)
                of = "reward" if group[0] in facts["reward_parameters"] else "dynamics"
                label = group[0] if len(group) == 1 else f"{kind}, {len(group)} of them"
                least, most = min(ranges[p][0] for p in group), max(ranges[p][1] for p in group)
                limits = (f"{least:.3g}", f"{most:.3g}")
                yield (name, part, str(split[part]), of, label, *limits)
