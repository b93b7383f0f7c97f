"""How commands speak: results on standard output, complaints on standard error."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE = 160  # columns of a table that no terminal will show


def console() -> Console:
    """Standard output; made anew, so that it follows redirection."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", _WIDTH_OF_A_PIPE))
    return Console(width=width, highlight=False)


def print_line(text: str) -> None:
    """One line of a result, as it is: nothing in it is markup."""
    console().print(Text(text), soft_wrap=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of a result."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def print_json(value: Any) -> None:
    """A result for programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def complain(message: str) -> None:
    """One paragraph on standard error."""
    Console(stderr=True, highlight=False).print(
        Text.assemble(("causeway: ", "bold red"), message), soft_wrap=True
    )
