"""`causeway algorithms`: the algorithms that there are, and what can be set in each."""

import ast
import dataclasses
import importlib.util
import re
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
        {"name": key, "class": target, **describe_method(target.partition(":")[0])}
        for key, target in known_algorithms().items()
    ]
    if as_json:
        print_json(facts)
    else:
        rows = [(f["name"], f["description"], _arxiv(f["paper"]), f["class"]) for f in facts]
        print_table(("algorithm", "", "paper", "class"), rows)
        print_line("causeway algorithms NAME shows what one needs, where it departs, its settings")


def describe_module(module: str) -> str:
    """The first line of a module's docstring, read without running it: torch takes seconds."""
    return describe_method(module)["description"]


def describe_method(module: str) -> dict[str, str]:
    """What a method's module says of itself, read without running it: torch takes seconds.

    Returns:
        `description`, its first line; `paper`, the paragraph with the first arXiv number; and
        `departures`, every paragraph that begins with "Departs".
    """
    spec = importlib.util.find_spec(module)
    docstring = None
    if spec is not None and spec.origin is not None:
        docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    paragraphs = [" ".join(one.split()) for one in (docstring or "").split("\n\n")]
    return {
        "description": paragraphs[0],
        "paper": next((one for one in paragraphs if "arXiv:" in one), ""),
        "departures": " ".join(one for one in paragraphs if one.startswith("Departs")),
    }


def needs_of(algorithm: Any) -> list[str]:
    """What a run must bring for an algorithm, in words."""
    from causeway.learners.algorithm import outcome_discount

    needs = ["logs of many tasks, with rewards"]
    if getattr(algorithm, "READS_IN_ORDER", False):
        needs.append("contexts in time order: sampler.context_in_order, sampler.context_episodes")
    if outcome_discount(algorithm.Config()) is not None:
        needs.append("whole episodes, for returns to go")
    for stage in algorithm.STAGES:
        if stage.collects and stage.labels == "environment":
            needs.append(f"true rewards in stage {stage.name}: collection.true_rewards")
        elif stage.collects:
            needs.append(f"an environment without rewards in stage {stage.name}")
    return needs


def _arxiv(paper: str) -> str:
    """The first arXiv number of a citation."""
    found = re.search(r"arXiv:\d+\.\d+", paper)
    return found.group() if found else ""


def _show(name: str, as_json: bool) -> None:
    from causeway.cluster.config_io import to_plain
    from causeway.learners.registry import load_algorithm

    algorithm = load_algorithm(name)
    config = algorithm.Config
    facts = describe_method(algorithm.__module__)
    stages = [stage.name for stage in algorithm.STAGES]
    defaults: dict[str, Any] = to_plain(config())
    types = {f.name: _type_name(f.type) for f in dataclasses.fields(config)}
    if as_json:
        fields = [{"name": k, "type": types[k], "default": v} for k, v in defaults.items()]
        known = {"name": name, **facts, "stages": stages, "needs": needs_of(algorithm)}
        print_json({**known, "config": fields})
        return
    print_line(f"{name}: {facts['description']}")
    parts = {
        "paper": facts["paper"],
        "stages": ", ".join(stages),
        "needs": "; ".join(needs_of(algorithm)),
        "departures": facts["departures"],
    }
    for part, text in parts.items():
        if text:
            print_line(f"\n{part}: {text}")
    rows = [(key, types[key], str(value)) for key, value in defaults.items()]
    print_table((config.__name__, "type", "default"), rows)


def _type_name(kind: Any) -> str:
    """A field's type in few words: plain names, and the options of a choice."""
    if isinstance(kind, type) and not getattr(kind, "__args__", None):
        return kind.__name__
    return str(kind).replace("typing.", "")
