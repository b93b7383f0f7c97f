"""`python -m tests.benchmarks NAME`: runs a benchmark and tells which targets are met."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from tests.benchmarks.harness import (
    Options,
    Row,
    benchmarks,
    load,
    pin_threads,
    print_table,
    to_json,
)

TABLE_WIDTH = 130  # where it does not go to a terminal


def main(arguments: list[str] | None = None) -> int:
    """Gives the exit code: 0; 1 where a target is missed and --strict was given; 2 for misuse."""
    given = _parser().parse_args(arguments)
    if given.name == "list":
        for name, what in benchmarks().items():
            print(f"{name:16} {what}")
        return 0
    try:
        options = Options(scale=given.scale, threads=given.threads)
        pin_threads(options.threads)
        run = load(given.name)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    progress = Console(stderr=True)
    rows: list[Row] = []
    with progress.status(f"{given.name} ...") as status:
        for row in run(options):
            rows.append(row)
            status.update(f"{given.name}: {len(rows)} measured ...")
    result = json.dumps(to_json(given.name, rows), indent=1, allow_nan=False) + "\n"
    if given.json == "-":
        sys.stdout.write(result)
    else:
        width = None if sys.stdout.isatty() else TABLE_WIDTH
        print_table(given.name, rows, Console(width=width))
        if given.json is not None:
            Path(given.json).write_text(result, encoding="utf-8")
    return int(given.strict and any(row.verdict == "missed" for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("name", help="of the benchmark; `list` lists them")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="the result as JSON, not as a table"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the data, up to 1")
    parser.add_argument("--threads", type=int, default=1, help="of numerical libraries")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for a missed target")
    return parser


if __name__ == "__main__":
    sys.exit(main())
