"""What `causeway evaluate` finds of a run under protocols of the user's choice, kept beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from causeway.cluster.recorder import write_json
from causeway.cluster.report.run_data import ReportError, read_object

EVALUATED = "evaluated.json"


def keep_evaluated(folder: Path, found: Mapping[str, Any]) -> None:
    """Adds an evaluation to the run's; one after as many updates under the same protocols goes."""
    others = [one for one in read_evaluated(folder) if not _alike(one, found)]
    write_json(folder / EVALUATED, {"evaluations": [*others, found]})


def read_evaluated(folder: Path) -> Sequence[Mapping[str, Any]]:
    """Each evaluation as `evaluate --json` tells it, the oldest first.

    Raises:
        ReportError: the file is damaged.
    """
    path = folder / EVALUATED
    found = read_object(path).get("evaluations", [])
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise ReportError(f"{path} must hold a list of evaluations: delete it and evaluate anew")
    return found


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("updates", "protocols"))
