"""The algorithms by name. Adding one is its file in this folder plus one line here."""

import difflib
import importlib
from typing import Any

ALGORITHMS: dict[str, str] = {
    "corro": "causeway.learners.corro:Corro",
    "domino": "causeway.learners.domino:Domino",
    "focal": "causeway.learners.focal:Focal",
    "ldm": "causeway.learners.ldm:Ldm",
    "macaw": "causeway.learners.macaw:Macaw",
    "meta-bc": "causeway.learners.behaviour_cloning:MetaBc",
    "multi-task-awr": "causeway.learners.behaviour_cloning:MultiTaskAwr",
    "pearl": "causeway.learners.pearl:Pearl",
    "smac": "causeway.learners.smac:Smac",
    "unicorn": "causeway.learners.unicorn:Unicorn",
}


def algorithms() -> dict[str, str]:
    """Name -> `module:Class` of every algorithm, without importing any."""
    return dict(ALGORITHMS)


def load_algorithm(name: str) -> Any:
    """The class of an algorithm by its name, or of the user's own by `module:Class`.

    Raises:
        ValueError: no algorithm has this name (the known ones and the nearest are listed), or it
            cannot be imported.
    """
    target = ALGORITHMS.get(name, name)
    if ":" not in target:
        near = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"algorithm must be one of {', '.join(sorted(ALGORITHMS))} or module:Class, "
            f"got {name!r}.{hint}"
        )
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"algorithm {name!r} could not be loaded: {error}") from error
