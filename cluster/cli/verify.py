"""`causeway verify`: whether every shard of a run was committed exactly once."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from causeway.cluster.cli.output import print_json, print_line

RunFolder = Annotated[Path, typer.Argument(help="The run's folder.")]


def verify(
    folder: RunFolder,
    clean: Annotated[bool, typer.Option("--clean", help="Delete what no commit knows.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compare a run's shards with its ledger, every file read; exit code 1 for any fault."""
    from causeway.cluster.launch import run_in
    from causeway.cluster.progress import ProgressView
    from causeway.cluster.verify import remove_orphans, verify_run

    config = run_in(folder)
    with ProgressView(f"verifying {folder}") as view:
        view.update(phase="reading", unit="shards")
        found = verify_run(
            config, folder, lambda done, total: view.update(completed=done, total=total)
        )
    removed = remove_orphans(found) if clean else 0
    if as_json:
        facts = {**asdict(found), "orphans": [str(path) for path in found.orphans]}
        print_json({**facts, "removed": removed})
    else:
        for fault in found.faults:
            print_line(fault)
        for path in found.orphans:
            print_line(f"not in the ledger{', removed' if clean else ''}: {path}")
        print_line(
            f"{found.committed} shards with {found.rows:,} rows committed once each, "
            f"{found.waiting} more wait for Redis, {found.labelled} are labelled; "
            f"{len(found.orphans)} files not in the ledger, {len(found.faults)} faults"
        )
    if found.faults:
        raise typer.Exit(1)
