"""`causeway algorithms`: the algorithms that there are, and what can be set in each."""

import ast
import dataclasses
import importlib.util
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from causeway.cluster.cli.output import print_json, print_line, print_table


def algorithms(
    name: Annotated[
        str | None, typer.Argument(help="One algorithm, or module:Class of your own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the algorithms, or show one with its hyperparameters."""
    from causeway.learners.registry import algorithms as known_algorithms

    if name is not None:
        _show(name, as_json)
        return
    facts = [
        {"name": key, "class": target, "description": describe_module(target.partition(":")[0])}
        for key, target in known_algorithms().items()
    ]
    if as_json:
        print_json(facts)
    else:
        rows = [(fact["name"], fact["description"], fact["class"]) for fact in facts]
        print_table(("algorithm", "", "class"), rows)


def describe_module(module: str) -> str:
    """The first line of a module's docstring, read without running it: torch takes seconds."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]


def _show(name: str, as_json: bool) -> None:
    from causeway.cluster.config_io import to_plain
    from causeway.learners.registry import load_algorithm

    algorithm = load_algorithm(name)
    config = algorithm.Config
    description = (inspect.getdoc(inspect.getmodule(algorithm)) or "").partition("\n")[0]
    defaults: dict[str, Any] = to_plain(config())
    types = {f.name: _type_name(f.type) for f in dataclasses.fields(config)}
    if as_json:
        fields = [{"name": k, "type": types[k], "default": v} for k, v in defaults.items()]
        print_json({"name": name, "description": description, "config": fields})
        return
    print_line(f"{name}: {description}")
    rows = [(key, types[key], str(value)) for key, value in defaults.items()]
    print_table((config.__name__, "type", "default"), rows)


def _type_name(kind: Any) -> str:
    """A field's type in few words: plain names, and the options of a choice."""
    if isinstance(kind, type) and not getattr(kind, "__args__", None):
        return kind.__name__
    return str(kind).replace("typing.", "")
