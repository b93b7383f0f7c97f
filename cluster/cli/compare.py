"""`causeway compare`: runs side by side, seeds of one method together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from causeway.cluster.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from causeway.cluster.report.comparison import Comparison


def compare(
    folders: Annotated[list[Path], typer.Argument(help="The runs' folders.")],
    by: Annotated[
        str, typer.Option("--by", help="The setting that tells groups apart.")
    ] = "run.algorithm",
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage", help="Whose end is compared: 'offline' or 'online'; else the last."
        ),
    ] = None,
    returns: Annotated[
        bool, typer.Option("--returns", help="Returns in the table, not scores.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The table as Markdown, for documents.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="A file for the picture, a PNG.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compare runs of one family and split, such as methods or settings, over their seeds.

    A score is 0 for random actions and 1 for the agent that is told the task, on the held-out
    tasks. Protocols are those that the runs were evaluated under, by themselves or by 'causeway
    evaluate'. With --by data.train_tasks or any other setting, runs are grouped by its value.
    Intervals are of 95 %, by Student's t over seeds; of a single run, over its tasks.
    """
    from causeway.cluster.report.comparison import compare as compare_runs

    found = compare_runs(folders, by=by, stage=stage)
    if picture is not None:
        from causeway.cluster.report.comparison_figure import draw_comparison
        from causeway.cluster.report.style import to_png

        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(to_png(draw_comparison(found)))
    if as_json:
        print_json(found.to_json())
        return
    headings, rows = _table(found, returns=returns or not found.normalised)
    if markdown:
        print_line(_line(headings))
        print_line(_line(["---"] * len(headings)))
        for row in rows:
            print_line(_line(row))
        return
    stages = " and ".join(found.stages)
    scale = "returns" if returns or not found.normalised else "scores"
    print_line(f"{found.family}, split {found.split}, {scale} at the end of stage {stages}")
    print_table(headings, rows)


def _table(found: "Comparison", *, returns: bool) -> tuple[list[str], list[list[str]]]:
    from causeway.cluster.report.findings import number

    rows = []
    for group in found.groups:
        values = group.returns if returns else group.scores
        cells = []
        for protocol in found.protocols:
            score = values.get(protocol)
            if score is None:
                cells.append("")
            elif returns:
                cells.append(number(score.as_summary()))
            else:
                width = "" if score.ci95 is None else f" ± {score.ci95:.2f}"
                cells.append(f"{score.mean:.2f}{width}")
        rows.append([str(group.label), ", ".join(map(str, group.seeds)), *cells])
    return [found.by.rpartition(".")[2].replace("_", " "), "seeds", *found.protocols], rows


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
