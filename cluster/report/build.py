"""`build_report`: one self-contained HTML page about a run, with nothing to fetch or install."""

import os
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from causeway import __version__
from causeway.cluster.progress import duration
from causeway.cluster.report.figures import Drawing, draw_all
from causeway.cluster.report.findings import (
    ONLINE_CONTEXT,
    STAGES,
    difference,
    direction,
    gap,
    headline,
    number,
    old_rows,
    rows,
)
from causeway.cluster.report.run_data import RunData, read_run
from causeway.cluster.report.style import to_png, to_svg

REPORT = "report.html"

_SHIFTS = {
    "offline_vs_prior": "offline data against the prior",
    "online_vs_prior": "own experience against the prior",
    "offline_vs_online": "offline data against own experience",
}


def build_report(run_folder: Path, *, pictures: Path | None = None) -> Path:
    """Writes the report of a run, of whatever it has come to.

    Args:
        run_folder: the run's folder; the report is written there.
        pictures: a folder to which every figure is written as a PNG too, for documents.

    Returns:
        The page's path.

    Raises:
        ReportError: the folder is no run's, or a file in it is damaged.
    """
    run = read_run(run_folder)
    drawings = draw_all(run)
    page = render(run, drawings)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for drawing in drawings:
            (pictures / f"{drawing.name}.png").write_bytes(to_png(drawing.figure))
    path = run_folder / REPORT
    temporary = path.with_suffix(".html.partial")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)  # noqa: PTH105  # a reader sees the old page or the new one
    return path


def render(run: RunData, drawings: list[Drawing]) -> str:
    """The page as text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "signed": _signed, "percent": _percent}
    template = files("causeway.cluster.report").joinpath("report.html.jinja")
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        run=run,
        version=__version__,
        headline=headline(run),
        cards=list(_cards(run)),
        rows=rows(run),
        old_rows=old_rows(run),
        references=[(n, v) for n, v in _references(run) if v is not None],
        gaps={stage: gap(run, stage) for stage in STAGES},
        gap_change=difference(gap(run, "online"), gap(run, "offline")),
        direction=direction,
        shifts=list(_shifts(run)),
        tasks=list(_tasks(run)),
        facts=list(_facts(run)),
        figures=[(drawing, _inline(drawing)) for drawing in drawings],
    )


def _inline(drawing: Drawing) -> Markup:
    """The figure as markup; matplotlib has escaped every text in it."""
    return Markup(to_svg(drawing.figure, drawing.name))


def _signed(value: Any) -> str:
    return number(value, signed=True)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}".replace("-", "\N{MINUS SIGN}")


def _cards(run: RunData) -> Iterator[tuple[str, str, str]]:
    """The few numbers that stand first: label, number, what it is to be held against."""
    before, after = (run.summary(stage, ONLINE_CONTEXT) for stage in STAGES)
    last = after or before
    if last is not None:
        was = f"was {number(before)}" if after is not None and before is not None else ""
        yield "adapted return", number(last), was
    gaps = [gap(run, stage) for stage in STAGES]
    last_gap = gaps[1] or gaps[0]
    if last_gap is not None:
        was = f"was {number(gaps[0])}" if gaps[0] is not None and gaps[1] is not None else ""
        yield "gap to offline data", number(last_gap), was
    counts = (("updates", "updates"), ("environment steps", "env_steps"))
    for label, name in counts:
        if isinstance(run.results.get(name), int):
            yield label, f"{run.results[name]:,}", ""
    if isinstance(run.results.get("wall_seconds"), (int, float)):
        yield "wall time", duration(run.results["wall_seconds"]), ""


def _references(run: RunData) -> Iterator[tuple[str, Any]]:
    yield "Oracle (knows the task)", run.summary(None, "oracle_return")
    yield "Random actions", run.summary(None, "random_return")


def _shifts(run: RunData) -> Iterator[tuple[str, float | None, float | None]]:
    """How far beliefs lie from each other, before and after, in nats."""
    for key, label in _SHIFTS.items():
        before, after = (run.shift(stage).get(key) for stage in STAGES)
        if before is not None or after is not None:
            yield label, before, after


def _tasks(run: RunData) -> Iterator[tuple[Any, str, str, str, str]]:
    """Each held-out task with its parameters and its adapted return before and after."""
    last = run.evaluation("online", "online") or run.evaluation("offline", "online")
    summaries = [run.summary(stage, ONLINE_CONTEXT) for stage in STAGES]
    change = difference(summaries[1], summaries[0])
    columns = [s.per_task if s is not None else () for s in (*summaries, change)]
    parameters = last.get("task_parameters") or []
    for index, task in enumerate(last.get("task_ids") or []):
        told = _parameters(parameters[index]) if index < len(parameters) else ""
        cells = [column[index] if index < len(column) else None for column in columns]
        yield task, told, number(cells[0]), number(cells[1]), _signed(cells[2])


def _parameters(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def _facts(run: RunData) -> Iterator[tuple[str, str]]:
    """What was run, for whoever wants to run it again."""
    labels = {
        "algorithm": "Algorithm",
        "family": "Family",
        "split": "Split",
        "seed": "Seed",
        "self_supervised_transitions": "Self-supervised transitions",
        "git_commit": "Commit",
    }
    for name, label in labels.items():
        value = run.results.get(name)
        if value is not None:
            grouped = isinstance(value, int) and name != "seed"
            yield label, f"{value:,}" if grouped else str(value)
    yield "Causeway", __version__
    yield "Run", run.folder.resolve().name  # not where it lies: pages are passed on
